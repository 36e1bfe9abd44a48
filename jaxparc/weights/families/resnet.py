"""ResNets: from the names and layouts of their many trainers to torchvision's.

What a scheme leaves out on purpose (momentum encoders, projection heads, detection heads, counters)
is listed in `Translated.left_out`.
"""

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np

from jaxparc.models.resnet import ARCHITECTURES, Architecture
from jaxparc.weights import keras_names, prefixes
from jaxparc.weights.errors import WeightsError
from jaxparc.weights.families import plain
from jaxparc.weights.family import Family
from jaxparc.weights.keras_names import CAFFE_STD
from jaxparc.weights.translation import (
    Metadata,
    Renames,
    State,
    Translated,
    Variant,
    renamed,
)

# The mean of Caffe2's and Detectron2's BGR images, which are not divided.
DETECTRON_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)


_SHARED: Renames = ((r"^head$", "fc"), (r"^(layer\d)_(\d+)", r"\1.\2"))
_USUAL: Renames = (
    *_SHARED,
    (r"downsample_conv$", "downsample.0"),
    (r"downsample_bn$", "downsample.1"),
)
# timm numbers the layers of the stem, with relus, and of shortcuts, with average pools.
_DEEP: Renames = (
    *_SHARED,
    (r"^conv([123])$", lambda m: f"conv1.{3 * int(m[1]) - 3}"),
    (r"^bn([12])$", lambda m: f"conv1.{3 * int(m[1]) - 2}"),
    (r"^bn3$", "bn1"),
    (r"downsample_conv$", "downsample.1"),
    (r"downsample_bn$", "downsample.2"),
)


def _rename(architecture: str, module: str) -> str:
    return renamed(module, _DEEP if ARCHITECTURES[architecture].deep else _USUAL)


