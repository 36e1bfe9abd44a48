"""MobileNetV2's and EfficientNet-Lite's names: torchvision's, timm's and Keras's."""

import re

from jaxparc.models.mobilenet import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD
from jaxparc.weights import keras_names, names
from jaxparc.weights.families import plain
from jaxparc.weights.family import Family
from jaxparc.weights.translation import Metadata, State, Translated, Variant


def _pytorch(name: str, state: State, metadata: Metadata) -> Translated | None:
    """Translate torchvision's names, or efficientnet_lite_pytorch's."""
    return plain.translate("pytorch", f"{names.module_key(name, 'stem_conv')}.weight", state)


def _keras(name: str, state: State, metadata: Metadata) -> Translated | None:
    return keras_names.mobilenet_v2(state, metadata) if name == "mobilenet_v2" else None


# Those with squeeze-and-excitation are a family of their own.
_NETWORKS = {name: a for name, a in ARCHITECTURES.items() if a.squeeze is None}
_HALF = (0.5, 0.5, 0.5)
# Weights that timm trained; those that it ported from TensorFlow have the same names.
_TRAINED_BY_TIMM = Variant({"eps": 1e-5, "same_padding": False}, IMAGENET_MEAN, IMAGENET_STD)


def _timm(name: str, state: State, metadata: Metadata) -> Translated | None:
    """Translate timm's names of MobileNetV2 and EfficientNet-Lite."""
    found = plain.translate("timm", "conv_stem.weight", state)
    if found is None:
        return None
    kept = {}
    for key, array in found.state.items():
        module, _, leaf = key.rpartition(".")
        ours = _from_timm(name, module)
        kept[key if ours is None else f"{names.module_key(name, ours)}.{leaf}"] = array
    found = found._replace(state=kept)
    if name == "mobilenet_v2":
        return found
    declared = metadata.get("config", metadata.get("arch"))
    variants = {name: _TRAINED_BY_TIMM, f"tf_{name}": Variant(mean=_HALF, std=_HALF)}
    return found._replace(variants=variants, evident=declared if declared in variants else None)


_TIMM = {
    "conv_stem": "stem_conv",
    "bn1": "stem_bn",
    "conv_head": "last_conv",
    "bn2": "last_bn",
    "classifier": "head",
}
# timm numbers the layers of a block; blocks of the first stage have no expansion.
_TIMM_EXPANDED = {
    "conv_pw": "expand_conv",
    "bn1": "expand_bn",
    "conv_dw": "depthwise_conv",
    "bn2": "depthwise_bn",
    "conv_pwl": "project_conv",
    "bn3": "project_bn",
}
_TIMM_PLAIN = {
    "conv_dw": "depthwise_conv",
    "bn1": "depthwise_bn",
    "conv_pw": "project_conv",
    "bn2": "project_bn",
}


def _from_timm(name: str, module: str) -> str | None:
    """Return our path, joined by dots, of a module of timm; None if there is no counterpart."""
    if (found := re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)", module)) is None:
        return _TIMM.get(module)
    stages = ARCHITECTURES[name].stages
    stage, block = int(found[1]), int(found[2])
    if stage >= len(stages) or block >= stages[stage].blocks:
        return None
    layers = _TIMM_PLAIN if stages[stage].expansion == 1 else _TIMM_EXPANDED
    before = sum(s.blocks for s in stages[:stage])
    return f"block{before + block}.{layers[found[3]]}" if found[3] in layers else None


def _architecture_of(state: State) -> str | None:
    """Return the architecture of weights; None if the names do not tell."""
    joined = "\n".join(state)
    if "features.18.0.weight" in joined or "block_16_project" in joined:
        return "mobilenet_v2"
    stem, last = (
        next((a for k, a in state.items() if re.search(rf"(^|\._?|_){mark}\.weight$", k)), None)
        for mark in ("conv_stem", "conv_head")
    )
    if stem is None or last is None or not stem.ndim == last.ndim == 4 or not len(stem):
        return None
    blocks = len(set(re.findall(r"blocks\.(\d+(?:\.\d+)?)\.", joined)))
    for name, architecture in _NETWORKS.items():
        stages = architecture.stages
        widest = round(32 * last.shape[1] / len(stem))  # at width 1
        if (sum(s.blocks for s in stages), stages[-1].channels) == (blocks, widest):
            return name
    return f"a MobileNet of {blocks} blocks"


FAMILY = Family(
    architectures=tuple(_NETWORKS),
    rename=names.module_key,
    stem="stem_conv",
    schemes={"timm": _timm, "keras": _keras, "pytorch": _pytorch},
    architecture_of=_architecture_of,
)
