"""What is known of one pretrained model on one probe set: the only thing a selector sees."""

import dataclasses
import functools
from typing import Any

import jax
from jax import Array

# A selector is only ever given a probe that has what it needs: `score_bank` checks that.
_ABSENT: Any = None


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "features",
        "labels",
        "probs",
        "reference",
        "layers",
        "source_images",
        "target_images",
    ],
    meta_fields=["num_classes", "vectors"],
)
@dataclasses.dataclass(frozen=True)
class Probe:
    """One model's look at n labelled target images.

    A pytree, so that `jax.vmap` maps one selector over the probes of a whole bank. A field that
    a selector does not need may be None.

    Attributes:
        features: (n, d) float32, the input of the model's last linear layer in inference mode.
        labels: (n,) int32 classes in [0, c), or (n, c) float32: zeros and ones (multi-label), or
            annotation vectors.
        probs: (n, z) float32, class probabilities of the model, rows summing to 1.
        reference: (n, d') float32, features of a model trained on the target (RSA and DDS).
        layers: () float32, the number of layers of the architecture (ell).
        source_images: () float32, how many images the model was trained on.
        target_images: () float32, how many images the target data set has.
        num_classes: c, classes of the target; static.
        vectors: whether (n, c) labels are annotation vectors, not zeros and ones; static.
    """

    features: Array = _ABSENT
    labels: Array = _ABSENT
    probs: Array = _ABSENT
    reference: Array = _ABSENT
    layers: Array = _ABSENT
    source_images: Array = _ABSENT
    target_images: Array = _ABSENT
    num_classes: int = 0
    vectors: bool = False
