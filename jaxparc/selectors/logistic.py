"""Logistic: a linear classifier trained on half of the probe set."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.selectors import components
from jaxparc.selectors.probe import Probe

# Maximum number of Newton steps. By the item size of the dtype: the maximum number of conjugate
# gradient steps in each, the later of which rounding makes useless in float32; the norm of the
# gradient, over its initial value (TOLERANCE) and over the norm of the weights (ENOUGH), below
# which the iteration stops, and the latter ratio above which it has failed (GIVEN_UP).
NEWTON_STEPS = 40
CG_STEPS = {4: 100, 8: 1000}
TOLERANCE = {4: 1e-4, 8: 1e-9}
ENOUGH = {4: 0.05, 8: 0.005}
GIVEN_UP = {4: 0.2, 8: 0.01}

# Smallest effect of the features on the logits for which the score is defined; by the item size of
# the dtype.
LEAST = {4: 1e-4, 8: 1e-8}

# In float64: the square of a component, over the largest, below which it is lost in rounding, and
# the square below which it is negligible beside the ridge's 1.
DROWNED = 1e-12
SHRUNK = 1e-4


def logistic(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return the accuracy of a linear classifier trained on half of the images, on the others.

    This is the baseline "Logistic" of the paper (section 5.1). The first half of the images of each
    class is the training set; in the order of `sampling.probe_indices` these are the first
    ceil(n / 2) images. The classifier is multinomial logistic regression on unscaled features,
    which minimises the sum of cross-entropies plus ||W||^2 / 2; the intercept is not penalised.

    Args:
        probe: needs `features` (n, d) and `labels` (n,) classes.
        n_dims: f, reduce the features of all images by PCA first; None for no reduction.

    Returns:
        () float32 in [0, 100], the percentage of the second half that is classified correctly;
        images of a class that the first half lacks count as wrong. NaN if no optimum is found, for
        example for features whose squares overflow.

    Differs from the authors' code, which stops L-BFGS after 20 iterations or at a tolerance of 0.1:
    this is the converged optimum, which does not depend on the optimiser. On unscaled features of
    real networks it is up to 8 points above theirs.
    """
    right, error = _scored(probe, n_dims)
    score = jnp.minimum(100.0 * jnp.mean(right), 100.0)  # a mean of ones may be rounded above 1
    return jnp.where(error <= GIVEN_UP[score.dtype.itemsize], score, jnp.nan)


