"""AlexNet (Krizhevsky 2014, "One weird trick for parallelizing convolutional networks").

The variant is torchvision's: one tower, 64 filters in the first layer, no local response
normalisation, and an adaptive average pool to 6x6 before the fully connected layers.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxparc.models import layers
from jaxparc.models.spec import ModelSpec

# With smaller images, the last unpadded max pool has an empty output.
MIN_SIZE: Mapping[str, int] = {"imagenet": 63, "small": 7}


class AlexNet(nn.Module):
    """AlexNet; see the package docstring for the fields that all networks share.

    It has no batch norm, so that `axis_name` and `mask` have no effect. Kernels have He's
    initialisation: torchvision's default has a sixth of that variance, with which the signal
    vanishes after eight layers without batch norm.

    Attributes:
      stem: "imagenet" (11x11, stride 4, and a max pool) or "small" (3x3, stride 1, no pool).
      dropout_rate: for the inputs of both hidden fully connected layers, in training.
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
        """Return logits (b, c) and activations: "conv1" to "conv5", "fc1", "features"."""
        del mask
        layers.check_images(images, "alexnet", self.stem, MIN_SIZE)
        out = {}

        def conv(x: jax.Array, i: int, channels: int, kernel: int, stride: int = 1) -> jax.Array:
            # 11x11 is padded by 2, the others so that the map keeps its size
            x = layers.Conv(
                layers.scaled(channels, self.width),
                (kernel, kernel),
                stride,
                padding=min(kernel // 2, 2),
                dtype=self.dtype,
                kernel_init=layers.he_normal_fan_in,
                name=f"conv{i}",
            )(x)
            out[f"conv{i}"] = nn.relu(x)
            return out[f"conv{i}"]

        def hidden(x: jax.Array, i: int) -> jax.Array:
            x = nn.Dropout(self.dropout_rate, deterministic=not train)(x)
            x = nn.Dense(
                layers.scaled(4096, self.width),
                dtype=self.dtype,
                kernel_init=layers.he_normal_fan_in,
                name=f"fc{i}",
            )(x)
            return nn.relu(x)

        if self.stem == "imagenet":
            x = layers.max_pool(conv(images, 1, 64, 11, 4), 3, 2)
        else:
            x = conv(images, 1, 64, 3)
        x = layers.max_pool(conv(x, 2, 192, 5), 3, 2)
        x = conv(x, 3, 384, 3)
        x = conv(x, 4, 256, 3)
        x = layers.max_pool(conv(x, 5, 256, 3), 3, 2)
        x = layers.adaptive_avg_pool(x, 6)

        x = out["fc1"] = hidden(x.reshape(x.shape[0], -1), 1)
        # the head is small: in float32 it costs nothing and the logits are not rounded
        x = out["features"] = hidden(x, 2).astype(jnp.float32)
        return nn.Dense(self.num_classes, kernel_init=layers.head_init, name="head")(x), out


SPECS = (
    ModelSpec(
        name="alexnet",
        module=AlexNet,
        feature_width=4096,
        layers=8,
        parameters=61_100_840,
        gmacs=0.6595,
        min_size=MIN_SIZE,
    ),
)
