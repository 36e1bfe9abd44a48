"""`Probe`: one pretrained model on one probe set, the only argument of a selector."""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.selectors import components

# The last singular value asked for over the first, below which float32 is too coarse for features
# that were rounded to it.
ILL_CONDITIONED = 1e-4

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
        "scale",
    ],
    meta_fields=["num_classes", "vectors", "absent"],
)
@dataclasses.dataclass(frozen=True)
class Probe:
    """One model on n labelled target images.

    A pytree, so that `jax.vmap` maps a selector over the models of a bank. Fields that a selector
    does not need may be None.

    Attributes:
        features: (n, d) float32, the input of the model's last linear layer in inference mode; or
            float64, and then scores are computed in it.
        labels: (n,) int32 classes in [0, c), or (n, c) float32: zeros and ones (multi-label), or
            annotation vectors.
        probs: (n, z) float32, class probabilities of the model, rows summing to 1.
        reference: (n, d') float32, features of a model trained on the target (RSA and DDS).
        layers: () float32, the number of layers of the architecture (ell).
        source_images: () float32, how many images the model was trained on.
        target_images: () float32, how many images the target data set has.
        scale: () float32 or float64, what the features were divided by (only the logistic selector
            depends on it); None for 1.
        num_classes: c, classes of the target; static.
        vectors: whether (n, c) labels are annotation vectors, not zeros and ones; static.
        absent: number of further classes, not among the c, that no image has; static.
    """

    features: Array = _ABSENT
    labels: Array = _ABSENT
    probs: Array = _ABSENT
    reference: Array = _ABSENT
    layers: Array = _ABSENT
    source_images: Array = _ABSENT
    target_images: Array = _ABSENT
    scale: Array = _ABSENT
    num_classes: int = 0
    vectors: bool = False
    absent: int = 0

    def computing_once(self) -> "Probe":
        """Return the same probe, whose methods compute each result once.

        XLA alone does not merge everything that selectors share. For use inside one traced
        function: results are kept with the object, so no transformation may lie between its calls.
        """
        probe = dataclasses.replace(self)
        object.__setattr__(probe, "_results", {})
        return probe

    # What several selectors share.

    def principal(self, n_dims: int) -> tuple[Array, Array, Array]:
        """Singular vectors, singular values and which count, see `components.principal`."""
        return self.once(
            ("principal", n_dims),
            lambda: components.principal(self.features, n_dims, self.centred_gram(None)),
        )

    def reduced(self, n_dims: int | None) -> tuple[Array, Array | None]:
        """Features (n, d), or their n_dims principal components, and which of these count."""
        if n_dims is None:
            return self.features, None
        left, values, kept = self.principal(n_dims)
        return left * values[None, :], kept

    def represented(self, n_dims: int | None) -> tuple[Array, Array | None]:
        """Features as representations are compared: reduced, if asked for, then standardised.

        After a reduction that whitens. Also which columns count: None for all, or (f,) bool.
        """

        def compute() -> tuple[Array, Array | None]:
            if n_dims is None:
                return stats.standardize(self.features), None
            # the vectors, not the scores: their sizes would be divided out again
            left, _, kept = self.principal(n_dims)
            return stats.standardize(left), kept

        return self.once(("represented", n_dims), compute)

    def row_products(self, n_dims: int | None) -> tuple[Array, Array]:
        """Those of the represented features, see `stats.row_products`."""
        return self.once(
            ("row_products", n_dims), lambda: stats.row_products(*self.represented(n_dims))
        )

    def dissimilarity_ranks(self, n_dims: int | None) -> Array:
        """Standard ranks, (n * (n - 1) / 2,), of one minus the correlations of the images."""

        def compute() -> Array:
            x, kept = self.represented(n_dims)
            r = stats.correlations(self.row_products(n_dims)[0], stats.varies(x, kept))
            return stats.standard_ranks(1.0 - stats.upper_triangle(r))

        return self.once(("dissimilarity_ranks", n_dims), compute)

    def centred_gram(self, n_dims: int | None) -> tuple[Array, Array]:
        """Of the features, reduced if asked for, see `stats.centred_gram`."""
        return self.once(
            ("centred_gram", n_dims), lambda: stats.centred_gram(self.reduced(n_dims)[0])
        )

    # Whether float32 is precise enough.

    def ill_conditioned(self, n_dims: int | None = None) -> Array:
        """Whether the components asked for are so small beside the first that rounding hides them.

        That is rounding of the features to float32; small columns of float32 features are exact.
        """
        if n_dims is None:
            return jnp.bool_(False)
        values = self.principal(n_dims)[1]
        last = min(len(values), self.features.shape[0] - 1) - 1  # centring takes one
        return ~(values[last] > ILL_CONDITIONED * values[0])

    def crowded(self, n_dims: int | None = None) -> Array:
        """Whether most images have a neighbour too near for inner products, see `stats.crowded`."""

        def compute() -> Array:
            products, _ = self.centred_gram(n_dims)
            share = stats.CROWDED[products.dtype.itemsize]
            return stats.crowded(self.distances(n_dims), jnp.diagonal(products), share)

        return self.once(("crowded", n_dims), compute)

    def distances(self, n_dims: int | None) -> Array:
        """Squared distances of the features, reduced if asked for, over the square of their scale.

        By differences in float64, which is used where inner products are too coarse.
        """

        def compute() -> Array:
            if self.features.dtype == jnp.float64:
                return stats.squared_distances(self.reduced(n_dims)[0])
            # ||a - b||^2 = ||a||^2 + ||b||^2 - 2ab cancels; centring keeps the terms of the size of
            # the distances themselves.
            products, _ = self.centred_gram(n_dims)
            squares = jnp.diagonal(products)
            return squares[:, None] + squares[None, :] - 2.0 * products

        return self.once(("distances", n_dims), compute)

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return `compute()`, kept under `key` if `computing_once` made this probe."""
        results: dict[Hashable, Any] | None = self.__dict__.get("_results")
        if results is None:
            return compute()
        if key not in results:
            results[key] = compute()
        return results[key]
