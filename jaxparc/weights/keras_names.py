"""keras-applications' networks: from Keras's names and layouts to torchvision's."""

import re
from collections.abc import Callable, Mapping

import numpy as np

from jaxparc.weights.errors import WeightsError
from jaxparc.weights.names import module_key
from jaxparc.weights.translation import Metadata, State, Translated, Variant

# Caffe's preprocessing: BGR images in [0, 255] less their mean, not divided.
CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)
_HALF = (0.5, 0.5, 0.5)

_LEAVES = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_HEADS = ("fc1000", "predictions", "probs", "Logits")


def resnet50(state: State, metadata: Metadata) -> Translated | None:
    """Translate ResNet-50 v1, whose convolutions have biases: they are folded into the means."""
    short = _short(state)
    old = "conv1/kernel" in short
    if not old and "conv1_conv/kernel" not in short:
        return None
    _check_once(short)
    kept, left_out = _renamed(state, short, _old_resnet if old else _new_resnet, "fc")
    # eps: the default of Keras, and that of the newer networks; ours is 1e-5.
    more = np.float32((1e-3 if old else 1.001e-5) - 1e-5)
    for key in [k for k in kept if k.endswith("running_var")]:
        kept[key] = kept[key] + more
        norm = key.removesuffix(".running_var")
        conv = re.sub(r"bn(\d)$", r"conv\1", norm).replace("downsample.1", "downsample.0")
        mean = f"{norm}.running_mean"
        if mean in kept and (bias := kept.pop(f"{conv}.bias", None)) is not None:
            kept[mean] = kept[mean] - bias
    images = Variant({"stride_in_1x1": True}, CAFFE_MEAN, CAFFE_STD, bgr=True)
    return Translated("keras", kept, left_out, {"": images}, notes=_on_heads(left_out))


def mobilenet_v2(state: State, metadata: Metadata) -> Translated | None:
    """Translate MobileNetV2, which is padded as in TensorFlow."""
    short = _short(state)
    if "Conv1/kernel" not in short or "expanded_conv_project/kernel" not in short:
        return None
    _check_once(short)
    head = module_key("mobilenet_v2", "head")
    kept, left_out = _renamed(state, short, _mobilenet, head)
    images = Variant({"eps": 1e-3, "same_padding": True}, _HALF, _HALF)
    return Translated("keras", kept, left_out, {"": images}, notes=_on_heads(left_out))


def _short(state: State) -> dict[str, list[str]]:
    """Return "layer/weight" -> the full names in the file that end in it.

    HDF5 files have the names of the layer and of the model before it, and ":0" after it.
    """
    short: dict[str, list[str]] = {}
    for key in state:
        name = re.sub(r":0$", "", "/".join(key.split("/")[-2:]))
        short.setdefault(name, []).append(key)
    return short


def _check_once(short: Mapping[str, list[str]]) -> None:
    """Check that every "layer/weight" is unique.

    Raises:
        WeightsError: the file holds several networks.
    """
    for name, keys in short.items():
        if len(keys) > 1:
            where = ", ".join(sorted(keys)[:4])
            raise WeightsError(
                f"the file holds several networks: {name} is in {where}; choose one by its prefix, "
                "with weights_key"
            )


def _renamed(
    state: State, short: Mapping[str, list[str]], place_of: Callable[[str], str | None], head: str
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the arrays by torchvision's names, and the names of heads that are left out.

    A linear layer is the head if it has a head's name, or if it is the only one and its input is
    the average of the last map, which is the widest.
    """
    norms = (state[key] for name, (key,) in short.items() if name.endswith("/moving_mean"))
    widest = max((array.size for array in norms), default=0)
    dense = {
        name.rpartition("/")[0]
        for name, (key,) in short.items()
        if name.endswith("/kernel") and state[key].ndim == 2
    }
    heads = [layer for layer in dense if layer in _HEADS] or [*dense]
    if heads and len(state[short[f"{heads[0]}/kernel"][0]]) != widest and heads[0] not in _HEADS:
        heads = []
    kept: dict[str, np.ndarray] = {}
    left_out = []
    for name, (key,) in short.items():
        layer, _, leaf = name.rpartition("/")
        place = head if [layer] == heads else place_of(layer)
        if layer in dense and place != head:
            left_out.append(key)
        elif leaf not in _LEAVES or place is None:
            kept[key] = state[key]
        else:
            depthwise = leaf == "depthwise_kernel" or "depthwise" in layer
            kept[f"{place}.{_LEAVES[leaf]}"] = _laid_out(leaf, state[key], depthwise)
    return kept, tuple(left_out)


def _on_heads(left_out: tuple[str, ...]) -> tuple[str, ...]:
    """Return a note if the head is left out, and with it the class probabilities."""
    layers = sorted({key.split("/")[-2] for key in left_out if "/" in key})
    return (
        (f"the head ({', '.join(layers)}) is left out; the model has no probs",) if layers else ()
    )


def _laid_out(leaf: str, array: np.ndarray, depthwise: bool) -> np.ndarray:
    """Convert a weight from Keras's layout to PyTorch's."""
    if not leaf.endswith("kernel"):
        return array
    if array.ndim != 4:
        return array.T
    return array.transpose(2, 3, 0, 1) if depthwise else array.transpose(3, 2, 0, 1)


def _old_resnet(layer: str) -> str | None:
    if layer in ("conv1", "bn_conv1"):
        return {"conv1": "conv1", "bn_conv1": "bn1"}[layer]
    if (m := re.fullmatch(r"(res|bn)([2-5])([a-z])_branch(1|2[abc])", layer)) is None:
        return None
    number = 0 if m[4] == "1" else "abc".index(m[4][1]) + 1
    return block(int(m[2]) - 1, ord(m[3]) - ord("a"), number, norm=m[1] == "bn")


def _new_resnet(layer: str) -> str | None:
    if layer in ("conv1_conv", "conv1_bn"):
        return {"conv1_conv": "conv1", "conv1_bn": "bn1"}[layer]
    if (m := re.fullmatch(r"conv([2-5])_block(\d{1,2})_([0-3])_(conv|bn)", layer)) is None:
        return None
    return block(int(m[1]) - 1, int(m[2]) - 1, int(m[3]), norm=m[4] == "bn")


def block(stage: int, number: int, place: int, *, norm: bool) -> str:
    """Return torchvision's name of a block's convolution (0: the shortcut's) or its batch norm."""
    inner = f"downsample.{int(norm)}" if place == 0 else f"{'bn' if norm else 'conv'}{place}"
    return f"layer{stage}.{number}.{inner}"


_MOBILENET = {"Conv1": "stem_conv", "bn_Conv1": "stem_bn", "Conv_1": "last_conv"}
_MOBILENET |= {"Conv_1_bn": "last_bn", "Conv1_bn": "stem_bn"}


def _mobilenet(layer: str) -> str | None:
    ours = _MOBILENET.get(layer)
    if m := re.fullmatch(
        r"(?:block_(\d{1,2})|expanded_conv)_(expand|depthwise|project)(_BN)?", layer
    ):
        ours = f"block{m[1] or 0}.{m[2]}_{'bn' if m[3] else 'conv'}"
    return None if ours is None else module_key("mobilenet_v2", ours)
