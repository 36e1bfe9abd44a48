"""Ridge: linear regression of the labels on the features, with every image left out in turn."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats
from jaxparc.selectors import outcomes
from jaxparc.selectors.probe import Probe

# Penalties that are tried, over the largest eigenvalue of the centred Gram matrix.
PENALTIES = 10.0 ** np.arange(-5.0, 1.5, 0.5)

# Relative difference of mean squared errors that float32 may not tell from 0.
CLOSE = 1e-4


def ridge(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Score how well ridge regression on the other images predicts the label of each image.

    The labels Y (n, c), one-hot for classes, are regressed on the features with a free intercept.
    With K = V diag(w) V^T the Gram matrix of the centred features, penalty lambda,

        fitted values F = mean(Y) + V diag(w / (w + lambda)) V^T (Y - mean(Y)),
        leverages h_i = 1/n + sum_k V_ik^2 w_k / (w_k + lambda),

    the prediction for an image from all others is y_i - (y_i - F_i) / (1 - h_i), exactly (Allen,
    Technometrics 1974). Of the `PENALTIES` times max(w), that with the smallest mean squared error
    of these predictions is used; it is the same for all columns.

    Args:
        probe: needs `features` (n, d) and `labels` of any kind.
        n_dims: f, reduce the features by PCA of all images first; None for no reduction.

    Returns:
        () float32. Classes: percentage of images whose largest prediction is that of their class; t
        equal ones count 1 / t, and classes without images do not count. The only image of a class
        cannot be right: all others predict 0 for it, and 1 is shared by the other classes.
        Multi-label: percentage of entries on the right side of 0.5, half for those on it.
        Annotation vectors: minus the L1 distance from the prediction, averaged over images. Values:
        R^2 of the predictions, at most 1, averaged over columns (scikit-learn's r2_score with its
        default multioutput="uniform_average"). NaN if the features are constant. Features without
        signal score less than chance: 0 for classes of equal size, as without an image its class is
        rarer than the others, and a little below 0 for values.
    """
    return outcomes.score(probe, _outcomes(probe, n_dims))


def contributions(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return what each image contributes to the score, (n,) float32; options as in `ridge`.

    This is the outcome of its own prediction, and to first order by how much it improves those of
    others (see `outcomes.slopes`): without image i, the prediction for j changes by
    -H_ij r_i / (1 - h_j), where H_ij = 1/n + sum_k V_ik V_jk w_k / (w_k + lambda) and r_i is the
    error of the prediction for i. The penalty is taken as given. NaN throughout if the score is.
    """
    values, vectors, _ = probe.spectrum(n_dims)
    errors, penalty, rest, _ = _fitted(probe, n_dims)
    slopes = outcomes.slopes(probe, probe.targets(errors.dtype) - errors) / rest
    kept = values / (values + penalty)
    helped = stats.matmul(vectors, kept[:, None] * stats.matmul(vectors.T, slopes))
    helped = helped + jnp.mean(slopes, axis=0, keepdims=True)
    # Of others: without H_ii.
    helped = helped - (1.0 - rest) * slopes
    return _outcomes(probe, n_dims) + jnp.sum(errors * helped, axis=1)


def needs_float64(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return whether float32 is too coarse, () bool; options as in `ridge`.

    It is for the features, or to tell which of two penalties is better.
    """
    sizes = jnp.sort(_fitted(probe, n_dims)[3])
    return probe.crowded(n_dims) | (sizes[1] - sizes[0] < CLOSE * sizes[0])


def _outcomes(probe: Probe, n_dims: int | None) -> Array:
    errors, _, _, _ = _fitted(probe, n_dims)
    found = outcomes.of_predictions(probe, probe.targets(errors.dtype) - errors)
    return jnp.where(jnp.all(jnp.isfinite(errors)), found, jnp.nan)


def _fitted(probe: Probe, n_dims: int | None) -> tuple[Array, Array, Array, Array]:
    """Return errors of left-out predictions, (n, c), the penalty, (), and 1 - h, (n, 1).

    The last result are the mean squared errors of all penalties.
    """

    def compute() -> tuple[Array, Array, Array, Array]:
        values, vectors, _ = spectrum = probe.spectrum(n_dims)
        y = probe.targets(values.dtype)
        inside, outside = spectrum.project(y)
        squares = jnp.square(vectors)
        # Of 1 - h_i, what lies outside of the span of V; see `Spectrum.project`.
        unseen = jnp.zeros(len(y), y.dtype)
        if vectors.shape[0] > vectors.shape[1]:
            unseen = jnp.maximum(1.0 - 1.0 / len(y) - jnp.sum(squares, axis=1), 0.0)

        def fit(penalty: Array) -> tuple[Array, Array]:
            # As a sum of positive terms: 1 - h would cancel where h is near 1.
            shrunk = penalty / (values + penalty)
            residual = stats.matmul(vectors, shrunk[:, None] * inside) + outside
            rest = stats.matmul(squares, shrunk[:, None]) + unseen[:, None]
            return residual / rest, rest

        def better(
            best: tuple[Array, Array, Array], penalty: Array
        ) -> tuple[tuple[Array, Array, Array], Array]:
            found, _ = fit(penalty)
            size = jnp.mean(jnp.square(found))
            less = size < best[0]
            new = (size, found, penalty)
            return jax.tree.map(lambda new, old: jnp.where(less, new, old), new, best), size

        penalties = jnp.asarray(PENALTIES, y.dtype) * jnp.max(values)
        start = jnp.asarray(jnp.inf, y.dtype), jnp.full_like(y, jnp.nan), penalties[0]
        (_, found, penalty), sizes = jax.lax.scan(better, start, penalties)
        return found, penalty, fit(penalty)[1], sizes

    return probe.once(("ridge", n_dims), compute)
