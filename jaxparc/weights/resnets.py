"""ResNets as their many trainers name and lay out their weights, as torchvision does.

A scheme renames what it can explain and leaves every other key as it is, so that the accounting
of `torchvision.from_torchvision` lists it by the name that it has in the file. What a scheme leaves
out on purpose (momentum encoders, projection heads, detection heads, counters), `left_out` names.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from jaxparc.weights.torchvision import Renames, State, Translated, renamed

# Caffe's images: BGR less their mean, not divided. The order goes into the first convolution.
CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
DETECTRON_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
CAFFE_STD = (1 / 255, 1 / 255, 1 / 255)


def looks_like(state: State) -> str:
    """The architecture that a state dict in torchvision's names is of, by its blocks."""
    names = "".join(f"{key}\n" for key in state)
    blocks = Counter(
        stage for stage, _ in set(re.findall(r"layer(\d)\.(\d+)\.conv1\.weight", names))
    )
    counts = tuple(blocks[stage] for stage in "1234")
    bottleneck = ".conv3.weight" in names
    known: dict[tuple[tuple[int, ...], bool], str] = {
        ((2, 2, 2, 2), False): "resnet18",
        ((3, 4, 6, 3), False): "resnet34",
        ((3, 4, 6, 3), True): "resnet50",
        ((3, 4, 23, 3), True): "resnet101",
        ((3, 8, 36, 3), True): "resnet152",
    }
    kind = "bottleneck" if bottleneck else "basic"
    return known.get((counts, bottleneck), f"a ResNet of {counts} {kind} blocks")


# PyTorch

_COUNTER = r"num_batches_tracked$"
# Beside the backbone, in checkpoints of self-supervised training.
_BESIDE = re.compile(
    rf"{_COUNTER}|encoder_k\.|momentum|teacher|target_|queue|project|prototypes|predict|decoder"
    r"|(^|\.)(fc|head|heads|mlp)\.\d"
)


def _pytorch(state: State) -> Translated | None:
    """The names of torchvision and timm, behind any prefix such as module. or encoder_q."""
    stems = [
        key.removesuffix("conv1.weight")
        for key, array in state.items()
        if re.search(r"(^|\.)conv1\.weight$", key) and array.ndim == 4 and array.shape[1] == 3
    ]
    # A momentum encoder has the same names; the other one is what was trained.
    stems.sort(key=lambda prefix: (bool(_BESIDE.search(prefix)), len(prefix)))
    if not stems:
        return None
    prefix = stems[0]
    inside = {k.removeprefix(prefix): k for k in state if k.startswith(prefix)}
    left_out = {k for k in state if _BESIDE.search(k.removeprefix(prefix))}
    if "encoder_q." in prefix:  # its "classifier" makes the vectors that are contrasted
        left_out |= {f"{prefix}fc.weight", f"{prefix}fc.bias"} & state.keys()
    kept = {short: state[full] for short, full in inside.items() if full not in left_out}
    others = {k: state[k] for k in state if not k.startswith(prefix) and k not in left_out}
    return Translated("pytorch", kept | others, tuple(sorted(left_out)))


# Detectron2

