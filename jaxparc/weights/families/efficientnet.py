"""EfficientNet's, EfficientNetV2's and MobileNetV3's names: timm's, torchvision's, Keras's.

Networks of the same names and shapes differ in padding, in the eps of batch norm, and in the mean
and std of their images: timm's own from those that it ported from TensorFlow ("tf_"), and both from
torchvision's, and from those of the package efficientnet_pytorch.
"""

import functools
import itertools
import math
import re
from collections.abc import Iterator, Mapping

from jaxparc.models.inverted_residuals import Architecture, Stage, blocks_of
from jaxparc.models.mobilenet import ARCHITECTURES, IMAGENET_MEAN, IMAGENET_STD
from jaxparc.weights import keras_names
from jaxparc.weights.families import plain
from jaxparc.weights.family import Family
from jaxparc.weights.translation import Metadata, State, Translated, Variant

Names = Mapping[str, str]
"""The path of one of our modules, joined by dots -> its name in a scheme."""

_NETWORKS = {name: a for name, a in ARCHITECTURES.items() if a.squeeze is not None}
_HALF = (0.5, 0.5, 0.5)


def _layers(stage: Stage) -> Iterator[str]:
    """Return our names of a block's convolutions and of its squeeze-and-excitation, in order."""
    if stage.fused or stage.expansion > 1:
        yield "expand"
    if not stage.fused:
        yield "depthwise"
    if stage.squeezed:
        yield "se"
    if not stage.fused or stage.expansion > 1:
        yield "project"


def _timm_block(stage: Stage) -> Names:
    """Return timm's names within a block, which depend on its kind."""
    if stage.fused and stage.expansion == 1:
        convolutions = {"expand": "conv"}
    elif stage.fused:
        convolutions = {"expand": "conv_exp", "project": "conv_pwl"}
    elif stage.expansion == 1:
        convolutions = {"depthwise": "conv_dw", "project": "conv_pw"}
    else:
        convolutions = {"expand": "conv_pw", "depthwise": "conv_dw", "project": "conv_pwl"}
    names: dict[str, str] = {}
    for number, (ours, theirs) in enumerate(convolutions.items(), start=1):
        names |= {f"{ours}_conv": theirs, f"{ours}_bn": f"bn{number}"}
    return names | {"se.fc1": "se.conv_reduce", "se.fc2": "se.conv_expand"}


def _torchvision_block(stage: Stage) -> Names:
    """Return torchvision's names within a block, whose layers are numbered."""
    names: dict[str, str] = {}
    for i, layer in enumerate(_layers(stage)):
        parts = ("fc1", "fc2") if layer == "se" else ("0", "1")
        ours = ("se.fc1", "se.fc2") if layer == "se" else (f"{layer}_conv", f"{layer}_bn")
        names |= {o: f"block.{i}.{part}" for o, part in zip(ours, parts, strict=True)}
    return names


def _package_block(stage: Stage) -> Names:
    """Return efficientnet_pytorch's names within a block."""
    names = {"se.fc1": "_se_reduce", "se.fc2": "_se_expand"}
    for layer, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
        names |= {f"{layer}_conv": f"_{layer}_conv", f"{layer}_bn": norm}
    return names


def _timm_names(architecture: Architecture) -> Names:
    ends = {"stem_conv": "conv_stem", "stem_bn": "bn1", "head": "classifier"}
    if architecture.neck is None:
        ends |= {"last_conv": "conv_head", "last_bn": "bn2"}
    else:
        after = max(i for i, _, _ in blocks_of(architecture)) + 1
        last = f"blocks.{after}.0"
        ends |= {"last_conv": f"{last}.conv", "last_bn": f"{last}.bn1", "neck": "conv_head"}
    return _of_blocks(architecture, ends, "timm")


def _torchvision_names(architecture: Architecture) -> Names:
    blocks = [*blocks_of(architecture)]
    after = len(blocks) if architecture.neck is not None else max(i for i, _, _ in blocks) + 1
    ends = {f"stem_{part}": f"features.0.{i}" for i, part in enumerate(("conv", "bn"))}
    ends |= {f"last_{part}": f"features.{after + 1}.{i}" for i, part in enumerate(("conv", "bn"))}
    if architecture.neck is None:
        return _of_blocks(architecture, ends | {"head": "classifier.1"}, "torchvision")
    ends |= {"neck": "classifier.0", "head": "classifier.3"}
    return _of_blocks(architecture, ends, "torchvision_v3")


