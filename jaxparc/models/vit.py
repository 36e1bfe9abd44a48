"""Vision transformers: ViT, DeiT, DINO, DINOv2, and the image towers of CLIP and SigLIP.

Dosovitskiy et al. 2021 ("An image is worth 16x16 words"), Touvron et al. 2021 and 2022 (DeiT,
DeiT III), Caron et al. 2021 (DINO), Oquab et al. 2024 (DINOv2), Darcet et al. 2024 (registers),
Radford et al. 2021 (CLIP), Zhai et al. 2023 (SigLIP). Names and details are timm's.

Images may have any size: position embeddings are resampled to their grid, and rows and columns of
pixels that do not fill a patch are ignored.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxparc.errors import InputError
from jaxparc.models import layers, positions
from jaxparc.models.spec import ModelSpec

_SMALL_PATCH, _SMALL_SIZE = 4, 32  # of the stem for small images

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": nn.gelu,
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # OpenAI's CLIP
}


class Architecture(NamedTuple):
    """A vision transformer.

    Attributes:
      patch: side of a patch, in pixels.
      heads: number of attention heads at width 1.
      head_size: channels per head, at every width.
      depth: number of blocks.
      size: side of the images for which positions are stored, in pixels.
      class_token: whether a learned token comes before the patches; its output is the features.
        Otherwise a learned query attends to the patches (SigLIP's attention pooling).
      registers: number of further learned tokens, whose output is unused.
      token_position: whether the class token has a position embedding.
      layer_scale: whether the outputs of both parts of a block are scaled per channel.
      pre_norm: whether the first block's input is normalised; patches then have no bias.
      eps: of layer norm.
      activation: a key of `ACTIVATIONS`.
      mlp_ratio: hidden channels of a block, relative to its channels.
    """

    patch: int
    heads: int
    head_size: int = 64
    depth: int = 12
    size: int = 224
    class_token: bool = True
    registers: int = 0
    token_position: bool = True
    layer_scale: bool = False
    pre_norm: bool = False
    eps: float = 1e-6
    activation: str = "gelu"
    mlp_ratio: float = 4.0

    @property
    def grid(self) -> int:
        """Rows and columns of patches in images of `size`."""
        return self.size // self.patch

    @property
    def extra_positions(self) -> int:
        """Number of position embeddings before those of the patches."""
        return int(self.class_token and self.token_position)


_HEADS = {"tiny": 3, "small": 6, "base": 12, "large": 16}
_DEPTHS = {"large": 24}


def _sized(kind: str, patch: int, **options: Any) -> Architecture:
    return Architecture(patch, _HEADS[kind], depth=_DEPTHS.get(kind, 12), **options)


_DEIT3: Mapping[str, Any] = {"layer_scale": True, "token_position": False}
_DINOV2: Mapping[str, Any] = {"layer_scale": True, "size": 518}
_REGISTERS: Mapping[str, Any] = {**_DINOV2, "registers": 4, "token_position": False}
_CLIP: Mapping[str, Any] = {"pre_norm": True, "eps": 1e-5}
_SIGLIP: Mapping[str, Any] = {"class_token": False}

ARCHITECTURES: Mapping[str, Architecture] = {
    "vit_tiny_patch16_224": _sized("tiny", 16),
    "vit_small_patch32_224": _sized("small", 32),
    "vit_small_patch16_224": _sized("small", 16),
    "vit_small_patch8_224": _sized("small", 8),
    "vit_base_patch32_224": _sized("base", 32),
    "vit_base_patch16_224": _sized("base", 16),
    "vit_base_patch8_224": _sized("base", 8),
    "vit_large_patch16_224": _sized("large", 16),
    "deit_tiny_patch16_224": _sized("tiny", 16),
    "deit_small_patch16_224": _sized("small", 16),
    "deit_base_patch16_224": _sized("base", 16),
    "deit3_small_patch16_224": _sized("small", 16, **_DEIT3),
    "deit3_base_patch16_224": _sized("base", 16, **_DEIT3),
    "vit_small_patch14_dinov2": _sized("small", 14, **_DINOV2),
    "vit_base_patch14_dinov2": _sized("base", 14, **_DINOV2),
    "vit_large_patch14_dinov2": _sized("large", 14, **_DINOV2),
    "vit_small_patch14_reg4_dinov2": _sized("small", 14, **_REGISTERS),
    "vit_base_patch14_reg4_dinov2": _sized("base", 14, **_REGISTERS),
    "vit_large_patch14_reg4_dinov2": _sized("large", 14, **_REGISTERS),
    "vit_base_patch32_clip_224": _sized("base", 32, **_CLIP),
    "vit_base_patch16_clip_224": _sized("base", 16, **_CLIP),
    "vit_large_patch14_clip_224": _sized("large", 14, **_CLIP),
    "vit_base_patch32_clip_quickgelu_224": _sized("base", 32, activation="quick_gelu", **_CLIP),
    "vit_base_patch16_clip_quickgelu_224": _sized("base", 16, activation="quick_gelu", **_CLIP),
    "vit_large_patch14_clip_quickgelu_224": _sized("large", 14, activation="quick_gelu", **_CLIP),
    "vit_base_patch16_siglip_224": _sized("base", 16, **_SIGLIP),
    "vit_base_patch16_siglip_256": _sized("base", 16, size=256, **_SIGLIP),
    "vit_so400m_patch14_siglip_384": Architecture(
        14, 16, 72, depth=27, size=384, mlp_ratio=3.7362, **_SIGLIP
    ),
}


_token_init = nn.initializers.normal(0.02)


class LayerScale(nn.Module):
    """A learned factor per channel (Touvron et al. 2021, CaiT)."""

    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (b, n, d) to (b, n, d)."""
        gamma = self.param("gamma", nn.initializers.constant(1e-5), x.shape[-1:], jnp.float32)
        return x * gamma.astype(self.dtype)


class _Parts(NamedTuple):
    """The layers of a network, with their fields set."""

    dense: Any
    norm: Any
    activation: Callable[[jax.Array], jax.Array]
    heads: int
    hidden: int  # channels inside of a block's second part

    def split(self, x: jax.Array, n: int) -> list[jax.Array]:
        """Split (b, n, parts * heads * s) into parts (b, heads, n, s)."""
        apart = x.reshape(*x.shape[:2], n, self.heads, -1).transpose(2, 0, 3, 1, 4)
        return list(apart)


class Block(nn.Module):
    """Self-attention and two linear layers, each with a shortcut."""

    parts: _Parts
    dtype: DTypeLike
    layer_scale: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (b, n, d) to (b, n, d)."""
        dense, norm, channels = self.parts.dense, self.parts.norm, x.shape[-1]
        y = dense(3 * channels, name="qkv")(norm(name="norm1")(x))
        y = layers.attend(*self.parts.split(y, 3))
        y = dense(channels, name="proj")(y)
        x = x + (LayerScale(self.dtype, name="ls1")(y) if self.layer_scale else y)
        y = dense(self.parts.hidden, name="fc1")(norm(name="norm2")(x))
        y = dense(channels, name="fc2")(self.parts.activation(y))
        return x + (LayerScale(self.dtype, name="ls2")(y) if self.layer_scale else y)


class AttentionPool(nn.Module):
    """Attention of one learned query to the patches (Lee et al. 2019, "Set transformer")."""

    parts: _Parts
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (b, n, d) to (b, d)."""
        dense, (b, _, channels) = self.parts.dense, x.shape
        latent = self.param("latent", _token_init, (1, 1, channels), jnp.float32)
        q = dense(channels, name="q")(latent.astype(self.dtype))
        (q,) = self.parts.split(jnp.broadcast_to(q, (b, 1, channels)), 1)
        k, v = self.parts.split(dense(2 * channels, name="kv")(x), 2)
        y = layers.attend(q, k, v)[:, 0]
        x = dense(channels, name="proj")(y)
        y = dense(self.parts.hidden, name="fc1")(self.parts.norm(name="norm")(x))
        return x + dense(channels, name="fc2")(self.parts.activation(y))


class VisionTransformer(nn.Module):
    """A vision transformer; see the package docstring for the fields that all networks share.

    It has no batch norm, so that `axis_name` and `mask` have no effect. `width` multiplies the
    number of attention heads, which is rounded, so that features are a multiple of a head's size.

    Attributes:
      architecture: a key of `ARCHITECTURES`.
      stem: "imagenet", or "small" for patches of 4x4 pixels.
      dropout_rate: for the features, in training.
      grid: rows and columns of the stored position embeddings; by default, those of patches in
        images of the architecture's size, or of 32 pixels for the stem "small".
      positions: whose way to resample them for images of another size, a key of
        `positions.METHODS`.
      pooling: "avg" for the mean of the patches in place of the class token or attention pooling.
      eps: of layer norm, if it is not the architecture's.
      activation: a key of `ACTIVATIONS`, if it is not the architecture's.
    """

    architecture: str
    num_classes: int
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    stem: str = "imagenet"
    axis_name: str | None = None
    dropout_rate: float = 0.0
    grid: int | None = None
    positions: str = "timm"
    pooling: str | None = None
    eps: float | None = None
    activation: str | None = None

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return logits (b, c) and activations: "stem" and "block0" onwards (b, n, d), "features".

        The class token and the registers, if there are any, come before the patches.
        """
        del mask
        arch = ARCHITECTURES[self.architecture]
        layers.check_images(images, self.architecture, self.stem, _min_size(arch))
        parts = self._parts(arch)
        x = self._tokens(arch, images, parts.heads * arch.head_size)
        if arch.pre_norm:
            x = parts.norm(name="norm_pre")(x)
        out = {"stem": x}
        for i in range(arch.depth):
            x = Block(parts, self.dtype, arch.layer_scale, name=f"block{i}")(x)
            out[f"block{i}"] = x

        if self.pooling == "avg":
            patches = x[:, arch.class_token + arch.registers :]
            x = patches.mean(axis=1, dtype=jnp.float32).astype(self.dtype)
            x = parts.norm(name="fc_norm")(x)
        elif arch.class_token:
            x = parts.norm(name="norm")(x[:, 0])
        else:
            x = parts.norm(name="norm")(x)
            x = AttentionPool(parts, self.dtype, name="attn_pool")(x)
        # the head is small: in float32 it costs nothing and the logits are not rounded
        x = out["features"] = x.astype(jnp.float32)
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        return nn.Dense(self.num_classes, kernel_init=layers.head_init, name="head")(x), out

    def _parts(self, arch: Architecture) -> _Parts:
        activation = self.activation or arch.activation
        for field, value, known in (
            ("activation", activation, ACTIVATIONS),
            ("positions", self.positions, positions.METHODS),
            ("pooling", self.pooling, (None, "avg")),
        ):
            if value not in known:
                raise InputError(
                    f"{self.architecture}: unknown {field} {value!r}; known: "
                    f"{', '.join(filter(None, known))}"
                )
        heads = layers.scaled(arch.heads, self.width)
        return _Parts(
            functools.partial(
                nn.Dense, dtype=self.dtype, kernel_init=nn.initializers.xavier_uniform()
            ),
            functools.partial(
                layers.LayerNorm,
                eps=arch.eps if self.eps is None else self.eps,
                dtype=self.dtype,
            ),
            ACTIVATIONS[activation],
            heads,
            int(heads * arch.head_size * arch.mlp_ratio),
        )

    def _tokens(self, arch: Architecture, images: jax.Array, channels: int) -> jax.Array:
        """Return patches with their positions, after the class token and the registers."""
        patch = arch.patch if self.stem == "imagenet" else _SMALL_PATCH
        x = layers.Conv(
            channels,
            (patch, patch),
            patch,
            padding="VALID",
            use_bias=not arch.pre_norm,
            dtype=self.dtype,
            name="patch_embed",
        )(images)
        b, height, width, _ = x.shape
        grid = self.grid or (arch.grid if self.stem == "imagenet" else _SMALL_SIZE // _SMALL_PATCH)
        extra = arch.extra_positions
        shape = (1, extra + grid**2, channels)
        stored = self.param("pos_embed", _token_init, shape, jnp.float32)
        resampled = positions.resample(
            stored[0, extra:].reshape(grid, grid, channels), height, width, self.positions
        )
        tokens = [(x + resampled.astype(self.dtype)).reshape(b, height * width, channels)]
        if arch.registers:
            shape = (1, arch.registers, channels)
            tokens.insert(0, self.param("reg_token", _token_init, shape, jnp.float32))
        if arch.class_token:
            token = self.param("cls_token", _token_init, (1, 1, channels), jnp.float32)
            tokens.insert(0, token + stored[:, :extra] if extra else token)
        wide = [jnp.broadcast_to(t.astype(self.dtype), (b, *t.shape[1:])) for t in tokens]
        return jnp.concatenate(wide, axis=1)


def _min_size(arch: Architecture) -> Mapping[str, int]:
    return {"imagenet": arch.patch, "small": _SMALL_PATCH}


HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _images(name: str) -> dict[str, Any]:
    """Return how images are prepared for the usual weights."""
    if "_clip_" in name:
        return {"mean": CLIP_MEAN, "std": CLIP_STD, "crop": 1.0}
    if "dinov2" in name:
        return {"crop": 1.0}
    if name.startswith("deit") or name == "vit_small_patch8_224":  # DINO's
        return {"crop": 0.9}
    return {"mean": HALF, "std": HALF, "crop": 0.9}


def _spec(name: str, parameters: int, gmacs: float) -> ModelSpec:
    arch = ARCHITECTURES[name]
    # patches and head; qkv, proj, fc1, fc2 of each block; of attention pooling, q is beside kv
    depth = 2 + 4 * arch.depth + (0 if arch.class_token else 4)
    return ModelSpec(
        name=name,
        module=functools.partial(VisionTransformer, name),
        feature_width=arch.heads * arch.head_size,
        layers=depth,
        parameters=parameters,
        gmacs=gmacs,
        min_size=_min_size(arch),
        input_size=arch.size,
        interpolation="bicubic",
        resize="shortest",
        **_images(name),
    )


SPECS = (
    _spec("vit_tiny_patch16_224", 5_717_416, 1.323),
    _spec("vit_small_patch32_224", 22_878_952, 1.177),
    _spec("vit_small_patch16_224", 22_050_664, 4.738),
    _spec("vit_small_patch8_224", 22_055_272, 23.04),
    _spec("vit_base_patch32_224", 88_224_232, 4.477),
    _spec("vit_base_patch16_224", 86_567_656, 17.84),
    _spec("vit_base_patch8_224", 86_576_872, 79.42),
    _spec("vit_large_patch16_224", 304_326_632, 62.3),
    _spec("deit_tiny_patch16_224", 5_717_416, 1.323),
    _spec("deit_small_patch16_224", 22_050_664, 4.738),
    _spec("deit_base_patch16_224", 86_567_656, 17.84),
    _spec("deit3_small_patch16_224", 22_059_496, 4.739),
    _spec("deit3_base_patch16_224", 86_585_320, 17.84),
    _spec("vit_small_patch14_dinov2", 22_441_192, 47.96),
    _spec("vit_base_patch14_dinov2", 87_348_712, 154.1),
    _spec("vit_large_patch14_dinov2", 305_392_616, 513.5),
    _spec("vit_small_patch14_reg4_dinov2", 22_442_344, 48.15),
    _spec("vit_base_patch14_reg4_dinov2", 87_351_016, 154.7),
    _spec("vit_large_patch14_reg4_dinov2", 305_395_688, 515.3),
    _spec("vit_base_patch32_clip_224", 88_225_000, 4.477),
    _spec("vit_base_patch16_clip_224", 86_568_424, 17.84),
    _spec("vit_large_patch14_clip_224", 304_204_776, 81.99),
    _spec("vit_base_patch32_clip_quickgelu_224", 88_225_000, 4.421),
    _spec("vit_base_patch16_clip_quickgelu_224", 86_568_424, 17.62),
    _spec("vit_large_patch14_clip_quickgelu_224", 304_204_776, 81.23),
    _spec("vit_base_patch16_siglip_224", 93_653_224, 17.99),
    _spec("vit_base_patch16_siglip_256", 93_699_304, 23.78),
    _spec("vit_so400m_patch14_siglip_384", 429_378_600, 338.9),
)
