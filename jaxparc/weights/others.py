"""Weights of the networks that are no ResNets, as others than torchvision name and lay them out."""

import re
from collections.abc import Callable, Mapping

from jaxparc.models.mobilenet import ARCHITECTURES
from jaxparc.weights import torchvision
from jaxparc.weights.resnets import CAFFE_MEAN, CAFFE_STD
from jaxparc.weights.torchvision import State, Translated

# torchvision's name of the first convolution.
_STEMS: Mapping[str, str] = {
    "alexnet": "features.0.weight",
    "googlenet": "conv1.conv.weight",
    "squeezenet1_1": "features.0.weight",
    "mobilenet_v2": "features.0.0.weight",
} | dict.fromkeys([n for n in ARCHITECTURES if n.startswith("efficientnet")], "_conv_stem.weight")


def schemes(name: str) -> dict[str, Callable[[State], Translated | None]]:
    """The schemes that weights of an architecture, no ResNet, may have."""
    found: dict[str, Callable[[State], Translated | None]] = {}
    if name in ARCHITECTURES:
        found["timm"] = lambda state: _timm(name, state)
    if name == "squeezenet1_1":
        found["keras"] = _keras_squeezenet
    return found | {"pytorch": lambda state: _pytorch(name, state)}


def _pytorch(name: str, state: State) -> Translated | None:
    """Torchvision's names behind any prefix, such as DataParallel's."""
    return _behind_a_prefix("pytorch", _STEMS[name], state)


def _behind_a_prefix(scheme: str, stem: str, state: State) -> Translated | None:
    prefixes = [
        key.removesuffix(stem) for key in state if re.search(rf"(^|\.){re.escape(stem)}$", key)
    ]
    if not prefixes:
        return None
    prefix = min(prefixes, key=len)
    left_out = tuple(key for key in state if key.endswith("num_batches_tracked"))
    kept = {key.removeprefix(prefix): a for key, a in state.items() if key not in left_out}
    return Translated(scheme, kept, left_out)


def _timm(name: str, state: State) -> Translated | None:
    """Timm's names of MobileNetV2 and of EfficientNet-Lite."""
    found = _behind_a_prefix("timm", "conv_stem.weight", state)
    if found is None:
        return None
    kept = {}
    for key, array in found.state.items():
        module, _, leaf = key.rpartition(".")
        ours = _from_timm(name, module)
        kept[key if ours is None else f"{torchvision.module_key(name, ours)}.{leaf}"] = array
    half = None if name == "mobilenet_v2" else (0.5, 0.5, 0.5)
    return found._replace(state=kept, mean=half, std=half)


_TIMM = {
    "conv_stem": "stem_conv",
    "bn1": "stem_bn",
    "conv_head": "last_conv",
    "bn2": "last_bn",
    "classifier": "head",
}
# timm counts a block's layers; the first stage's blocks have no expansion.
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
    """Our path, joined by dots, of a module of timm's; None if it has no counterpart."""
    if (found := re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)", module)) is None:
        return _TIMM.get(module)
    stages = ARCHITECTURES[name].stages
    stage, block = int(found[1]), int(found[2])
    if stage >= len(stages) or block >= stages[stage].blocks:
        return None
    layers = _TIMM_PLAIN if stages[stage].expansion == 1 else _TIMM_EXPANDED
    before = sum(s.blocks for s in stages[:stage])
    return f"block{before + block}.{layers[found[3]]}" if found[3] in layers else None


def _keras_squeezenet(state: State) -> Translated | None:
    """Caffe's layers in Keras's layout: a kernel and a bias by the layer's name and a number."""
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
    stem = torchvision.module_key("squeezenet1_1", "conv1") + ".weight"
    if stem in kept:
        kept[stem] = kept[stem][:, ::-1]
    return Translated("keras", kept, (), mean=CAFFE_MEAN, std=CAFFE_STD)


def looks_like(state: State) -> str | None:
    """The architecture that weights are of, by their names, if it is one of these."""
    names = "\n".join(state)
    for mark, name in (
        ("inception3a.", "googlenet"),
        ("squeeze", "squeezenet1_1"),
        ("features.18.0.weight", "mobilenet_v2"),
        ("features.10.weight", "alexnet"),
    ):
        if mark in names:
            return name
    found = [
        next((a for k, a in state.items() if re.search(rf"(^|\._?|_){mark}\.weight$", k)), None)
        for mark in ("conv_stem", "conv_head")
    ]
    if any(array is None or array.ndim != 4 for array in found):
        return None
    if "_se_" in names or ".se." in names:
        return "an EfficientNet with squeeze-and-excitation"
    stem, last = (array.shape for array in found if array is not None)
    blocks = len(set(re.findall(r"blocks\.(\d+(?:\.\d+)?)\.", names)))
    for name, architecture in ARCHITECTURES.items():
        stages = architecture.stages
        widest = round(32 * last[1] / stem[0])  # at width 1
        if (sum(s.blocks for s in stages), stages[-1].channels) == (blocks, widest):
            return name
    return f"a MobileNet of {blocks} blocks"
