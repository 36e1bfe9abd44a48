"""Which of a file's arrays are the network's, by what their names begin with."""

import re
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from jaxparc.weights import WeightsError

# Other networks, of self-supervised training, that lead to the one that was trained.
_SECOND = re.compile(
    r"(^|[._])(encoder_k|key_encoder|momentum|target)([._]|$)|(^|[._])(momentum|target)_"
)

# Networks that decode, over a backbone whose strides have become dilations.
_DILATED = re.compile(
    r"(^|[._])(aux_classifier|decode_head|auxiliary_head|a?spp\d?)[._]|(^|\.)\d+\.convs\.|atrous|dilat"
)


def network(stems: Iterable[str]) -> str:
    """What the names of the network begin with, of those of all networks in a file.

    Raises:
        WeightsError: there are several, and none of them is clearly the one.
    """
    prefixes = sorted(set(stems))
    firsts = [prefix for prefix in prefixes if not _SECOND.search(prefix)] or prefixes
    if len(firsts) > 1:
        shown = ", ".join(repr(prefix) for prefix in firsts[:6])
        raise WeightsError(
            f"it holds {len(firsts)} networks, whose names begin with {shown}; weights_key chooses"
        )
    return firsts[0]


def apart(
    prefix: str, state: Mapping[str, np.ndarray], left_out: Collection[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The arrays under a prefix, which goes, and those that are not.

    Raises:
        WeightsError: the others are of a network that dilates its backbone.
    """
    rest = {key: array for key, array in state.items() if key not in left_out}
    outside = {key: array for key, array in state.items() if not key.startswith(prefix)}
    inside = {k.removeprefix(prefix): a for k, a in rest.items() if k.startswith(prefix)}
    beside = {k: a for k, a in rest.items() if not k.startswith(prefix)}
    if dilated := next((key for key in outside if _is_dilated(key, outside[key])), None):
        raise WeightsError(
            f"{dilated} is of a segmentation network, whose backbone has dilations for strides, as "
            "no network here has; ignore leaves it out if its backbone has strides"
        )
    return inside, beside


def _is_dilated(key: str, array: np.ndarray) -> bool:
    """Whether an array outside of the backbone is of a decoder over dilations: by its name, or as
    FCN's, whose first convolution is the classifier's.
    """
    fcn = re.search(r"(^|\.)classifier\.0\.weight$", key) and array.ndim == 4
    return bool(_DILATED.search(key) or (fcn and array.shape[2:] == (3, 3)))
