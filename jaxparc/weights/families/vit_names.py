"""Vision transformers' arrays by timm's names, from those of each library."""

import re
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxparc.weights import prefixes
from jaxparc.weights.translation import Renames, State, renamed

_CANONICAL = re.compile(
    r"(cls_token|reg_token|pos_embed|attn_pool\.latent|blocks\.\d+\.ls[12]\.gamma)"
    r"|(patch_embed\.proj|norm|norm_pre|fc_norm|head|blocks\.\d+\.(norm[12]|attn\.(qkv|proj)|mlp\.fc[12])"
    r"|attn_pool\.(q|kv|proj|norm|mlp\.fc[12]))\.(weight|bias)"
)


class Named(NamedTuple):
    """A file's arrays, of one network.

    Attributes:
        scheme: the name of the scheme.
        state: arrays by canonical names; others by their names in the file.
        left_out: names that are left out on purpose.
        beside: arrays outside of the network.
        notes: what the user should know about the choices made.
    """

    scheme: str
    state: dict[str, np.ndarray]
    left_out: tuple[str, ...]
    beside: Mapping[str, np.ndarray]
    notes: tuple[str, ...] = ()


def _prefix(stem: str, state: State) -> str | None:
    """Return what precedes the name of the first convolution's kernel; None if there is none."""
    found = [k.removesuffix(stem) for k in state if re.search(rf"(^|\.){re.escape(stem)}$", k)]
    return prefixes.trained(found) if found else None


def _inside(
    scheme: str,
    prefix: str,
    state: State,
    rules: Renames,
    unused: Collection[str] = (),
    projection: Collection[str] = (),
) -> Named:
    """Return the arrays under a prefix, by canonical names.

    Args:
        scheme: the name of the scheme.
        prefix: of the network.
        state: arrays by name.
        rules: substitutions from the scheme's names to the canonical ones.
        unused: names that are left out.
        projection: names of the projection to the space that images share with texts: its outputs
            tell no classes, so that it is left out, too.
    """
    left_out = (*unused, *projection)
    found, beside = prefixes.split(prefix, state, left_out)
    notes = [
        f"{key} projects features to the space shared with texts and is left out: the network has "
        "no head"
        for key in projection
    ]
    return Named(scheme, _joined(found, rules), left_out, beside, tuple(notes[:1]))


def _joined(state: State, rules: Renames) -> dict[str, np.ndarray]:
    """Rename arrays, and put query, key and value into one.

    Hugging Face has three linear layers, and in attention pooling one, where timm has one and two.
    """
    kept: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, tuple[str, np.ndarray]]] = {}
    for key, array in state.items():
        name = renamed(key, rules)
        if part := re.fullmatch(r"(blocks\.\d+\.attn)\.([qkv])\.(weight|bias)", name):
            parts.setdefault(f"{part[1]}.qkv.{part[3]}", {})[part[2]] = key, array
        elif (pool := re.fullmatch(r"attn_pool\.qkv\.(weight|bias)", name)) and _is_triple(array):
            third = len(array) // 3
            kept[f"attn_pool.q.{pool[1]}"], kept[f"attn_pool.kv.{pool[1]}"] = np.split(
                array, [third]
            )
        elif _CANONICAL.fullmatch(name):
            kept[name] = _shaped(name, array)
        else:
            kept[key] = array
    for name, found in parts.items():
        shapes = {array.shape for _, array in found.values()}
        if len(found) == 3 and len(shapes) == 1 and () not in shapes:
            kept[name] = np.concatenate([found[part][1] for part in "qkv"])
        else:
            kept |= dict(found.values())
    return kept


def _is_triple(array: np.ndarray) -> bool:
    return array.ndim > 0 and len(array) % 3 == 0


def _shaped(name: str, array: np.ndarray) -> np.ndarray:
    """Return tokens and positions with timm's leading axes of length 1."""
    axes = {"cls_token": 3, "pos_embed": 3}.get(name, array.ndim)
    return array.reshape((1,) * max(axes - array.ndim, 0) + array.shape)


# timm, and original weights of DINO, MAE and DINOv2, which have the same names

_STEM = "patch_embed.proj.weight"


