"""`Probe`: one pretrained model on one probe set, the only argument of a selector."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.selectors import components

# Ratio of the last requested singular value to the first below which float32 is too coarse for
# features that were rounded to it.
ILL_CONDITIONED = 1e-4


class Spectrum(NamedTuple):
    """Eigendecomposition K = V diag(w) V^T of a centred Gram matrix; see `Probe.spectrum`.

    Attributes:
        values: (k,) float32, w, not negative.
        vectors: (n, k) float32, V, orthonormal columns (or zeros). k = n, or f after a reduction,
            and then K is 0 on all vectors that are orthogonal to these.
        scale: () float32, the number that the features were divided by.
    """

    values: Array
    vectors: Array
    scale: Array

    def project(self, y: Array) -> tuple[Array, Array]:
        """Return V^T (y - mean(y)), (k, c), and the part of it outside of the span of V, (n, c).

        Args:
            y: (n, c) float32.
        """
        centred = y - jnp.mean(y, axis=0, keepdims=True)
        inside = stats.matmul(self.vectors.T, centred)
        if self.vectors.shape[0] == self.vectors.shape[1]:  # nothing but rounding is left
            return inside, jnp.zeros_like(centred)
        return inside, centred - stats.matmul(self.vectors, inside)


class Products(NamedTuple):
    """Inner products of represented features: see `Probe.represented`.

    Attributes:
        centred: (n, n) float32, of the rows minus their means.
        means: (n,) float32, the means of the rows over the columns that count.
        varies: (n,) bool, which rows are not constant over these columns.
        nonzero: (n,) bool, which rows have a value other than 0.
    """

    centred: Array
    means: Array
    varies: Array
    nonzero: Array


# `score_bank` checks that a probe has all the fields that a selector needs.
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
        "summaries",
        "width",
    ],
    meta_fields=["num_classes", "kind", "absent"],
)
@dataclasses.dataclass(frozen=True)
class Probe:
    """One model on n labelled target images.

    A pytree, so that `jax.vmap` maps a selector over the models of a bank. Fields that a selector
    does not need may be None.

    Attributes:
        features: (n, d) float32, the input of the model's last linear layer in inference mode; if
            float64, scores are computed in float64.
        labels: (n,) int32 classes in [0, c), or (n, c) float32: zeros and ones (multi-label),
            annotation vectors, or values of mean 0 and variance 1 per column.
        probs: (n, z) float32, class probabilities of the model, rows summing to 1.
        reference: (n, d') float32, features of a model trained on the target (RSA and DDS).
        layers: () float32, the number of layers of the architecture (ell).
        source_images: () float32, the number of images that the model was trained on.
        target_images: () float32, the number of images in the target data set.
        scale: () float32 or float64, the number that the features were divided by (only
            selectors that are not invariant to the scale depend on it); None for 1.
        summaries: results of functions in `SUMMARIES`, and components under `components_name`;
            None if there are none. Selectors that need nothing else of the features also work
            without them.
        width: () int32, d, if there are summaries; see `num_columns`.
        num_classes: c, the number of classes of the target, or of columns; static.
        kind: the kind of the labels, one of `jaxparc.labels.KINDS`; static.
        absent: number of further classes, beyond the c, that have no image; static.
    """

    features: Array = _ABSENT
    labels: Array = _ABSENT
    probs: Array = _ABSENT
    reference: Array = _ABSENT
    layers: Array = _ABSENT
    source_images: Array = _ABSENT
    target_images: Array = _ABSENT
    scale: Array = _ABSENT
    summaries: Mapping[str, Any] = _ABSENT
    width: Array = _ABSENT
    num_classes: int = 0
    kind: str = "classes"
    absent: int = 0

    def computing_once(self) -> "Probe":
        """Return the same probe, with methods that cache their results.

        XLA alone does not merge everything that selectors share. Use this within one traced
        function only: cached results are tracers, which must not escape a transformation.
        """
        probe = dataclasses.replace(self)
        object.__setattr__(probe, "_results", {})
        return probe

    @property
    def _has_features(self) -> bool:
        return self.features is not None

    # Intermediate results that several selectors share.

    def summary(self, name: str) -> Any:
        """Return the result of a function in `SUMMARIES`, from `summaries` if it is there."""
        if self.summaries is not None and name in self.summaries:
            return self.summaries[name]
        return self.once(name, lambda: SUMMARIES[name](self))

    def targets(self, dtype: Any) -> Array:
        """Return the labels as numbers, (n, c): one-hot for classes."""
        if self.kind == "classes":
            return jax.nn.one_hot(self.labels, self.num_classes, dtype=dtype)
        return self.labels.astype(dtype)

    def principal(self, n_dims: int) -> tuple[Array, Array, Array]:
        """Return singular vectors, values and which of them count; see `components.principal`.

        Without the features they are a summary under `components_name`, or else those of the Gram
        matrix, if not `unresolved`.
        """
        if self._has_features:
            return self.once(
                ("principal", n_dims),
                lambda: components.principal(self.features, n_dims, self.centred_gram(None)),
            )
        if (name := components_name(n_dims)) in self.summaries:
            return self.summaries[name]
        return self._principal_of_gram(n_dims)[:3]

    def _principal_of_gram(self, n_dims: int) -> tuple[Array, Array, Array, Array]:
        return self.once(
            ("principal", n_dims),
            lambda: components.principal_of_gram(*self.centred_gram(None), n_dims),
        )

    def reduced(self, n_dims: int | None) -> tuple[Array, Array | None]:
        """Return features (n, d) and None, or principal components (n, f) and which count, (f,)."""
        if n_dims is None:
            return self.features, None
        left, values, kept = self.principal(n_dims)
        return left * values[None, :], kept

    def num_columns(self, n_dims: int | None) -> Array:
        """Return d, () int32, or the number of principal components that are not noise."""
        if n_dims is not None:
            return jnp.sum(self.principal(n_dims)[2], dtype=jnp.int32)
        return jnp.int32(self.features.shape[1]) if self._has_features else self.width

    def represented(self, n_dims: int | None) -> tuple[Array, Array | None]:
        """Return features reduced to n_dims, unless it is None, and standardised.

        After a reduction, standardising whitens the components. The second result is which columns
        count: None for all, or (f,) bool.
        """

        def compute() -> tuple[Array, Array | None]:
            if n_dims is None:
                return stats.standardize(self.features), None
            # Vectors instead of scores: standardising would remove the singular values again.
            left, _, kept = self.principal(n_dims)
            return stats.standardize(left), kept

        return self.once(("represented", n_dims), compute)

    def products(self, n_dims: int | None) -> Products:
        """Return the inner products of the represented features."""
        if n_dims is None:
            return self.summary("products")
        return self.once(("products", n_dims), lambda: _products(*self.represented(n_dims)))

    def dissimilarity_ranks(self, n_dims: int | None) -> Array:
        """Return the standard ranks, (n * (n - 1) / 2,), of one minus the images' correlations."""

        def compute() -> Array:
            products = self.products(n_dims)
            r = stats.correlations(products.centred, products.varies)
            return stats.standard_ranks(1.0 - stats.upper_triangle(r))

        return self.once(("dissimilarity_ranks", n_dims), compute)

    def centred_gram(self, n_dims: int | None) -> tuple[Array, Array]:
        """Return `stats.centred_gram` of the features, reduced to n_dims unless it is None.

        The scale does not include that of `Probe.scale`; see `original_scale`.
        """
        if n_dims is None:
            return self.summary("centred_gram")
        return self.once(
            ("centred_gram", n_dims), lambda: stats.centred_gram(self.reduced(n_dims)[0])
        )

    def directions(self, n_dims: int | None) -> Array:
        """Return `stats.directions` of the features, reduced to n_dims unless it is None."""
        if n_dims is None:
            return self.summary("directions")
        return self.once(("directions", n_dims), lambda: stats.directions(self.reduced(n_dims)[0]))

    def spectrum(self, n_dims: int | None) -> Spectrum:
        """Return the eigendecomposition of `centred_gram`, of features reduced to n_dims if given.

        The scale is another one after a reduction, which does not need `centred_gram`.
        """

        def compute() -> Spectrum:
            if n_dims is None:
                gram, scale = self.centred_gram(None)
                values, vectors = jnp.linalg.eigh(gram, symmetrize_input=False)
                # Exactly, the vectors have mean 0, but for that of the mean, whose value is 0. The
                # decomposition mixes it with others of value 0.
                vectors = vectors - jnp.mean(vectors, axis=0, keepdims=True)
                values = jnp.maximum(values, 0.0) * jnp.sum(jnp.square(vectors), axis=0)
                return Spectrum(values, vectors, scale)
            left, values, _ = self.principal(n_dims)
            scale = jnp.where(values[0] == 0, 1.0, values[0])
            return Spectrum(jnp.square(values / scale), left, scale)

        return self.once(("spectrum", n_dims), compute)

    def original_scale(self, scale: Array) -> Array:
        """Return what features were divided by altogether, if they were then divided by `scale`."""
        return scale if self.scale is None else scale * self.scale

    # Checks of whether float32, or the summaries, are precise enough.

    def unresolved(self, n_dims: int) -> Array:
        """Return whether the Gram matrix does not determine the components, () bool.

        They must then be computed from the features.
        """
        if self._has_features or components_name(n_dims) in self.summaries:
            return jnp.bool_(False)
        f = min(n_dims, len(self.centred_gram(None)[0]))
        return ~self._principal_of_gram(n_dims)[3] | (
            f > components.most_from_gram(self.num_columns(None))
        )

    def ill_conditioned(self, n_dims: int | None = None) -> Array:
        """Return whether rounding to float32 hides the smallest requested component, () bool.

        This matters only if the features were rounded to float32; small columns of features given
        in float32 are exact.
        """
        if n_dims is None:
            return jnp.bool_(False)
        values = self.principal(n_dims)[1]
        last = min(len(values), len(self.principal(n_dims)[0]) - 1) - 1  # centring removes one
        return ~(values[last] > ILL_CONDITIONED * values[0])

    def crowded(self, n_dims: int | None = None) -> Array:
        """Return whether most images have a neighbour too close for inner products, () bool.

        See `stats.crowded`.
        """

        def compute() -> Array:
            products, _ = self.centred_gram(n_dims)
            share = stats.CROWDED[products.dtype.itemsize]
            return stats.crowded(self.distances(n_dims), jnp.diagonal(products), share)

        return self.once(("crowded", n_dims), compute)

    def distances(self, n_dims: int | None) -> Array:
        """Return squared distances, (n, n), of the features, reduced to n_dims unless it is None.

        They are divided by the square of the scale of `centred_gram`. In float64, which is used
        where inner products are too coarse, they are sums of squared differences.
        """

        def compute() -> Array:
            if self._has_features and self.features.dtype == jnp.float64:
                return stats.squared_distances(self.reduced(n_dims)[0])
            # ||a - b||^2 = ||a||^2 + ||b||^2 - 2ab cancels; centring keeps the terms about as large
            # as the distances themselves.
            products, _ = self.centred_gram(n_dims)
            squares = jnp.diagonal(products)
            return squares[:, None] + squares[None, :] - 2.0 * products

        return self.once(("distances", n_dims), compute)

    def once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return `compute()`, cached under `key` if `computing_once` returned this probe."""
        results: dict[Hashable, Any] | None = self.__dict__.get("_results")
        if results is None:
            return compute()
        if key not in results:
            results[key] = compute()
        return results[key]


def components_name(n_dims: int) -> str:
    """Return the name of a summary: the result of `Probe.principal`, computed from the features."""
    return f"components_{n_dims}"


def _products(x: Array, kept: Array | None) -> Products:
    varies, nonzero = stats.varies(x, kept), jnp.any(x != 0, axis=1)
    return Products(*stats.row_products(x, kept), varies, nonzero)


# What selectors compare images by, computed from the features. All that follows has arrays of
# (n, n), whatever the number of features.
SUMMARIES: Mapping[str, Callable[[Probe], Any]] = MappingProxyType(
    {
        "centred_gram": lambda probe: stats.centred_gram(probe.features),
        "directions": lambda probe: stats.directions(probe.features),
        "mean_products": lambda probe: stats.mean_products(probe.features),
        "products": lambda probe: _products(*probe.represented(None)),
        "varying": lambda probe: jnp.sum(stats.varies(probe.features.T), dtype=jnp.int32),
    }
)
