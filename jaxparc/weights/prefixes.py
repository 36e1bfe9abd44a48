"""Which arrays of a file are the network's, by the prefix of their names."""

import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from jaxparc.weights.errors import WeightsError

# Momentum encoders and targets of self-supervised training, beside the trained network.
_MOMENTUM = re.compile(
    r"(^|[._])(encoder_k|key_encoder|momentum|target)([._]|$)|(^|[._])(momentum|target)_"
)

# Segmentation decoders, whose backbone has dilations in place of strides.
_DECODER = re.compile(
    r"(^|[._])(aux_classifier|decode_head|auxiliary_head|a?spp\d?)[._]|(^|\.)\d+\.convs\.|atrous|dilat"
)


def trained(prefixes: Iterable[str]) -> str:
    """Return the prefix of the trained network, from those of all networks in a file.

    Raises:
        WeightsError: several networks could be the trained one.
    """
    every = sorted(set(prefixes))
    found = [prefix for prefix in every if not _MOMENTUM.search(prefix)] or every
    if len(found) > 1:
        shown = ", ".join(repr(prefix) for prefix in found[:6])
        raise WeightsError(
            f"the file holds {len(found)} networks, with the prefixes {shown}; choose one with "
            "weights_key"
        )
    return found[0]


def split(
    prefix: str, state: Mapping[str, np.ndarray], left_out: Collection[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Split a state dict into the arrays under a prefix, which is removed, and all others.

    Args:
        prefix: of the network.
        state: arrays by name.
        left_out: names that go into neither.

    Raises:
        WeightsError: the others are of a decoder whose backbone is dilated.
    """
    rest = {key: array for key, array in state.items() if key not in left_out}
    outside = {key: array for key, array in state.items() if not key.startswith(prefix)}
    inside = {k.removeprefix(prefix): a for k, a in rest.items() if k.startswith(prefix)}
    beside = {k: a for k, a in rest.items() if not k.startswith(prefix)}
    if dilated := next((key for key in outside if _is_dilated(key, outside[key])), None):
        raise WeightsError(
            f"{dilated} is of a segmentation network, whose backbone has dilations in place of "
            "strides, which no network here has; if this backbone has strides, ignore that name"
        )
    return inside, beside


def _is_dilated(key: str, array: np.ndarray) -> bool:
    """Return whether an array is of a decoder over a dilated backbone.

    Its name tells, or, of FCN's decoder, the shape of the classifier's first convolution.
    """
    fcn = re.search(r"(^|\.)classifier\.0\.weight$", key) and array.ndim == 4
    return bool(_DECODER.search(key) or (fcn and array.shape[2:] == (3, 3)))