_DETECTOR = re.compile(
    rf"{_COUNTER}|^(proposal_generator|roi_heads|anchor_generator|sem_seg_head|head|panoptic_head)\."
    r"|^backbone\.(fpn_|top_block\.)|^pixel_(mean|std)$"
)
_DETECTRON: Renames = (
    (r"^stem\.conv1\.norm\.", "bn1."),
    (r"^stem\.conv1\.", "conv1."),
    (r"^res(\d)\.(\d+)\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
)


def _detectron2(state: State) -> Translated | None:
    """Detectron2's names: the backbone, with the last stage in the heads of C4 models."""
    stem = next((k for k in state if k.endswith("stem.conv1.weight")), None)
    if stem is None:
        return None
    prefix = stem.removesuffix("stem.conv1.weight")
    kept, left_out = {}, []
    for key, array in state.items():
        inside = key.removeprefix(prefix) if key.startswith(prefix) else key
        inside = re.sub(r"^roi_heads\.(res5\.)", r"\1", inside)
        if re.match(r"(stem|res\d)\.", inside) and not re.search(_COUNTER, inside):
            kept[renamed(inside, _DETECTRON)] = array
        elif _DETECTOR.search(key):
            left_out.append(key)
        else:
            kept[key] = array
    kept["conv1.weight"] = kept["conv1.weight"][:, ::-1]
    return Translated("detectron2", kept, tuple(left_out), True, DETECTRON_MEAN, CAFFE_STD)


# Caffe2

_CAFFE2: Renames = (
    (r"^res_conv1_bn", "bn1"),
    (
        r"^res(\d)_(\d+)_branch(1|2[abc])(_bn)?",
        lambda m: _block(int(m[1]) - 1, int(m[2]), "1abc".index(m[3][-1]), bool(m[4])),
    ),
    (r"^(fc1000|pred)_", "fc_"),
)
_CAFFE2_LEAVES = {"w": "weight", "s": "weight", "b": "bias"}


def _caffe2(state: State) -> Translated | None:
    """Caffe2's and MSRA's names: batch norm is a frozen scale and shift."""
    if "res2_0_branch2a_w" not in state:
        return None
    kept: dict[str, np.ndarray] = {}
    left_out = []
    for key, array in state.items():
        if key.endswith("_momentum") or key in ("lr", "model_iter"):
            left_out.append(key)
            continue
        place, _, leaf = renamed(key, _CAFFE2).rpartition("_")
        if leaf not in _CAFFE2_LEAVES:
            kept[key] = array
            continue
        kept[f"{place}.{_CAFFE2_LEAVES[leaf]}"] = array
        if leaf == "s":
            kept[f"{place}.running_mean"] = np.zeros_like(array)
            kept[f"{place}.running_var"] = np.full_like(array, 1 - 1e-5)  # 1 with our eps
    if not np.any(kept.get("conv1.bias", 1)):
        del kept["conv1.bias"]  # MSRA's files have one of zeros
    kept["conv1.weight"] = kept["conv1.weight"][:, ::-1]
    return Translated("caffe2", kept, tuple(left_out), True, DETECTRON_MEAN, CAFFE_STD)


# Keras

_KERAS: Mapping[str, Renames] = {
    "old": (
        (r"^bn_conv1$", "bn1"),
        (r"^(res|bn)(\d)([a-z])_branch(\w+)$", lambda m: _keras_block(*m.groups())),
        (r"^fc1000$", "fc"),
    ),
    "new": (
        (r"^conv1_conv$", "conv1"),
        (r"^conv1_bn$", "bn1"),
        (
            r"^conv(\d)_block(\d+)_(\d)_(conv|bn)$",
            lambda m: _block(int(m[1]) - 1, int(m[2]) - 1, int(m[3]), m[4] == "bn"),
        ),
        (r"^(predictions|probs)$", "fc"),
    ),
}
# What Keras adds to a variance: its default, and what the newer networks set.
_EPSILON = {"old": 1e-3, "new": 1.001e-5}
_LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def _keras_block(kind: str, stage: str, letter: str, branch: str) -> str:
    place = 0 if branch == "1" else "abc".index(branch[1]) + 1
    return _block(int(stage) - 1, ord(letter) - ord("a"), place, kind == "bn")


def _block(stage: int, block: int, place: int, norm: bool) -> str:
    """Torchvision's name of a convolution, 0 on the shortcut, or of its batch norm."""
    inner = f"downsample.{int(norm)}" if place == 0 else f"{'bn' if norm else 'conv'}{place}"
    return f"layer{stage}.{block}.{inner}"


def _keras(state: State) -> Translated | None:
    """Keras-applications' ResNet-50 v1: convolutions have biases, which go into the means."""
    # HDF5 has the layer's name before the weight's, and TensorFlow's ":0" behind.
    short = {re.sub(r":0$", "", "/".join(key.split("/")[-2:])): key for key in state}
    age = "old" if "conv1/kernel" in short else "new" if "conv1_conv/kernel" in short else None
    if age is None:
        return None
    kept: dict[str, np.ndarray] = {}
    for name, key in short.items():
        layer, _, leaf = name.rpartition("/")
        place = renamed(layer, _KERAS[age])
        if leaf not in _LEAVES or (place == layer and layer != "conv1"):
            kept[key] = state[key]
            continue
        array = state[key]
        if leaf == "kernel":
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        kept[f"{place}.{_LEAVES[leaf]}"] = array
    for key in [k for k in kept if k.endswith("running_var")]:
        kept[key] = kept[key] + np.float32(_EPSILON[age] - 1e-5)
        norm = key.removesuffix(".running_var")
        conv = re.sub(r"bn(\d)$", r"conv\1", norm).replace("downsample.1", "downsample.0")
        if (bias := kept.pop(f"{conv}.bias", None)) is not None:
            kept[f"{norm}.running_mean"] = kept[f"{norm}.running_mean"] - bias
    kept["conv1.weight"] = kept["conv1.weight"][:, ::-1]
    return Translated("keras", kept, (), True, CAFFE_MEAN, CAFFE_STD)


SCHEMES: Mapping[str, Callable[[State], Translated | None]] = {
    "caffe2": _caffe2,
    "detectron2": _detectron2,
    "keras": _keras,
    "pytorch": _pytorch,
}
