"""ConvNeXt's names: timm's, OpenCLIP's, torchvision's, Hugging Face's and those of the authors.

The canonical names are timm's.
"""

import re
from collections import Counter

import numpy as np

from jaxparc.models.convnext import ARCHITECTURES
from jaxparc.weights.families import plain
from jaxparc.weights.family import Family
from jaxparc.weights.translation import (
    Metadata,
    Renames,
    Scheme,
    State,
    Translated,
    Variant,
    renamed,
)

_OURS: Renames = (
    (r"^stem_conv$", "stem.0"),
    (r"^stem_norm$", "stem.1"),
    (r"^stage(\d)_norm$", r"stages.\1.downsample.0"),
    (r"^stage(\d)_conv$", r"stages.\1.downsample.1"),
    (r"^stage(\d)_block(\d+)", r"stages.\1.blocks.\2"),
    (r"\.depthwise_conv$", ".conv_dw"),
    (r"\.(fc1|fc2|grn)$", r".mlp.\1"),
    (r"^norm$", "head.norm"),
    (r"^head$", "head.fc"),
)
_TORCHVISION: Renames = (
    (r"^features\.0\.", "stem."),
    (r"^features\.([246])\.", lambda m: f"stages.{int(m[1]) // 2}.downsample."),
    (r"^features\.([1357])\.(\d+)\.", lambda m: f"stages.{int(m[1]) // 2}.blocks.{m[2]}."),
    (r"\.block\.0\.", ".conv_dw."),
    (r"\.block\.2\.", ".norm."),
    (r"\.block\.3\.", ".mlp.fc1."),
    (r"\.block\.5\.", ".mlp.fc2."),
    (r"\.layer_scale$", ".gamma"),
    (r"^classifier\.0\.", "head.norm."),
    (r"^classifier\.2\.", "head.fc."),
)
_HUGGINGFACE: Renames = (
    (r"^embeddings\.patch_embeddings\.", "stem.0."),
    (r"^embeddings\.layernorm\.", "stem.1."),
    (r"^encoder\.stages\.(\d)\.downsampling_layer\.", r"stages.\1.downsample."),
    (r"^encoder\.stages\.(\d)\.layers\.", r"stages.\1.blocks."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.layernorm\.", ".norm."),
    (r"\.pwconv", ".mlp.fc"),
    (r"\.grn\.", ".mlp.grn."),
    (r"\.layer_scale_parameter$", ".gamma"),
    (r"^layernorm\.", "head.norm."),
    (r"^classifier\.", "head.fc."),
)
_AUTHORS: Renames = (
    (r"^downsample_layers\.0\.", "stem."),
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", ".conv_dw."),
    (r"\.pwconv", ".mlp.fc"),
    (r"\.grn\.gamma$", ".mlp.grn.weight"),
    (r"\.grn\.beta$", ".mlp.grn.bias"),
    (r"^head\.", "head.fc."),
    (r"^norm\.", "head.norm."),
)

# Of CLIP's training, also of networks that timm fine-tuned from its weights.
_CLIP = Variant(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))
_IMAGENET = Variant(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def _translate(
    scheme: str, stem: str, rules: Renames, name: str, state: State
) -> Translated | None:
    found = plain.translate(scheme, stem, state, rules)
    if found is None:
        return None
    return found._replace(state={key: _shaped(name, key, a) for key, a in found.state.items()})


def _shaped(name: str, key: str, array: np.ndarray) -> np.ndarray:
    """Return an array without the axes of length 1 that timm's lacks, or with those that it has."""
    if re.search(r"\.(gamma|grn\.weight|grn\.bias)$", key):
        return array.reshape(-1) if array.size in array.shape else array
    if re.search(r"\.mlp\.fc[12]\.weight$", key):
        pointwise = name in ARCHITECTURES and ARCHITECTURES[name].pointwise
        if pointwise and array.ndim == 2:
            return array[..., None, None]
        if not pointwise and array.shape[2:] == (1, 1):
            return array[..., 0, 0]
    return array


def _openclip(name: str, state: State, metadata: Metadata) -> Translated | None:
    """Translate the names of an image tower, beside those of a text tower."""
    if not any(re.search(r"(^|\.)trunk\.stem\.0\.weight$", key) for key in state):
        return None
    found = _translate("openclip", "stem.0.weight", (), name, state)
    return found and found._replace(variants={"": _CLIP})


def _timm(name: str, state: State, metadata: Metadata) -> Translated | None:
    found = _translate("timm", "stem.0.weight", (), name, state)
    if found is None or name != "convnext_base" or "mean" in metadata:
        return found
    # the only network that timm has with both means and standard deviations
    return found._replace(variants={name: _IMAGENET, f"{name}.clip": _CLIP}, evident=None)


def _torchvision(name: str, state: State, metadata: Metadata) -> Translated | None:
    return _translate("torchvision", "features.0.0.weight", _TORCHVISION, name, state)


def _huggingface(name: str, state: State, metadata: Metadata) -> Translated | None:
    # the classifier is beside the backbone
    whole = {re.sub(r"(^|\.)convnext(v2)?\.", r"\1", key): array for key, array in state.items()}
    stem = "embeddings.patch_embeddings.weight"
    return _translate("huggingface", stem, _HUGGINGFACE, name, whole)


def _authors(name: str, state: State, metadata: Metadata) -> Translated | None:
    return _translate("facebook", "downsample_layers.0.0.weight", _AUTHORS, name, state)


_SCHEMES: dict[str, Scheme] = {
    "openclip": _openclip,
    "timm": _timm,
    "torchvision": _torchvision,
    "huggingface": _huggingface,
    "facebook": _authors,
}


def _architecture_of(state: State) -> str | None:
    ours = plain.told(_SCHEMES, "stages.0.blocks.0.conv_dw.weight", state)
    return None if ours is None else _by_blocks(ours)


def _by_blocks(state: State) -> str:
    """Return the architecture of a state dict in timm's names, by its blocks and channels."""
    joined = "\n".join(state)
    counts = Counter(re.findall(r"^stages\.(\d)\.blocks\.\d+\.conv_dw\.weight$", joined, re.M))
    blocks = tuple(counts[stage] for stage in "0123")
    channels = len(np.atleast_1d(state["stages.0.blocks.0.conv_dw.weight"]))
    v2 = ".mlp.grn." in joined
    kind = f"ConvNeXt{' V2' if v2 else ''} of {blocks} blocks and {channels} channels"
    if "norm_pre." in joined or "head.pre_logits." in joined:
        return f"a {kind} with another head"
    alike = {
        name: architecture.channels
        for name, architecture in ARCHITECTURES.items()
        if (architecture.blocks, architecture.v2) == (blocks, v2)
    }
    # with other channels, it is a narrower or wider network of the first
    exact = (name for name, usual in alike.items() if usual == channels)
    return next(exact, next(iter(alike), f"a {kind}"))


FAMILY = Family(
    architectures=tuple(ARCHITECTURES),
    rename=lambda name, module: renamed(module, _OURS),
    stem="stem_conv",
    schemes=_SCHEMES,
    architecture_of=_architecture_of,
)
