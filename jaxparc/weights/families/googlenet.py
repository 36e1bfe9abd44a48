"""GoogLeNet's names: torchvision's.

torchvision's published weights were trained on images in [-1, 1], to which its wrapper converts
(`transform_input`). That cannot be folded into the first convolution, whose zero padding would
shift, so those weights need mean = std = 0.5 in place of the `ModelSpec`'s.
"""

from jaxparc.weights import names
from jaxparc.weights.families import plain
from jaxparc.weights.family import COUNTER, Family
from jaxparc.weights.translation import Metadata, State, Translated


def _pytorch(name: str, state: State, metadata: Metadata) -> Translated | None:
    return plain.translate("pytorch", "conv1.conv.weight", state)


def _architecture_of(state: State) -> str | None:
    return "googlenet" if any("inception3a." in key for key in state) else None


FAMILY = Family(
    architectures=("googlenet",),
    rename=names.module_key,
    stem="conv1.conv",
    schemes={"pytorch": _pytorch},
    architecture_of=_architecture_of,
    left_out=(COUNTER, r"aux[12]\..*"),  # auxiliary classifiers
)
