"""Vision transformers: which network weights are of, and what else they decide.

Several published networks differ, under one set of names and shapes, in the mean and std of their
images or in their activation: these are variants.
"""

import functools
import math
import re
from collections.abc import Mapping
from typing import Any

from jaxparc.models.vit import (
    ARCHITECTURES,
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
)
from jaxparc.weights.errors import WeightsError
from jaxparc.weights.families.vit_names import SCHEMES, Named
from jaxparc.weights.family import Family
from jaxparc.weights.translation import (
    Metadata,
    Renames,
    State,
    Translated,
    Variant,
    renamed,
)

_OURS: Renames = (
    (r"^patch_embed$", "patch_embed.proj"),
    (r"^block(\d+)\.(qkv|proj)$", r"blocks.\1.attn.\2"),
    (r"^block(\d+)", r"blocks.\1"),
    (r"\.(fc\d)$", r".mlp.\1"),
)
_ACTIVATIONS = {"gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
"""Hugging Face's names of ours."""


def _rename(architecture: str, module: str) -> str:
    return renamed(module, _OURS)


def _translate(scheme: str, name: str, state: State, metadata: Metadata) -> Translated | None:
    if (named := SCHEMES[scheme](state)) is None:
        return None
    variants = _variants(name, _fields(scheme, name, metadata))
    return Translated(
        scheme,
        named.state,
        named.left_out,
        variants=variants,
        evident=_evident(name, variants, metadata),
        beside=named.beside,
        notes=named.notes,
    )


def _fields(scheme: str, name: str, metadata: Metadata) -> dict[str, Any]:
    """Return the fields of the module in which a library differs from timm."""
    arch = ARCHITECTURES[name]
    found: dict[str, Any] = {}
    # OpenCLIP resamples positions as timm does, and with registers all libraries do
    if scheme in ("dinov2", "huggingface") and not arch.registers:
        found["positions"] = scheme
    if scheme != "huggingface":
        return found
    if arch.class_token and not (arch.layer_scale or arch.pre_norm):  # ViTConfig
        found["eps"] = 1e-12
    if not arch.class_token:  # SiglipVisionConfig
        found["activation"] = "gelu_tanh"
    if isinstance(eps := metadata.get("layer_norm_eps"), float):
        found["eps"] = eps
    if (activation := _activation(metadata)) is not None:
        found["activation"] = activation
    return found


def _activation(metadata: Metadata) -> str | None:
    """Return the activation that Hugging Face's config.json declares."""
    if (given := metadata.get("hidden_act")) is None:
        return None
    if given not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise WeightsError(f"hidden_act is {str(given)[:60]!r}; known: {known}")
    return _ACTIVATIONS[given]


def _variants(name: str, fields: Mapping[str, Any]) -> Mapping[str, Variant]:
    """Return the networks that have an architecture's names and shapes."""
    if re.fullmatch(r"vit_\w+_clip_224", name) and "quickgelu" not in name:
        exact, quick = ({**fields, "activation": key} for key in ("gelu", "quick_gelu"))
        found = {
            name: Variant(exact, CLIP_MEAN, CLIP_STD),
            name.replace("_clip_", "_clip_quickgelu_"): Variant(quick, CLIP_MEAN, CLIP_STD),
        }
        if name == "vit_large_patch14_clip_224":
            found["laion2b"] = Variant(exact, HALF, HALF)
        return found
    if re.fullmatch(r"vit_[a-z]+_patch\d+_224", name) and name != "vit_small_patch8_224":
        return {
            name: Variant(fields, HALF, HALF),
            "imagenet": Variant(fields, IMAGENET_MEAN, IMAGENET_STD),  # DINO, MAE, DeiT
        }
    return {"": Variant(fields)}


def _evident(name: str, variants: Mapping[str, Variant], metadata: Metadata) -> str | None:
    """Return the variant that agrees with what a file declares; None if that leaves several.

    The network's name, or a config's `hidden_act`, tells the activation, and not the mean and std.
    """
    declared = str(metadata.get("config", metadata.get("arch", ""))).partition(".")[0]
    activation = _activation(metadata)
    if activation is None and declared in variants:
        activation = variants[declared].options.get("activation")
    if "quickgelu" in name and activation not in (None, "quick_gelu"):
        raise WeightsError(f"the file declares the activation {activation}; expected quick_gelu")
    fitting = {
        key: variant
        for key, variant in variants.items()
        if activation in (None, variant.options.get("activation"))
    } or variants
    fields = [dict(variant.options) for variant in fitting.values()]
    has_colours = "mean" in metadata and "std" in metadata
    certain = len(fitting) == 1 or (has_colours and all(f == fields[0] for f in fields))
    return next(iter(fitting)) if certain else None


def _options(architecture: str, state: State) -> Mapping[str, Any]:
    """Return the grid of the positions, and whether features are the mean of the patches."""
    arch = ARCHITECTURES[architecture]
    found: dict[str, Any] = {}
    if (stored := state.get("pos_embed")) is not None and stored.ndim == 3:
        patches = stored.shape[1] - arch.extra_positions
        grid = math.isqrt(max(patches, 0))
        if grid**2 == patches and grid not in (0, arch.grid):
            found["grid"] = grid
    if "fc_norm.weight" in state:
        found["pooling"] = "avg"
    return found


def _architecture_of(state: State) -> str | None:
    """Return the first architecture that fits; None if the names are not a vision transformer's."""
    readings = (read(state) for read in SCHEMES.values())
    named = next((found for found in readings if found is not None), None)
    return None if named is None else _described(named)


def _described(named: Named) -> str | None:
    state = named.state
    kernel, qkv = (state.get(f"{key}.weight") for key in ("patch_embed.proj", "blocks.0.attn.qkv"))
    if kernel is None or qkv is None or kernel.ndim != 4:
        return None
    if any(key.endswith(("dist_token", "distillation_token")) for key in state):
        return "a DeiT with a distillation token"
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    width, patch = len(kernel), kernel.shape[-1]
    registers = state.get("reg_token")
    traits = (
        depth,
        patch,
        "cls_token" in state,
        0 if registers is None or registers.ndim != 3 else registers.shape[1],
        "blocks.0.ls1.gamma" in state,
        "norm_pre.weight" in state,
    )
    widths = {
        name: a.heads * a.head_size
        for name, a in ARCHITECTURES.items()
        if traits == (a.depth, a.patch, a.class_token, a.registers, a.layer_scale, a.pre_norm)
        and width % a.head_size == 0
        and "pos_embed" in state
    }
    # a network with fewer heads than any is a narrow one of the narrowest
    known = max(width, min(widths.values(), default=0))
    fitting = [name for name, channels in widths.items() if channels == known]
    if not fitting:
        return (
            f"a vision transformer of {depth} blocks, {width} channels and {patch}x{patch} patches"
        )
    # those of one shape differ in the grid of their positions, if in anything
    return next((name for name in fitting if "grid" not in _options(name, state)), fitting[0])


FAMILY = Family(
    architectures=tuple(ARCHITECTURES),
    rename=_rename,
    stem="patch_embed",
    schemes={scheme: functools.partial(_translate, scheme) for scheme in SCHEMES},
    architecture_of=_architecture_of,
    options=_options,
)