def _package_names(architecture: Architecture) -> Names:
    ends = {"stem_conv": "_conv_stem", "stem_bn": "_bn0", "head": "_fc"}
    ends |= {"last_conv": "_conv_head", "last_bn": "_bn1"}
    return _of_blocks(architecture, ends, "efficientnet_pytorch")


def _keras_block(stage: Stage) -> Names:
    """Return Keras's names within a block."""
    names = {"se.fc1": "se_reduce", "se.fc2": "se_expand"}
    names |= {"depthwise_conv": "dwconv", "depthwise_bn": "bn"}
    for layer in ("expand", "project"):
        names |= {f"{layer}_{part}": f"{layer}_{part}" for part in ("conv", "bn")}
    return names


def _keras_names(architecture: Architecture) -> Names:
    ends = {"stem_conv": "stem_conv", "stem_bn": "stem_bn", "head": "predictions"}
    ends |= {"last_conv": "top_conv", "last_bn": "top_bn"}
    return _of_blocks(architecture, ends, "keras")


# How a block is called by its number, its stage and its number within that, and the names in it.
_BLOCKS = {
    "timm": ("blocks.{1}.{2}.", _timm_block),
    "torchvision": ("features.{3}.{2}.", _torchvision_block),
    "torchvision_v3": ("features.{4}.", _torchvision_block),
    "efficientnet_pytorch": ("_blocks.{0}.", _package_block),
    "keras": ("block{3}{5}_", _keras_block),
}


def _of_blocks(architecture: Architecture, ends: Names, scheme: str) -> Names:
    """Return the names of all modules, given those before and after the blocks."""
    pattern, inside = _BLOCKS[scheme]
    names = dict(ends)
    for n, (i, j, stage) in enumerate(blocks_of(architecture)):
        prefix = pattern.format(n, i, j, i + 1, n + 1, chr(ord("a") + j))
        theirs = inside(stage)
        for layer in _layers(stage):
            parts = ("se.fc1", "se.fc2") if layer == "se" else (f"{layer}_conv", f"{layer}_bn")
            names |= {f"block{n}.{part}": f"{prefix}{theirs[part]}" for part in parts}
    return names


_NAMES = {
    "timm": _timm_names,
    "torchvision": _torchvision_names,
    "efficientnet_pytorch": _package_names,
    "keras": _keras_names,
}


@functools.cache
def names(scheme: str, name: str) -> Names:
    """Return the names of all modules.

    Args:
        scheme: "timm", "torchvision", "efficientnet_pytorch" or "keras".
        name: architecture.
    """
    return _NAMES[scheme](_NETWORKS[name])


def _rename(name: str, module: str) -> str:
    return names("timm", name)[module]


def _in_timm_names(scheme: str, name: str, state: State) -> Translated | None:
    """Return a state dict in timm's names; None if its names are not of the scheme."""
    ours = names(scheme, name)
    if scheme == "keras":
        found = keras_names.efficientnet(state)
    else:
        found = plain.translate(scheme, f"{ours['stem_conv']}.weight", state)
    if found is None:
        return None
    timm = {theirs: _rename(name, module) for module, theirs in ours.items()}
    kept = {}
    for key, array in found.state.items():
        module, _, leaf = key.rpartition(".")
        # torchvision's linear layer between pooling and head is timm's 1x1 convolution
        linear = module == ours.get("neck") and leaf == "weight" and array.ndim == 2
        kept[f"{timm.get(module, module)}.{leaf}" if module else key] = (
            array[:, :, None, None] if linear else array
        )
    return found._replace(state=kept)


_TENSORFLOW = {"eps": 1e-3, "same_padding": True}


