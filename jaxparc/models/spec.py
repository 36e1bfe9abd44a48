"""The metadata of an architecture."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import flax.linen as nn

from jaxparc.geometry import Geometry


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """An architecture and its metadata.

    Attributes:
      name: its key in `MODELS`.
      module: builds the Linen module from the fields that the package docstring lists.
      feature_width: d, the size of "features" at width 1.
      layers: depth, as counted in the PARC paper: convolutions and linear layers one after the
        other, without those of shortcuts and of squeeze-and-excitation.
      parameters: their number at width 1, with a head of 1,000 classes.
      gmacs: billion multiply-adds per image of `input_size`, as XLA counts them: without
        multiplications by the zeros that pad images, and with those of activations: from 8 % less
        than published counts to, for vision transformers, 4 % more.
      min_size: stem -> the smallest height and width that it accepts, in pixels.
      input_size: height and width of images for the published weights, in pixels.
      mean: per channel (RGB), of images in [0, 1]; subtracted.
      std: per channel (RGB), of images in [0, 1]; divided by after the mean is subtracted.
      interpolation: how images were resized for the published weights, as in `Geometry`.
      crop: as in `Geometry`.
      resize: as in `Geometry`.
    """

    name: str
    module: Callable[..., nn.Module]
    feature_width: int
    layers: int
    parameters: int
    gmacs: float
    min_size: Mapping[str, int] = field(hash=False)
    input_size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop: float = 0.875
    resize: str = "squash"

    @property
    def geometry(self) -> Geometry:
        """How images are resized and cropped for the published weights."""
        return Geometry(self.input_size, self.crop, self.resize, self.interpolation)
