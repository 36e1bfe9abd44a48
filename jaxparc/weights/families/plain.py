"""Names that a scheme keeps: torchvision's and timm's, after any prefix, such as DataParallel's."""

import re
from collections.abc import Mapping

from jaxparc.weights import prefixes
from jaxparc.weights.errors import WeightsError
from jaxparc.weights.translation import Metadata, Renames, Scheme, State, Translated, renamed


def translate(scheme: str, stem: str, state: State, rules: Renames = ()) -> Translated | None:
    """Return a state dict without the prefix of its names; None if no name ends in the stem's.

    Args:
        scheme: the name of the scheme.
        stem: the name of the first convolution's kernel, without a prefix.
        state: arrays by name.
        rules: substitutions in the names, after the prefix is removed.
    """
    stems = [
        key.removesuffix(stem) for key in state if re.search(rf"(^|\.){re.escape(stem)}$", key)
    ]
    if not stems:
        return None
    left_out = tuple(key for key in state if key.endswith("num_batches_tracked"))
    inside, beside = prefixes.split(prefixes.trained(stems), state, left_out)
    named = {renamed(key, rules): array for key, array in inside.items()}
    return Translated(scheme, named, left_out, beside=beside)


def told(schemes: Mapping[str, Scheme], needed: str, state: State) -> State | None:
    """Return a state dict in canonical names, by the first scheme that finds a needed array.

    Args:
        schemes: scheme -> its translation.
        needed: the canonical name of an array that every network of the family has.
        state: arrays by name.

    Returns:
        None if no scheme finds the array.
    """
    for translate in schemes.values():
        translated = translate("", state, {})
        if translated is not None and needed in translated.state:
            return translated.state
    return None


def check_activation(metadata: Metadata, expected: str) -> None:
    """Check the activation that transformers' config.json declares, if it does.

    Args:
        metadata: beside the weights.
        expected: the network's activation, as transformers calls it.

    Raises:
        WeightsError: it is another one.
    """
    found = metadata.get("hidden_act", expected)
    if found != expected:
        raise WeightsError(f"config.json sets hidden_act to {str(found)[:60]}; expected {expected}")
