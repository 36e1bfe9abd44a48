"""Networks other than ResNets: from other names and layouts to torchvision's."""

import re
from collections.abc import Mapping

from jaxparc.models.mobilenet import ARCHITECTURES
from jaxparc.weights import keras_names, prefixes, torchvision
from jaxparc.weights.keras_names import CAFFE_MEAN, CAFFE_STD
from jaxparc.weights.translation import Metadata, Scheme, State, Translated, Variant

# torchvision's name of the first convolution.
_STEMS: Mapping[str, str] = {
    "alexnet": "features.0.weight",
    "googlenet": "conv1.conv.weight",
    "squeezenet1_1": "features.0.weight",
    "mobilenet_v2": "features.0.0.weight",
} | dict.fromkeys([n for n in ARCHITECTURES if n.startswith("efficientnet")], "_conv_stem.weight")


def schemes(name: str) -> dict[str, Scheme]:
    """Return the schemes of an architecture that is not a ResNet, in the order of trying."""
    found: dict[str, Scheme] = {}
    if name in ARCHITECTURES:
        found["timm"] = lambda state, metadata: _timm(name, state, metadata)
    if name == "squeezenet1_1":
        found["keras"] = _keras_squeezenet
    if name == "mobilenet_v2":
        found["keras"] = keras_names.mobilenet_v2
    return found | {"pytorch": lambda state, metadata: _pytorch(name, state)}


def _pytorch(name: str, state: State) -> Translated | None:
    """Translate torchvision's names after any prefix, such as DataParallel's."""
    return _without_prefix("pytorch", _STEMS[name], state)


def _without_prefix(scheme: str, stem: str, state: State) -> Translated | None:
    stems = [
        key.removesuffix(stem) for key in state if re.search(rf"(^|\.){re.escape(stem)}$", key)
    ]
    if not stems:
        return None
    left_out = tuple(key for key in state if key.endswith("num_batches_tracked"))
    inside, beside = prefixes.split(prefixes.trained(stems), state, left_out)
    return Translated(scheme, inside, left_out, beside=beside)


_HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Weights that timm trained; those that it ported from TensorFlow have the same names.
_TRAINED_BY_TIMM = Variant({"eps": 1e-5, "same_padding": False}, IMAGENET_MEAN, IMAGENET_STD)


def _timm(name: str, state: State, metadata: Metadata) -> Translated | None:
    """Translate timm's names of MobileNetV2 and EfficientNet-Lite."""
    found = _without_prefix("timm", "conv_stem.weight", state)
    if found is None:
        return None
    kept = {}
    for key, array in found.state.items():
        module, _, leaf = key.rpartition(".")
        ours = _from_timm(name, module)
        kept[key if ours is None else f"{torchvision.module_key(name, ours)}.{leaf}"] = array
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


def _keras_squeezenet(state: State, metadata: Metadata) -> Translated | None:
    """Translate Caffe's names, with /0 for the kernel (in Keras's layout) and /1 for the bias."""
    if "fire2/squeeze1x1/0" not in state:
        return None
    kept = {}
    for key, array in state.items():
        layer, _, place = key.rpartition("/")
        module = "head" if layer == "conv10" else layer.replace("/", "_")
        leaf = {"0": "weight", "1": "bias"}.get(place)
        known = re.fullmatch(r"head|conv1|fire\d_(squeeze1x1|expand1x1|expand3x3)", module)
        if leaf is None or known is None:
            kept[key] = array
            continue
        ours = module.replace("squeeze1x1", "squeeze")
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        kept[f"{torchvision.module_key('squeezenet1_1', ours)}.{leaf}"] = array
    return Translated("keras", kept, (), {"": Variant(mean=CAFFE_MEAN, std=CAFFE_STD, bgr=True)})


def architecture_of(state: State) -> str | None:
    """Return the architecture of weights that are not a ResNet's; None if the names do not tell."""
    names = "\n".join(state)
    for mark, name in (
        ("inception3a.", "googlenet"),
        ("squeeze", "squeezenet1_1"),
        ("features.18.0.weight", "mobilenet_v2"),
        ("features.10.weight", "alexnet"),
        ("block_16_project", "mobilenet_v2"),
    ):
        if mark in names:
            return name
    stem, last = (
        next((a for k, a in state.items() if re.search(rf"(^|\._?|_){mark}\.weight$", k)), None)
        for mark in ("conv_stem", "conv_head")
    )
    if stem is None or last is None or not stem.ndim == last.ndim == 4 or not len(stem):
        return None
    if "_se_" in names or ".se." in names:
        return "an EfficientNet with squeeze-and-excitation"
    blocks = len(set(re.findall(r"blocks\.(\d+(?:\.\d+)?)\.", names)))
    for name, architecture in ARCHITECTURES.items():
        stages = architecture.stages
        widest = round(32 * last.shape[1] / len(stem))  # at width 1
        if (sum(s.blocks for s in stages), stages[-1].channels) == (blocks, widest):
            return name
    return f"a MobileNet of {blocks} blocks"