def _by_blocks(state: State) -> str | None:
    """Return the architecture of a state dict in torchvision's and timm's names, by its blocks."""
    joined = "".join(f"{key}\n" for key in state)
    counts = Counter(
        stage for stage, _ in set(re.findall(r"layer(\d)\.(\d+)\.conv1\.weight", joined))
    )
    if not counts:
        return None
    first, second, third, fourth = (counts[stage] for stage in "1234")
    found = Architecture(
        (first, second, third, fourth),
        bottleneck=".conv3.weight" in joined,
        deep="conv1.0.weight" in state,
        squeeze_excite=".se.fc1." in joined,
    )
    kernels = [state.get(f"layer1.0.conv{i}.weight", np.ones(0)) for i in (2, 3)]
    if found.bottleneck and all(kernel.ndim == 4 and kernel.size for kernel in kernels):
        (inner, of_group, *_), (outer, *_) = (kernel.shape for kernel in kernels)
        channels = round(256 * inner / outer)  # at width 1
        groups = 1 if of_group == inner else round(channels / of_group)
        found = found._replace(groups=groups, group_channels=channels // max(groups, 1))
    kind = "bottleneck" if found.bottleneck else "basic"
    return next(
        (name for name, architecture in ARCHITECTURES.items() if architecture == found),
        f"a ResNet of {found.blocks} {kind} blocks",
    )


# PyTorch

_COUNTER = r"num_batches_tracked$"
# Beside the backbone, in checkpoints of self-supervised training and its evaluation.
_BESIDE = re.compile(
    rf"{_COUNTER}|encoder_k\.|momentum|target_|queue|project|prototypes|predict|decoder"
    r"|(^|\.)(fc|head|heads|mlp)\.(\d|last_layer|mlp)"
    r"|(^|\.)(criterion|loss|loss_fn|metrics?|(train|val|test)_\w+)\."
)


def _pytorch(name: str, state: State, metadata: Metadata) -> Translated | None:
    """Translate the names of torchvision and timm, after any prefix, such as encoder_q."""
    stems = [
        key[: match.start("stem")]
        for key, array in state.items()
        if (match := re.search(r"(^|\.)(?P<stem>conv1\.(0\.)?weight)$", key))
        and array.ndim == 4
        and array.shape[1] == 3
    ]
    if not stems:
        return None
    prefix = prefixes.trained(stems)
    left_out = {k for k in state if _BESIDE.search(k.removeprefix(prefix))}
    if "encoder_q." in prefix:  # the "classifier" of MoCo makes the contrasted vectors
        left_out |= {f"{prefix}fc.weight", f"{prefix}fc.bias"} & state.keys()
    inside, beside = prefixes.split(prefix, state, left_out)
    return Translated("pytorch", inside, tuple(sorted(left_out)), beside=beside)


# Hugging Face

_HUGGING_FACE: Renames = (
    (r"^embedder\.embedder\.convolution\.", "conv1."),
    (r"^embedder\.embedder\.normalization\.", "bn1."),
    (r"^encoder\.stages\.(\d)\.layers\.", lambda m: f"layer{int(m[1]) + 1}."),
    (r"\.layer\.(\d)\.convolution\.", lambda m: f".conv{int(m[1]) + 1}."),
    (r"\.layer\.(\d)\.normalization\.", lambda m: f".bn{int(m[1]) + 1}."),
    (r"\.shortcut\.convolution\.", ".downsample.0."),
    (r"\.shortcut\.normalization\.", ".downsample.1."),
    (r"^classifier\.1\.", "fc."),
)


def _hugging_face(name: str, state: State, metadata: Metadata) -> Translated | None:
    """Translate transformers' names; the classifier is outside of the prefix of the others."""
    end = "embedder.embedder.convolution.weight"
    stems = [
        key.removesuffix(end)
        for key, array in state.items()
        # RegNets have this name, too, and 3x3 kernels
        if re.search(rf"(^|\.){re.escape(end)}$", key) and array.shape[2:] == (7, 7)
    ]
    if not stems:
        return None
    prefix = prefixes.trained(stems)
    left_out = tuple(key for key in state if re.search(_COUNTER, key))
    kept = {
        renamed(key.removeprefix(prefix), _HUGGING_FACE): array
        for key, array in state.items()
        if key not in left_out
    }
    return Translated("huggingface", kept, left_out, {"": _of_config(metadata)})


def _of_config(metadata: Metadata) -> Variant:
    """Return the variant that transformers' config.json declares.

    Raises:
        WeightsError: it is a network that is not here.
    """
    if metadata.get("downsample_in_first_stage"):
        raise WeightsError("config.json sets downsample_in_first_stage, which no network here has")
    plain.check_activation(metadata, "relu")
    in_1x1 = bool(metadata.get("downsample_in_bottleneck"))
    return Variant({"stride_in_1x1": True} if in_1x1 else {})


# Detectron2

_DETECTOR = re.compile(
    rf"{_COUNTER}|^(proposal_generator|roi_heads|anchor_generator|sem_seg_head|head|panoptic_head)\."
    r"|^backbone\.(fpn_|top_block\.)|^pixel_(mean|std)$"
)
_DETECTRON: Renames = (
    (r"^stem\.conv1\.norm\.", "bn1."),
    (r"^stem\.conv1\.", "conv1."),
    (r"^stem\.fc\.", "fc."),
    (r"^res(\d)\.(\d+)\.", lambda m: f"layer{int(m[1]) - 1}.{m[2]}."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
)
# Where the backbones are from: MSRA, by way of Caffe2; or Caffe2; or torchvision.
_TORCHVISION = Variant({}, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_BACKBONES = {
    "msra": Variant({"stride_in_1x1": True}, DETECTRON_MEAN, CAFFE_STD, bgr=True),
    "torchvision": _TORCHVISION,
}
_GROUPED_BACKBONES = {"caffe2": _TORCHVISION._replace(bgr=True), "torchvision": _TORCHVISION}


def _backbones(kept: State) -> Mapping[str, Variant]:
    """Return the variants of a state dict in torchvision's names; the first is Detectron2's own."""
    kernel = kept.get("layer1.0.conv2.weight", np.ones(0))
    grouped = kernel.ndim == 4 and kernel.shape[0] != kernel.shape[1]
    return _GROUPED_BACKBONES if grouped else _BACKBONES


def _detectron2(name: str, state: State, metadata: Metadata) -> Translated | None:
    """Translate Detectron2's names; the last stage of C4 models is in their heads."""
    end = "stem.conv1.weight"
    stems = [k.removesuffix(end) for k in state if re.search(rf"(^|\.){re.escape(end)}$", k)]
    if not stems:
        return None
    prefix = prefixes.trained(stems)
    kept, left_out, beside = {}, [], {}
    for key, array in state.items():
        inside = key.removeprefix(prefix) if key.startswith(prefix) else key
        inside = re.sub(r"^roi_heads\.(res5\.)", r"\1", inside)
        if re.match(r"(stem|res\d)\.", inside) and not re.search(_COUNTER, inside):
            kept[renamed(inside, _DETECTRON)] = array
        elif _DETECTOR.search(key):
            left_out.append(key)
        elif key.startswith(prefix):
            kept[key] = array
        else:
            beside[key] = array
    variants = _backbones(kept)
    own = next(iter(variants))
    evident, note = _backbone(kept, state, metadata, variants, own)
    notes = (note,) if note else ()
    return Translated("detectron2", kept, tuple(left_out), variants, evident, own, beside, notes)


def _backbone(
    kept: State, state: State, metadata: Metadata, variants: Mapping[str, Variant], own: str
) -> tuple[str | None, str]:
    """Return the key of the variant, None if the file does not tell; and a note for the user."""
    author = str(metadata.get("__author__", ""))
    if "torchvision" in author.lower() or "fc.weight" in kept:
        return "torchvision", ""
    if "pixel_std" in state:
        return _by_pixels(state, variants), ""
    statistics = [kept.get(f"bn1.running_{which}", np.ones(0)) for which in ("mean", "var")]
    if all(s.size for s in statistics) and not statistics[0].any() and not np.ptp(statistics[1]):
        return own, ""  # its batch norm is frozen to a scale and a shift
    if author == "Detectron2 Model Zoo":
        is_msra = own == "msra"
        images = "BGR, not divided, stride in the first 1x1" if is_msra else "BGR"
        return own, (
            f"taken for {'an MSRA' if is_msra else 'a Caffe2'} backbone ({images}), as nearly all "
            "of the Detectron2 Model Zoo are; otherwise set variant = 'torchvision'"
        )
    return None, ""


def _by_pixels(state: State, variants: Mapping[str, Variant]) -> str | None:
    """Return the key of the variant with the file's mean and std, None if there is none.

    The file has them for images in [0, 255], in the order of the images' channels.
    """
    for name, variant in variants.items():
        colours = {"pixel_mean": variant.mean, "pixel_std": variant.std}
        given = [
            (np.ravel(state[key]) / 255, (colour or ())[:: -1 if variant.bgr else 1])
            for key, colour in colours.items()
            if key in state
        ]
        if all(g.shape == (3,) and np.allclose(g, c, rtol=0.01, atol=0) for g, c in given):
            return name
    return None


# Caffe2

_CAFFE2: Renames = (
    (r"^res_conv1_bn", "bn1"),
    (
        r"^res(\d)_(\d+)_branch(1|2[abc])(_bn)?",
        lambda m: keras_names.block(
            int(m[1]) - 1, int(m[2]), "1abc".index(m[3][-1]), norm=bool(m[4])
        ),
    ),
    (r"^(fc1000|pred)_", "fc_"),
)
_CAFFE2_LEAVES = {"w": "weight", "s": "weight", "b": "bias"}


def _caffe2(name: str, state: State, metadata: Metadata) -> Translated | None:
    """Translate the names of Caffe2 and MSRA, whose batch norm is a frozen scale and shift."""
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
            kept[f"{place}.running_mean"] = np.zeros(array.shape, np.float32)
            # 1 after our eps is added
            kept[f"{place}.running_var"] = np.full(array.shape, 1 - 1e-5, np.float32)
    if not np.any(kept.get("conv1.bias", 1)):
        del kept["conv1.bias"]  # zero in MSRA's files
    variants = _backbones(kept)
    if variants is _BACKBONES:
        return Translated("caffe2", kept, tuple(left_out), {"msra": _BACKBONES["msra"]}, "msra")
    return Translated("caffe2", kept, tuple(left_out), variants, None)


def _keras(name: str, state: State, metadata: Metadata) -> Translated | None:
    return keras_names.resnet50(state, metadata)


_SCHEMES = {
    "caffe2": _caffe2,
    "detectron2": _detectron2,
    "keras": _keras,
    "huggingface": _hugging_face,
    "pytorch": _pytorch,
}


def _architecture_of(state: State) -> str | None:
    for scheme in _SCHEMES.values():
        if (translated := scheme("", state, {})) is not None:
            return _by_blocks(translated.state)
    return None


FAMILY = Family(
    architectures=tuple(ARCHITECTURES),
    rename=_rename,
    stem="conv1",
    schemes=_SCHEMES,
    architecture_of=_architecture_of,
)
