"""DenseNets' names: torchvision's, of all its releases, which are timm's."""

import re
from collections import Counter

from jaxparc.models.densenet import ARCHITECTURES
from jaxparc.weights.families import plain
from jaxparc.weights.family import Family
from jaxparc.weights.translation import Metadata, Renames, State, Translated, renamed

_RENAMES: Renames = (
    (r"^head$", "classifier"),
    (r"^stem_conv$", "features.conv0"),
    (r"^stem_bn$", "features.norm0"),
    (r"^last_bn$", "features.norm5"),
    (r"^block(\d)_layer(\d+)", lambda m: f"features.denseblock{m[1]}.denselayer{int(m[2]) + 1}"),
    (r"^(transition\d)_", r"features.\1."),
    (r"\.bn", ".norm"),
)
# The files that torchvision publishes have the names of its first releases.
_OLDER: Renames = ((r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),)


def _rename(architecture: str, module: str) -> str:
    return renamed(module, _RENAMES)


def _pytorch(name: str, state: State, metadata: Metadata) -> Translated | None:
    found = plain.translate("pytorch", "features.conv0.weight", state)
    if found is None:
        return None
    return found._replace(state={renamed(key, _OLDER): a for key, a in found.state.items()})


def _architecture_of(state: State) -> str | None:
    joined = "\n".join(state)
    layers = set(re.findall(r"denseblock(\d+)\.denselayer(\d+)\.", joined))
    if not layers:
        return None
    if "features.conv1.weight" in joined:
        return "a DenseNet with several convolutions in its stem"
    counts = Counter(block for block, _ in layers)
    first, second, third, fourth = (counts[block] for block in "1234")
    blocks = first, second, third, fourth
    known = {architecture.blocks: name for name, architecture in ARCHITECTURES.items()}
    return known.get(blocks, f"a DenseNet of {blocks} layers")


FAMILY = Family(
    architectures=tuple(ARCHITECTURES),
    rename=_rename,
    stem="stem_conv",
    schemes={"pytorch": _pytorch},
    architecture_of=_architecture_of,
)
