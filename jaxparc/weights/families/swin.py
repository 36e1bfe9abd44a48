"""Swin transformers' names: timm's, the authors', torchvision's and Hugging Face's.

The canonical names are those of timm since 0.9; earlier ones are the authors'. What follows from
the size of windows and images (`relative_position_index`, `attn_mask`) is left out.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

from jaxparc.models.swin import ARCHITECTURES
from jaxparc.weights.families import plain
from jaxparc.weights.family import Family
from jaxparc.weights.translation import Metadata, Renames, Scheme, State, Translated, renamed

_OURS: Renames = (
    (r"^stem_conv$", "patch_embed.proj"),
    (r"^stem_norm$", "patch_embed.norm"),
    (r"^stage(\d)_merge", r"layers.\1.downsample"),
    (r"^stage(\d)_block(\d+)", r"layers.\1.blocks.\2"),
    (r"\.(fc[12])$", r".mlp.\1"),
    (r"^head$", "head.fc"),
)
# Neighbours are merged at the end of a stage, in timm at the beginning of the next.
_MERGED_AT_END: Renames = (
    (r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample."),
)
_AUTHORS: Renames = (*_MERGED_AT_END, (r"^head\.", "head.fc."))
_TORCHVISION: Renames = (
    (r"^features\.0\.0\.", "patch_embed.proj."),
    (r"^features\.0\.2\.", "patch_embed.norm."),
    (r"^features\.([246])\.", lambda m: f"layers.{int(m[1]) // 2}.downsample."),
    (r"^features\.([1357])\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"^head\.", "head.fc."),
)
_SEPARATE = ("query", "key", "value")  # in one array elsewhere
# Of files, and of the modules of transformers 5.
_HUGGINGFACE: Renames = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
    (r"^encoder\.", ""),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.(relative_position_bias\.)?", ".attn."),
    (r"\.attn\.([qkv])_proj\.", lambda m: f".attn.{_SEPARATE['qkv'.index(m[1])]}."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    *_MERGED_AT_END,
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head.fc."),
)
_BUFFERS = (r".*\brelative_position_index", r".*\battn_mask")
_TABLE = "layers.0.blocks.0.attn.relative_position_bias_table"


def _translate(scheme: str, stem: str, rules: Renames, state: State) -> Translated | None:
    buffers = tuple(k for k in state if any(re.fullmatch(p, k) for p in _BUFFERS))
    weights = {key: array for key, array in state.items() if key not in buffers}
    found = plain.translate(scheme, stem, weights, rules)
    return found and found._replace(left_out=(*buffers, *found.left_out))


def _timm(name: str, state: State, metadata: Metadata) -> Translated | None:
    if any(re.search(r"(^|\.)layers\.0\.downsample\.", key) for key in state):
        return None
    return _translate("timm", "patch_embed.proj.weight", (), state)


def _authors(name: str, state: State, metadata: Metadata) -> Translated | None:
    return _translate("microsoft", "patch_embed.proj.weight", _AUTHORS, state)


def _torchvision(name: str, state: State, metadata: Metadata) -> Translated | None:
    return _translate("torchvision", "features.0.0.weight", _TORCHVISION, state)


def _huggingface(name: str, state: State, metadata: Metadata) -> Translated | None:
    # the classifier is beside the backbone
    whole = {re.sub(r"(^|\.)swin\.", r"\1", key): array for key, array in state.items()}
    stem = "embeddings.patch_embeddings.projection.weight"
    found = _translate("huggingface", stem, _HUGGINGFACE, whole)
    return found and found._replace(state=_joined(found.state))


def _joined(state: State) -> dict[str, np.ndarray]:
    """Return a state dict with queries, keys and values in one array."""
    kept = dict(state)
    for key in state:
        parts = [key.replace(".attn.query.", f".attn.{part}.") for part in _SEPARATE]
        if ".attn.query." in key and all(part in kept for part in parts):
            arrays = [kept.pop(part) for part in parts]
            kept[key.replace(".attn.query.", ".attn.qkv.")] = np.concatenate(arrays)
    return kept


_SCHEMES: dict[str, Scheme] = {
    "timm": _timm,
    "microsoft": _authors,
    "torchvision": _torchvision,
    "huggingface": _huggingface,
}


def _window(table: np.ndarray | None) -> int | None:
    """Return the side of the windows that a table of biases is for; None if it has another shape.

    Args:
        table: ((2 side - 1)^2, heads).
    """
    if table is None or table.ndim != 2:
        return None
    side = math.isqrt(len(table))
    return (side + 1) // 2 if side % 2 and side**2 == len(table) else None


def _options(name: str, state: State) -> Mapping[str, int]:
    window = _window(state.get(_TABLE))
    return {} if window in (None, ARCHITECTURES[name].window) else {"window": window}


def _architecture_of(state: State) -> str | None:
    ours = plain.told(_SCHEMES, _TABLE, state)
    return None if ours is None else _by_blocks(ours)


def _by_blocks(state: State) -> str:
    """Return the architecture of a state dict in timm's names, by its blocks, heads and windows."""
    joined = "\n".join(state)
    counts = Counter(re.findall(r"^layers\.(\d)\.blocks\.\d+\.attn\.proj\.weight$", joined, re.M))
    blocks = tuple(counts[stage] for stage in "0123")
    table = state[_TABLE]
    heads, window = table.shape[-1] if table.ndim else 0, _window(table)
    alike = {
        name: architecture.heads
        for name, architecture in ARCHITECTURES.items()
        if (architecture.blocks, architecture.window) == (blocks, window)
    }
    # with other heads, it is a narrower or wider network of the first
    exact = (name for name, usual in alike.items() if usual == heads)
    other = f"a Swin transformer of {blocks} blocks, {heads} heads and windows of {window}"
    return next(exact, next(iter(alike), other))


FAMILY = Family(
    architectures=tuple(ARCHITECTURES),
    rename=lambda name, module: renamed(module, _OURS),
    stem="stem_conv",
    schemes=_SCHEMES,
    architecture_of=_architecture_of,
    options=_options,
    left_out=_BUFFERS,
)