def _timm(state: State) -> Named | None:
    prefix = _prefix(_STEM, state)
    if prefix is None or f"{prefix}mask_token" in state:
        return None
    head = [f"{prefix}head.{leaf}" for leaf in ("weight", "bias")]
    # timm stores CLIP's projection, which has no bias, as a head
    is_projection = (
        f"{prefix}norm_pre.weight" in state
        and all(key in state for key in head)
        and not np.any(state[head[1]])
    )
    return _inside("timm", prefix, state, (), projection=head if is_projection else ())


def _dinov2(state: State) -> Named | None:
    """Translate the original names of DINOv2, which are timm's, with a token for masked patches."""
    prefix = _prefix(_STEM, state)
    if prefix is None or (mask := f"{prefix}mask_token") not in state:
        return None
    rules: Renames = ((r"^register_tokens$", "reg_token"),)
    return _without_token_position(_inside("dinov2", prefix, state, rules, (mask,)))


def _without_token_position(named: Named) -> Named:
    """Add the class token's position to the token, if there are registers, as timm does."""
    state = named.state
    token, stored = state.get("cls_token"), state.get("pos_embed")
    if "reg_token" not in state or token is None or stored is None:
        return named
    if not token.ndim == stored.ndim == 3 or token.shape[-1] != stored.shape[-1]:
        return named
    moved = {"cls_token": token + stored[:, :1], "pos_embed": stored[:, 1:]}
    return named._replace(state={**state, **moved})


# Hugging Face

_HUGGINGFACE: Renames = (
    (r"^embeddings\.(patch_embeddings\.projection|patch_embedding)\.", "patch_embed.proj."),
    (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.(position_embeddings|position_embedding\.weight)$", "pos_embed"),
    (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.attention\.([qkv])(uery|ey|alue)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.(self_attn|attention)\.([qkv])_proj\.", r".attn.\2."),
    (r"(?<=\d)\.(self_attn|attention)\.(o|out)_proj\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^(post_)?layernorm\.", "norm."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)


def _huggingface(state: State) -> Named | None:
    stems = ("embeddings.patch_embeddings.projection.weight", "embeddings.patch_embedding.weight")
    prefix = next((p for stem in stems if (p := _prefix(stem, state)) is not None), None)
    if prefix is None:
        return None
    unused = re.compile(
        rf"{re.escape(prefix)}(pooler\.dense\.\w+|embeddings\.(mask_token|position_ids))"
    )
    named = _inside(
        "huggingface",
        prefix,
        state,
        _HUGGINGFACE,
        [key for key in state if unused.fullmatch(key)],
        [key for key in state if re.fullmatch(r"(.*\.)?visual_projection\.weight", key)],
    )
    return _with_classifier(_without_token_position(named))


def _with_classifier(named: Named) -> Named:
    """Take the head, which is beside the network, if its input is the class token.

    DINOv2's also takes the mean of the patches, and CLIP's and SigLIP's that mean alone.
    """
    heads = [key.removesuffix("weight") for key in named.beside if _CLASSIFIER.fullmatch(key)]
    if len(heads) != 1:
        return named
    found = {k.removeprefix(heads[0]): a for k, a in named.beside.items() if k.startswith(heads[0])}
    weight = found["weight"]
    token = None if "norm_pre.weight" in named.state else named.state.get("cls_token")
    if token is None or weight.ndim != 2 or weight.shape[1] != token.shape[-1]:
        note = f"{heads[0]}weight takes more than the class token's features and is left out"
        return named._replace(notes=(*named.notes, note))
    beside = {key: a for key, a in named.beside.items() if not key.startswith(heads[0])}
    head = {f"head.{leaf}": array for leaf, array in found.items()}
    return named._replace(state={**named.state, **head}, beside=beside)


_CLASSIFIER = re.compile(r"(.*\.)?classifier\.weight")


# OpenAI's CLIP, and OpenCLIP

_OPENCLIP: Renames = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def _openclip(state: State) -> Named | None:
    prefix = _prefix("class_embedding", state)
    if prefix is None or f"{prefix}conv1.weight" not in state:
        return None
    projection = [key for key in (f"{prefix}proj",) if key in state]
    return _inside("openclip", prefix, state, _OPENCLIP, projection=projection)


SCHEMES: Mapping[str, Callable[[State], Named | None]] = MappingProxyType(
    {"timm": _timm, "dinov2": _dinov2, "huggingface": _huggingface, "openclip": _openclip}
)
"""Functions from a state dict to canonical names, None if the names are not of the scheme."""
