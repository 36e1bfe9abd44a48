"""AlexNet's names: torchvision's."""

from jaxparc.weights import names
from jaxparc.weights.families import plain
from jaxparc.weights.family import Family, Layout, Path, flattened_map
from jaxparc.weights.translation import Metadata, State, Translated


def _pytorch(name: str, state: State, metadata: Metadata) -> Translated | None:
    return plain.translate("pytorch", "features.0.weight", state)


def _architecture_of(state: State) -> str | None:
    return "alexnet" if any("features.10.weight" in key for key in state) else None


def _layout(path: Path, shape: tuple[int, ...]) -> Layout | None:
    return flattened_map(shape, 6) if path[-2:] == ("fc1", "kernel") else None


FAMILY = Family(
    architectures=("alexnet",),
    rename=names.module_key,
    stem="conv1",
    schemes={"pytorch": _pytorch},
    architecture_of=_architecture_of,
    layout=_layout,
)
