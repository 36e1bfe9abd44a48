"""keras-applications' networks: from Keras's names and layouts to torchvision's."""

import re
from collections.abc import Callable, Mapping

import numpy as np

from jaxparc.models.mobilenet import IMAGENET_MEAN, IMAGENET_STD
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
_DEPTHWISE = re.compile("depthwise|dwconv")
_NORMALIZATION = re.compile(r"normalization(_\d+)?/(mean|variance)")
_TENSORFLOW = {"eps": 1e-3, "same_padding": True}
_HEADS = ("fc1000", "predictions", "probs", "Logits")


def resnet50(state: State, metadata: Metadata) -> Translated | None:
    """Translate ResNet-50 v1, whose convolutions have biases: they are folded into the means."""
    short = _short(state)
    old = "conv1/kernel" in short
    if not old and "conv1_conv/kernel" not in short:
        return None
    _check_once(short)
    widest = _widest(state, short)
    kept, left_out = _renamed(state, short, _old_resnet if old else _new_resnet, "fc", widest)
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
    kept, left_out = _renamed(state, short, _mobilenet, head, _widest(state, short))
    images = Variant(_TENSORFLOW, _HALF, _HALF)
    return Translated("keras", kept, left_out, {"": images}, notes=_on_heads(left_out))


def efficientnet(state: State) -> Translated | None:
    """Translate EfficientNet-B0 to -B7 to the layouts of PyTorch, with Keras's names of layers.

    The network normalises its images, by a mean and a variance that are among its weights.

    Raises:
        WeightsError: the file holds several networks, or the mean or variance is none of images.
    """
    short = _short(state)
    depthwise = ("block1a_dwconv/depthwise_kernel", "block1a_dwconv/kernel")
    if "stem_conv/kernel" not in short or not any(name in short for name in depthwise):
        return None
    _check_once(short)
    statistics = {name: keys for name, keys in short.items() if _NORMALIZATION.fullmatch(name)}
    network = {name: keys for name, keys in short.items() if name not in statistics}
    features = sum(state[key].size for key in short.get("top_bn/moving_mean", ()))
    kept, left_out = _renamed(state, network, _efficientnet, "predictions", features)
    variants, evident, notes = _normalisation(
        {name.rpartition("/")[2]: state[key] for name, (key,) in statistics.items()}
    )
    used = tuple(key for (key,) in statistics.values())
    notes = (*_on_heads(left_out), *notes)
    return Translated("keras", kept, (*left_out, *used), variants, evident, notes=notes)


def _normalisation(
    statistics: State,
) -> tuple[Mapping[str, Variant], str | None, tuple[str, ...]]:
    """Return the variants by how images in [0, 1] are normalised, the evident one, and notes.

    Args:
        statistics: "mean" and "variance" of Keras's layer, where the file has them.

    Raises:
        WeightsError: they are not those of three channels.
    """
    variants = {
        "imagenet": Variant(_TENSORFLOW, IMAGENET_MEAN, IMAGENET_STD),
        "unscaled": Variant(_TENSORFLOW, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    }
    if {*statistics} != {"mean", "variance"}:
        return variants, None, ()
    mean, variance = (np.ravel(statistics[key]).astype(float) for key in ("mean", "variance"))
    usable = np.isfinite(mean).all() and np.isfinite(variance).all() and (variance > 0).all()
    if not (mean.shape == variance.shape == (3,) and usable):
        raise WeightsError(
            f"normalization has mean {mean[:4]} and variance {variance[:4]}; expected three finite "
            "numbers each, and variances above 0"
        )
    if np.allclose(mean, IMAGENET_MEAN, atol=1e-3) and np.allclose(
        variance, IMAGENET_STD, atol=1e-3
    ):
        # Keras has the standard deviation in place of the variance, and divides by its root once
        # more, in a layer without weights.
        note = (
            "images are divided by ImageNet's std, as in Keras 3 and TensorFlow since 2.9; of a "
            "network that was fine-tuned in an older one, set std to the roots of these"
        )
        return variants, "imagenet", (note,)
    red, green, blue = (float(x) for x in mean)
    r, g, b = (float(x) for x in np.sqrt(variance))
    return {"": Variant(_TENSORFLOW, (red, green, blue), (r, g, b))}, "", ()


def _widest(state: State, short: Mapping[str, list[str]]) -> int:
    """Return the number of channels of the widest batch norm."""
    norms = (state[key] for name, (key,) in short.items() if name.endswith("/moving_mean"))
    return max((array.size for array in norms), default=0)


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
    state: State,
    short: Mapping[str, list[str]],
    place_of: Callable[[str], str | None],
    head: str,
    features: int,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the arrays by other names of their layers, and the names of heads that are left out.

    A linear layer is the head if it has a head's name, or if it is the only one and its input is
    the average of the last map, which has `features` channels.
    """
    dense = {
        name.rpartition("/")[0]
        for name, (key,) in short.items()
        if name.endswith("/kernel") and state[key].ndim == 2
    }
    heads = [layer for layer in dense if layer in _HEADS] or [*dense]
    if heads and len(state[short[f"{heads[0]}/kernel"][0]]) != features and heads[0] not in _HEADS:
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
            depthwise = leaf == "depthwise_kernel" or bool(_DEPTHWISE.search(layer))
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


def _efficientnet(layer: str) -> str | None:
    known = re.fullmatch(r"(stem|top)_(conv|bn)|block\d[a-z]_\w+", layer)
    return layer if known else None
