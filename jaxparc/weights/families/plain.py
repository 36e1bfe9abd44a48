"""Names that a scheme keeps: torchvision's and timm's, after any prefix, such as DataParallel's."""

import re

from jaxparc.weights import prefixes
from jaxparc.weights.translation import State, Translated


def translate(scheme: str, stem: str, state: State) -> Translated | None:
    """Return a state dict without the prefix of its names; None if no name ends in the stem's.

    Args:
        scheme: the name of the scheme.
        stem: the name of the first convolution's kernel, without a prefix.
        state: arrays by name.
    """
    stems = [
        key.removesuffix(stem) for key in state if re.search(rf"(^|\.){re.escape(stem)}$", key)
    ]
    if not stems:
        return None
    left_out = tuple(key for key in state if key.endswith("num_batches_tracked"))
    inside, beside = prefixes.split(prefixes.trained(stems), state, left_out)
    return Translated(scheme, inside, left_out, beside=beside)
