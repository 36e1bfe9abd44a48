"""RegNetY's names: timm's, torchvision's and Hugging Face's.

The canonical names are timm's.
"""

import re
from collections import Counter

import numpy as np

from jaxparc.models.regnet import ARCHITECTURES
from jaxparc.weights.families import plain
from jaxparc.weights.family import COUNTER, Family
from jaxparc.weights.translation import Metadata, Renames, Scheme, State, Translated, renamed

_OURS: Renames = (
    (r"^stage(\d)_block(\d+)", lambda m: f"s{m[1]}.b{int(m[2]) + 1}"),
    (r"\.bn(\d)$", r".conv\1.bn"),
    (r"\.(conv\d)$", r".\1.conv"),
    (r"(^|\.)(stem|downsample)_(conv|bn)$", r"\1\2.\3"),
    (r"^head$", "head.fc"),
)
_TORCHVISION: Renames = (
    (r"^trunk_output\.block(\d)\.block\d-(\d+)\.", lambda m: f"s{m[1]}.b{int(m[2]) + 1}."),
    (r"\.f\.se\.", ".se."),
    (r"\.f\.([abc])\.", lambda m: f".conv{'abc'.index(m[1]) + 1}."),
    (r"\.proj\.", ".downsample."),
    (r"(^stem|\.conv\d|\.downsample)\.0\.", r"\1.conv."),
    (r"(^stem|\.conv\d|\.downsample)\.1\.", r"\1.bn."),
    (r"^fc\.", "head.fc."),
)
_HUGGINGFACE: Renames = (
    (r"^embedder\.embedder\.", "stem."),
    (r"^encoder\.stages\.(\d)\.layers\.(\d+)\.", lambda m: f"s{int(m[1]) + 1}.b{int(m[2]) + 1}."),
    (r"\.layer\.2\.attention\.([02])\.", lambda m: f".se.fc{int(m[1]) // 2 + 1}."),
    (r"\.layer\.([01])\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.layer\.3\.", ".conv3."),
    (r"\.shortcut\.", ".downsample."),
    (r"\.convolution\.", ".conv."),
    (r"\.normalization\.", ".bn."),
    (r"^classifier\.1\.", "head.fc."),
)


def _timm(name: str, state: State, metadata: Metadata) -> Translated | None:
    return plain.translate("timm", "stem.conv.weight", state)


def _torchvision(name: str, state: State, metadata: Metadata) -> Translated | None:
    return plain.translate("torchvision", "stem.0.weight", state, _TORCHVISION)


def _huggingface(name: str, state: State, metadata: Metadata) -> Translated | None:
    plain.check_activation(metadata, "relu")
    left_out = tuple(key for key in state if re.fullmatch(COUNTER, key))
    # the classifier is beside the backbone
    whole = {
        re.sub(r"(^|\.)regnet\.", r"\1", key): array
        for key, array in state.items()
        if key not in left_out
    }
    stem = "embedder.embedder.convolution.weight"
    found = plain.translate("huggingface", stem, whole, _HUGGINGFACE)
    return found and found._replace(left_out=left_out)


_SCHEMES: dict[str, Scheme] = {
    "timm": _timm,
    "torchvision": _torchvision,
    "huggingface": _huggingface,
}


def _architecture_of(state: State) -> str | None:
    ours = plain.told(_SCHEMES, "s1.b1.conv1.conv.weight", state)
    return None if ours is None else _by_blocks(ours)


def _by_blocks(state: State) -> str:
    """Return the architecture of a state dict in timm's names, by its blocks and channels."""
    joined = "\n".join(state)
    counts = Counter(re.findall(r"^s(\d)\.b\d+\.conv1\.conv\.weight$", joined, re.M))
    blocks = tuple(counts[stage] for stage in "1234")
    if ".se.fc1." not in joined:
        return f"a RegNet of {blocks} blocks without squeeze-and-excitation"
    last = (state.get(f"s{stage}.b1.conv3.bn.weight", np.ones(1)) for stage in "1234")
    channels = np.array([max(array.size, 1) for array in last])

    def distance(name: str) -> float:
        """Return how much wider this network is in some stages than in others."""
        return float(np.ptp(np.log(channels / ARCHITECTURES[name].channels)))

    alike = (name for name, architecture in ARCHITECTURES.items() if architecture.blocks == blocks)
    return min(alike, key=distance, default=f"a RegNet of {blocks} blocks")


FAMILY = Family(
    architectures=tuple(ARCHITECTURES),
    rename=lambda name, module: renamed(module, _OURS),
    stem="stem_conv",
    schemes=_SCHEMES,
    architecture_of=_architecture_of,
)