def _timm(name: str, state: State, metadata: Metadata) -> Translated | None:
    found = _in_timm_names("timm", name, state)
    if found is None:
        return None
    # TensorFlow's EfficientNets take the usual mean and std, the other networks images in [-1, 1]
    colours = (IMAGENET_MEAN, IMAGENET_STD) if "_b" in name else (_HALF, _HALF)
    own = (None, None) if "_b" in name else (IMAGENET_MEAN, IMAGENET_STD)
    variants = {name: Variant({}, *own), f"tf_{name}": Variant(_TENSORFLOW, *colours)}
    declared = str(metadata.get("config", metadata.get("arch"))).partition(".")[0]
    return found._replace(variants=variants, evident=declared if declared in variants else None)


# torchvision's networks whose batch norm has TensorFlow's eps.
_LARGE_EPS = re.compile(r"efficientnet_b[567]|efficientnetv2_.|mobilenetv3_.*")


def _torchvision(name: str, state: State, metadata: Metadata) -> Translated | None:
    found = _in_timm_names("torchvision", name, state)
    if found is None:
        return None
    options = {"eps": 1e-3} if _LARGE_EPS.fullmatch(name) else {}
    half = name == "efficientnetv2_l"
    colours = (_HALF, _HALF) if half else (IMAGENET_MEAN, IMAGENET_STD)
    return found._replace(variants={"": Variant(options, *colours)})


def _package(name: str, state: State, metadata: Metadata) -> Translated | None:
    found = _in_timm_names("efficientnet_pytorch", name, state)
    if found is None:
        return None
    variant = Variant(_TENSORFLOW, IMAGENET_MEAN, IMAGENET_STD)
    return found._replace(variants={"": variant})


def _keras(name: str, state: State, metadata: Metadata) -> Translated | None:
    return _in_timm_names("keras", name, state) if "_b" in name else None


_STEM = re.compile(r"(?:^|.*\.)(?=(_?conv_stem|features\.0\.0|stem_conv)\.weight$)")


def _architecture_of(state: State) -> str | None:
    """Return the architecture whose modules all have names in a state dict.

    The largest wins, whose names include those of smaller ones. B1 and B2 have the same names, and
    differ in the ratio of the last stage's channels to the first convolution's.
    """
    if (keras := keras_names.efficientnet(state)) is not None:
        state = keras.state
    for prefix in sorted({found[0] for key in state if (found := _STEM.match(key))}):
        inside = {k.removeprefix(prefix): a for k, a in state.items() if k.startswith(prefix)}
        modules = {key.rpartition(".")[0] for key in inside}
        fits = []
        for scheme, name in itertools.product(_NAMES, _NETWORKS):
            ours = names(scheme, name)
            backbone = {theirs for module, theirs in ours.items() if module not in ("neck", "head")}
            if backbone <= modules:
                fits.append((-len(backbone), _distance(_NETWORKS[name], ours, inside), name))
        if fits:
            return min(fits)[-1]
        if (other := _described(modules)) is not None:
            return other
    return None


def _distance(architecture: Architecture, ours: Names, state: State) -> float:
    """Return by how much the ratio of the last and the first channels differs."""
    kernels = (state.get(f"{ours[layer]}.weight") for layer in ("stem_conv", "last_conv"))
    first, last = (() if kernel is None else kernel.shape for kernel in kernels)
    if len(first) != 4 or len(last) != 4 or not first[0]:
        return math.inf
    return abs(last[1] / first[0] - architecture.stages[-1].channels / architecture.stem)


def _described(modules: set[str]) -> str | None:
    """Return what a network with squeeze-and-excitation is that has none of the known names."""
    if not any(re.search(r"\.se\.conv_reduce$|\._se_reduce$", module) for module in modules):
        return None
    blocks = {found[1] for m in modules if (found := re.match(r"_?blocks\.(\d+(\.\d+)?)\.", m))}
    if "blocks.0.0.conv_exp" in modules and len(blocks) == 40:
        return "efficientnetv2_rw_s"
    return f"an EfficientNet of {len(blocks)} blocks"


FAMILY = Family(
    architectures=tuple(_NETWORKS),
    rename=_rename,
    stem="stem_conv",
    schemes={
        "timm": _timm,
        "torchvision": _torchvision,
        "efficientnet_pytorch": _package,
        "keras": _keras,
    },
    architecture_of=_architecture_of,
)
