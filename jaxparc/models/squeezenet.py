"""SqueezeNet 1.1 (Iandola et al. 2016, "SqueezeNet", and the authors' later version of it).

The variant is torchvision's `squeezenet1_1`, which is the authors': an unpadded first convolution,
max pools in ceil mode, and a classifier that is a 1x1 convolution, followed by relu and an average
over the map. "features" is the average of its input.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxparc.models import layers
from jaxparc.models.spec import ModelSpec

# With smaller images, the last max pool has an empty output.
MIN_SIZE: Mapping[str, int] = {"imagenet": 17, "small": 4}

# Channels of a fire module (table 1): its squeeze layer, and each of its two expand layers.
FIRES: tuple[tuple[int, int], ...] = (
    (16, 64),
    (16, 64),
    (32, 128),
    (32, 128),
    (48, 192),
    (48, 192),
    (64, 256),
    (64, 256),
)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1; see the package docstring for the fields that all networks share.

    It has no batch norm, so that `axis_name` and `mask` have no effect.

    Attributes:
      stem: "imagenet" (3x3, stride 2, and a max pool) or "small" (3x3, stride 1, no pool).
      dropout_rate: for the input of the classifier, in training.
    """

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
        """Return logits (b, c) and activations: "conv1", "fire2" to "fire9", "features"."""
        del mask
        layers.check_images(images, "squeezenet1_1", self.stem, MIN_SIZE)
        imagenet = self.stem == "imagenet"
        out = {}

        def conv(
            x: jax.Array, channels: int, kernel: int, name: str, stride: int = 1, padding: int = 0
        ) -> jax.Array:
            x = layers.Conv(
                layers.scaled(channels, self.width),
                (kernel, kernel),
                stride,
                padding=padding,
                dtype=self.dtype,
                kernel_init=layers.he_normal_fan_in,
                name=name,
            )(x)
            return nn.relu(x)

        if imagenet:
            x = out["conv1"] = conv(images, 64, 3, "conv1", stride=2)
        else:
            x = out["conv1"] = conv(images, 64, 3, "conv1", padding=1)
        for i, (squeeze, expand) in enumerate(FIRES, start=2):
            if i in (4, 6) or (i == 2 and imagenet):
                x = layers.max_pool(x, 3, 2, ceil_mode=True)
            name = f"fire{i}"
            x = conv(x, squeeze, 1, f"{name}_squeeze")
            one = conv(x, expand, 1, f"{name}_expand1x1")
            three = conv(x, expand, 3, f"{name}_expand3x3", padding=1)
            x = out[name] = jnp.concatenate([one, three], axis=-1)

        # the classifier is small: in float32 it costs little and the logits are not rounded
        x = x.astype(jnp.float32)
        out["features"] = x.mean(axis=(1, 2))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
        x = nn.relu(nn.Dense(self.num_classes, kernel_init=layers.head_init, name="head")(x))
        return x.mean(axis=(1, 2)), out


SPECS = (
    ModelSpec(
        name="squeezenet1_1",
        module=SqueezeNet,
        feature_width=512,
        layers=18,
        parameters=1_235_496,
        gmacs=0.3441,
        min_size=MIN_SIZE,
    ),
)
