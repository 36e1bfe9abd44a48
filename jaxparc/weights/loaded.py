"""What loading a weight file gives."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxparc.models import ModelSpec


class Loaded(NamedTuple):
    """A network with weights from a file.

    Attributes:
        spec: the architecture, with the preprocessing and the variant that the weights need.
        module: the Flax module, with the weights' number of classes; 0 if they have no head.
        variables: "params" and, except for AlexNet and SqueezeNet, "batch_stats", float32.
        scheme: the naming scheme of the file; "jaxparc" for files that this library wrote.
        left_out: names in the file that are not of the network, on purpose.
        notes: choices that were made where the file allows more than one reading.
    """

    spec: ModelSpec
    module: Any  # flax.linen.Module
    variables: Mapping[str, Any]
    scheme: str
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()
