"""VGGs' names: torchvision's, and timm's, whose fully connected layers are convolutions."""

import re

from jaxparc.models.vgg import ARCHITECTURES, SIDE
from jaxparc.weights.families import plain
from jaxparc.weights.family import Family, Layout, Path, flattened_map
from jaxparc.weights.translation import Metadata, Renames, State, Translated, renamed

# torchvision's list of fully connected layers also counts relus and dropouts.
_LINEAR = {"fc1": "classifier.0", "fc2": "classifier.3", "head": "classifier.6"}
_TIMM: Renames = (
    (r"^pre_logits\.(fc\d)\.", lambda m: f"{_LINEAR.get(m[1], m[1])}."),
    (r"^head\.fc\.", f"{_LINEAR['head']}."),
)


def _rename(architecture: str, module: str) -> str:
    if (match := re.fullmatch(r"(conv|bn)(\d)_(\d)", module)) is None:
        return _LINEAR[module]
    return f"features.{_index(architecture, int(match[2]), int(match[3])) + (match[1] == 'bn')}"


def _index(architecture: str, stage: int, place: int) -> int:
    """Return the place of a convolution in torchvision's list, which also counts all others.

    Args:
        architecture: its name.
        stage: from 1.
        place: in the stage, from 1.
    """
    stages, batch_norm = ARCHITECTURES[architecture]
    before = sum(stages[: stage - 1]) + place - 1
    return before * (3 if batch_norm else 2) + stage - 1  # with its relu, and max pools


_CONVOLUTIONS = {
    name: {
        _index(name, stage, place)
        for stage, convolutions in enumerate(architecture.stages, start=1)
        for place in range(1, convolutions + 1)
    }
    for name, architecture in ARCHITECTURES.items()
}


def _timm(name: str, state: State, metadata: Metadata) -> Translated | None:
    found = _pytorch(name, state, metadata)
    if found is None or "pre_logits.fc1.weight" not in found.state:
        return None
    kept = {
        renamed(key, _TIMM): array.reshape(len(array), -1)
        if key.startswith("pre_logits.") and array.ndim == 4
        else array
        for key, array in found.state.items()
    }
    return found._replace(scheme="timm", state=kept)


def _pytorch(name: str, state: State, metadata: Metadata) -> Translated | None:
    return plain.translate("pytorch", "features.0.weight", state)


def _architecture_of(state: State) -> str | None:
    found = {
        int(match[2])
        for key, array in state.items()
        if array.ndim == 4 and (match := re.search(r"(^|\.)features\.(\d+)\.weight$", key))
    }
    return next((name for name, places in _CONVOLUTIONS.items() if places == found), None)


def _layout(path: Path, shape: tuple[int, ...]) -> Layout | None:
    return flattened_map(shape, SIDE) if path[-2:] == ("fc1", "kernel") else None


FAMILY = Family(
    architectures=tuple(ARCHITECTURES),
    rename=_rename,
    stem="conv1_1",
    schemes={"timm": _timm, "pytorch": _pytorch},
    architecture_of=_architecture_of,
    layout=_layout,
)