def contributions(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return what each image contributes to the score, (n,) float32; options as in `logistic`.

    The mean is the score: images of the first half contribute just that. The variance is that of a
    mean over the second half, times two, since the classifier depends on as many images (Nadeau
    and Bengio 2003, with equal halves).
    """
    right, error = _scored(probe, n_dims)
    n, tested = len(probe.labels), len(right)
    score = 100.0 * jnp.mean(right)
    beyond = (100.0 * right - score) * (n / tested * 2.0**0.5)
    found = score + jnp.concatenate([jnp.zeros(n - tested, right.dtype), beyond])
    found = jnp.zeros_like(found).at[halves(probe.labels)].set(found)
    return jnp.where(error <= GIVEN_UP[found.dtype.itemsize], found, jnp.nan)


def needs_float64(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Return whether float32 is too coarse for the features, () bool; options as in `logistic`."""
    return ~(_scored(probe, n_dims)[1] <= GIVEN_UP[4]) | probe.crowded(n_dims)


def _scored(probe: Probe, n_dims: int | None) -> tuple[Array, Array]:
    """Return which images of the second half are classified correctly, 1 or 0, and an error.

    The error is the norm of the gradient over that of the weights.
    """

    def compute() -> tuple[Array, Array]:
        c, half = probe.num_classes, -(-len(probe.labels) // 2)
        # The intercept is not penalised, so centring does not change the problem.
        squares, scale = probe.centred_gram(n_dims)
        order = halves(probe.labels)
        squares = squares[order][:, order] * jnp.square(probe.original_scale(scale))
        labels = probe.labels[order]
        y = jax.nn.one_hot(labels[:half], c, dtype=squares.dtype)
        present = jnp.any(y > 0, axis=0, keepdims=True)
        fitted, error = fit(squares[:half, :half], y, present)
        products = stats.matmul(squares[half:, :half], fitted.weights)
        logits = products + fitted.intercept
        best = jnp.argmax(jnp.where(present, logits, -jnp.inf), axis=1).astype(labels.dtype)
        right = (best == labels[half:]).astype(squares.dtype)
        # argmax would take NaN for the largest logit.
        error = jnp.where(jnp.all(jnp.isfinite(logits)), error, jnp.nan)
        # Features whose effect is smaller than the rounding of the intercepts decide nothing.
        reach = jnp.max(jnp.abs(products - products[:1]))
        error = jnp.where(reach > LEAST[squares.dtype.itemsize], error, jnp.nan)
        if squares.dtype == jnp.float64:  # there is no wider dtype to fall back on
            error = jnp.where(_drowned(probe, n_dims), jnp.nan, error)
        return right, error

    return probe.once(("logistic", n_dims), compute)


def _drowned(probe: Probe, n_dims: int | None) -> Array:
    """Return whether a component that the ridge does not suppress is lost in rounding, () bool."""
    x, _ = probe.reduced(n_dims)
    if n_dims is None:
        squares = jnp.square(components.principal(x, min(x.shape))[1])
    else:
        squares = jnp.sum(jnp.square(x), axis=0)
    real = squares if probe.scale is None else squares * jnp.square(probe.scale)
    return jnp.any((squares < DROWNED * squares[0]) & (real > SHRUNK))


def halves(labels: Array) -> Array:
    """Return an order of the images whose first ceil(n / 2) are the first half of each class.

    Of the classes with an odd number of images, the half whose middle images come first have them
    in the first half; the others have them in the second.

    Args:
        labels: (n,) classes.

    Returns:
        (n,) int32 indices; within each half the images keep their order.
    """
    by_class = jnp.argsort(labels, stable=True)
    start = jnp.searchsorted(labels[by_class], labels)
    of_class = jnp.searchsorted(labels[by_class], labels, side="right") - start
    before = jnp.argsort(by_class).astype(start.dtype) - start  # earlier images of the same class
    first = 2 * before + 1 < of_class
    middle = 2 * before + 1 == of_class
    first = first | (middle & (jnp.cumsum(middle) <= (jnp.sum(middle) + 1) // 2))
    return jnp.argsort(~first, stable=True)


class Weights(NamedTuple):
    """The weights of a linear classifier of h training images, in dual form.

    By the representer theorem, the optimum is a combination of the training images, W = X^T A, so
    only K = X X^T matters, and the size of the problem does not depend on d. Inner products are
    those of W, tr(W^T W) = tr(A^T K A): in these the gradient contains no K, and a step of
    conjugate gradients needs one product with K.

    Attributes:
        weights: A, (h, c).
        images: K A, (h, c), the logits without the intercept.
        intercept: (1, c).
    """

    weights: Array
    images: Array
    intercept: Array

    def dot(self, other: "Weights") -> Array:
        """Return the inner product, ()."""
        return jnp.sum(self.weights * other.images) + jnp.sum(self.intercept * other.intercept)

    def plus(self, step: Array, other: "Weights") -> "Weights":
        """Return these weights plus `step`, (), times others."""
        return Weights(*(a + step * b for a, b in zip(self, other, strict=True)))

    def logits(self) -> Array:
        """Return the logits of the training images, (h, c)."""
        return self.images + self.intercept


def fit(square: Array, y: Array, present: Array) -> tuple[Weights, Array]:
    """Fit multinomial logistic regression by Newton's method with conjugate gradients.

    It minimises the sum of cross-entropies plus ||W||^2 / 2; the intercept is not penalised.

    Args:
        square: (h, h) float32, K, the inner products of the features of the training images.
        y: (h, c) float32, one-hot.
        present: (1, c) bool, classes with images; the others have probability 0.

    Returns:
        The weights, and () float32, the norm of the gradient over that of the weights, which is 0
        at the optimum.
    """
    lengths = 2.0 ** -jnp.arange(12, dtype=square.dtype)
    size = square.dtype.itemsize

    def lift(weights: Array, intercept: Array) -> Weights:
        return Weights(weights, stats.matmul(square, weights), intercept)

    def probabilities(w: Weights) -> Array:
        return jax.nn.softmax(jnp.where(present, w.logits(), -jnp.inf), axis=1)

    def gradient(w: Weights) -> Weights:
        wrong = probabilities(w) - y
        return lift(wrong + w.weights, jnp.sum(wrong, axis=0, keepdims=True))

    def loss(w: Weights) -> Array:
        logits = w.logits()
        normaliser = jax.nn.logsumexp(jnp.where(present, logits, -jnp.inf), axis=1)
        return jnp.sum(normaliser) - jnp.sum(y * logits) + jnp.sum(w.weights * w.images) / 2

    def newton(state: tuple[Weights, Weights, Array]) -> tuple[Weights, Weights, Array]:
        w, slope, steps = state
        p = probabilities(w)

        def curvature(v: Weights) -> Weights:
            moved = p * v.logits()
            moved = moved - p * jnp.sum(moved, axis=1, keepdims=True)
            return lift(moved + v.weights, jnp.sum(moved, axis=0, keepdims=True))

        # The intercept's block of the Hessian, ignoring cross terms, scales it like W.
        spread = jnp.sum(p * (1.0 - p), axis=0, keepdims=True) + 1e-6
        norm = jnp.sqrt(slope.dot(slope))
        # Far from the optimum an inexact step suffices (Eisenstat and Walker 1996).
        enough = norm * jnp.minimum(0.3, jnp.sqrt(norm / first))
        direction = _solve(curvature, slope, spread, enough)
        losses = jax.vmap(lambda length: loss(w.plus(-length, direction)))(lengths)
        w = w.plus(-lengths[jnp.argmin(losses)], direction)
        return w, gradient(w), steps + 1

    nothing = jnp.zeros_like(y)
    start = Weights(nothing, nothing, jnp.zeros((1, y.shape[1]), y.dtype))
    slope = gradient(start)
    first = jnp.sqrt(slope.dot(slope))

    def relative(w: Weights, slope: Weights) -> Array:
        return jnp.sqrt(slope.dot(slope) / jnp.sum(w.weights * w.images))

    def unfinished(state: tuple[Weights, Weights, Array]) -> Array:
        w, slope, steps = state
        left = jnp.sqrt(slope.dot(slope)) > TOLERANCE[size] * first
        left = left | (relative(w, slope) > ENOUGH[size])
        return left & (steps < NEWTON_STEPS)

    w, slope, _ = jax.lax.while_loop(unfinished, newton, (start, slope, jnp.int32(0)))
    return w, relative(w, slope)


class _Search(NamedTuple):
    found: Weights
    residual: Weights
    direction: Weights
    product: Array
    steps: Array


def _solve(
    apply: Callable[[Weights], Weights], b: Weights, spread: Array, enough: Array
) -> Weights:
    """Solve apply(x) = b by conjugate gradients, until the norm of the residual is `enough`.

    The intercept is preconditioned by `spread` (1, c).
    """

    def conditioned(v: Weights) -> Weights:
        return v._replace(intercept=v.intercept / spread)

    def improve(s: _Search) -> _Search:
        applied = apply(s.direction)
        length = s.product / s.direction.dot(applied)
        residual = s.residual.plus(-length, applied)
        following = conditioned(residual)
        product = residual.dot(following)
        direction = following.plus(product / s.product, s.direction)
        return _Search(s.found.plus(length, s.direction), residual, direction, product, s.steps + 1)

    most = CG_STEPS[spread.dtype.itemsize]
    nothing = Weights(*(jnp.zeros_like(part) for part in b))
    start = _Search(nothing, b, conditioned(b), b.dot(conditioned(b)), jnp.int32(0))
    return jax.lax.while_loop(
        lambda s: (jnp.sqrt(s.residual.dot(s.residual)) > enough) & (s.steps < most),
        improve,
        start,
    ).found
