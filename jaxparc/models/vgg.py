"""VGG (Simonyan and Zisserman 2015, "Very deep convolutional networks"), configurations A, B, D, E.

The variant is torchvision's: an adaptive average pool to 7x7 comes before the fully connected
layers, so that they take images of any size.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxparc.models import layers
from jaxparc.models.spec import ModelSpec

# With smaller images, the last max pool has an empty output.
MIN_SIZE: Mapping[str, int] = {"imagenet": 32, "small": 8}

SIDE = 7  # of the map that the fully connected layers take
_CHANNELS = (64, 128, 256, 512, 512)


class Architecture(NamedTuple):
    """How the networks differ.

    Attributes:
      stages: number of convolutions before each of the five max pools (table 1).
      batch_norm: whether batch norm follows each convolution.
    """

    stages: tuple[int, int, int, int, int]
    batch_norm: bool


ARCHITECTURES: Mapping[str, Architecture] = {
    f"{name}{'_bn' * batch_norm}": Architecture(stages, batch_norm)
    for name, stages in {
        "vgg11": (1, 1, 2, 2, 2),
        "vgg13": (2, 2, 2, 2, 2),
        "vgg16": (2, 2, 3, 3, 3),
        "vgg19": (2, 2, 4, 4, 4),
    }.items()
    for batch_norm in (False, True)
}


class VGG(nn.Module):
    """A VGG network; see the package docstring for the fields that all networks share.

    Without batch norm, `axis_name` and `mask` have no effect.

    Attributes:
      architecture: a key of `ARCHITECTURES`.
      stem: "imagenet" or "small" (no max pools after the first two stages).
      dropout_rate: for the outputs of both hidden fully connected layers, in training.
    """

    architecture: str
    num_classes: int
    width: float = 1.0
    dtype: DTypeLike = jnp.float32
    stem: str = "imagenet"
    axis_name: str | None = None
    dropout_rate: float = 0.5

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool = False, mask: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Return logits (b, c) and activations: "stage1" to "stage5", "fc1", "features"."""
        layers.check_images(images, self.architecture, self.stem, MIN_SIZE)
        architecture = ARCHITECTURES[self.architecture]
        out = {}

        def conv(x: jax.Array, channels: int, place: str) -> jax.Array:
            x = layers.Conv(
                layers.scaled(channels, self.width),
                (3, 3),
                1,
                padding=1,
                dtype=self.dtype,
                kernel_init=layers.he_normal_fan_in,
                name=f"conv{place}",
            )(x)
            if architecture.batch_norm:
                norm = layers.BatchNorm(
                    dtype=self.dtype, axis_name=self.axis_name, name=f"bn{place}"
                )
                x = norm(x, train=train, mask=mask)
            return nn.relu(x)

        def hidden(x: jax.Array, i: int) -> jax.Array:
            x = nn.Dense(
                layers.scaled(4096, self.width),
                dtype=self.dtype,
                kernel_init=layers.he_normal_fan_in,
                name=f"fc{i}",
            )(x)
            return nn.Dropout(self.dropout_rate, deterministic=not train)(nn.relu(x))

        x = images
        stages = zip(_CHANNELS, architecture.stages, strict=True)
        for stage, (channels, convolutions) in enumerate(stages, start=1):
            for i in range(1, convolutions + 1):
                x = conv(x, channels, f"{stage}_{i}")
            out[f"stage{stage}"] = x
            if self.stem == "imagenet" or stage > 2:
                x = layers.max_pool(x, 2, 2)
        x = layers.adaptive_avg_pool(x, SIDE)

        x = out["fc1"] = hidden(x.reshape(x.shape[0], -1), 1)
        # the head is small: in float32 it costs nothing and the logits are not rounded
        x = out["features"] = hidden(x, 2).astype(jnp.float32)
        return nn.Dense(self.num_classes, kernel_init=layers.head_init, name="head")(x), out


def _spec(name: str, layers: int, parameters: int, gmacs: float) -> ModelSpec:
    return ModelSpec(
        name=name,
        module=functools.partial(VGG, name),
        feature_width=4096,
        layers=layers,
        parameters=parameters,
        gmacs=gmacs,
        min_size=MIN_SIZE,
        resize="shortest",
    )


SPECS = (
    _spec("vgg11", 11, 132_863_336, 7.332),
    _spec("vgg11_bn", 11, 132_868_840, 7.343),
    _spec("vgg13", 13, 133_047_848, 11.0),
    _spec("vgg13_bn", 13, 133_053_736, 11.02),
    _spec("vgg16", 16, 138_357_544, 14.99),
    _spec("vgg16_bn", 16, 138_365_992, 15.01),
    _spec("vgg19", 19, 143_667_240, 18.98),
    _spec("vgg19_bn", 19, 143_678_248, 19.0),
)
