"""Logistic: a linear classifier trained on half of the probe set."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxparc import stats
from jaxparc.selectors import components
from jaxparc.selectors.probe import Probe

# Newton steps at most, and conjugate gradient steps in each. By the bytes of a number: the gradient
# over the first, and over the weights, at which the optimum counts as found; the latter above which
# it was not.
NEWTON_STEPS = 40
CG_STEPS = 100
TOLERANCE = {4: 1e-4, 8: 1e-9}
ENOUGH = {4: 0.05, 8: 0.005}
GIVEN_UP = {4: 0.2, 8: 0.01}

# What features add to the logits, at most, for them to decide; by the bytes of a number.
LEAST = {4: 1e-4, 8: 1e-8}

# In float64: squares of components over the largest that rounding takes away, and those that are
# under the ridge's 1 by so much that it does not matter.
DROWNED = 1e-12
SHRUNK = 1e-4


def logistic(probe: Probe, *, n_dims: int | None = None) -> Array:
    """How well does a linear classifier trained on one half of the images do on the other?

    The baseline "Logistic" of the paper (section 5.1): the first half of the images of each class
    trains, whatever the order of the classes; in that of `sampling.probe_indices` these are the
    first ceil(n / 2) images. Multinomial logistic regression on unscaled features, minimising the
    sum of cross-entropies plus ||W||^2 / 2, intercept free.

    Args:
        probe: needs `features` (n, d) and `labels` (n,) classes.
        n_dims: f, reduce the features of all images by PCA first.

    Returns:
        () float32 in [0, 100], percent of the second half that is classified correctly; a class
        that the first half lacks is never right. NaN if no optimum is found, as of features whose
        squares leave float32.

    Differs from the authors' code, which stops L-BFGS after 20 iterations or at a tolerance of 0.1:
    this is the converged optimum, which has one value whatever the optimiser. On unscaled features
    of real networks it is up to 8 points above theirs.
    """
    score, away = _scored(probe, n_dims)
    return jnp.where(away <= GIVEN_UP[score.dtype.itemsize], score, jnp.nan)


def needs_float64(probe: Probe, *, n_dims: int | None = None) -> Array:
    """Whether float32 is too coarse for these features; options as of `logistic`."""
    return ~(_scored(probe, n_dims)[1] <= GIVEN_UP[4]) | probe.crowded(n_dims)


def _scored(probe: Probe, n_dims: int | None) -> tuple[Array, Array]:
    """Percent that is right, and how far from the optimum: the gradient over the weights."""

    def compute() -> tuple[Array, Array]:
        n, c = probe.features.shape[0], probe.num_classes
        half = -(-n // 2)
        # a free intercept makes any shift the same problem
        squares, scale = probe.centred_gram(n_dims)
        if probe.scale is not None:
            scale = scale * probe.scale
        order = halves(probe.labels)
        squares = squares[order][:, order] * jnp.square(scale)
        labels = probe.labels[order]
        y = jax.nn.one_hot(labels[:half], c, dtype=squares.dtype)
        there = jnp.any(y > 0, axis=0, keepdims=True)
        fitted, away = _fit(squares[:half, :half], y, there)
        told = stats.matmul(squares[half:, :half], fitted.weights)
        seen = told + fitted.intercept
        best = jnp.argmax(jnp.where(there, seen, -jnp.inf), axis=1).astype(labels.dtype)
        right = jnp.mean((best == labels[half:]).astype(squares.dtype))
        # NaN would be taken for the largest logit
        away = jnp.where(jnp.all(jnp.isfinite(seen)), away, jnp.nan)
        # Features that tell less than the intercepts are rounded by decide nothing.
        reach = jnp.max(jnp.abs(told - told[:1]))
        away = jnp.where(reach > LEAST[squares.dtype.itemsize], away, jnp.nan)
        if squares.dtype == jnp.float64:  # there are no more digits to ask for
            away = jnp.where(_drowned(probe, n_dims), jnp.nan, away)
        return jnp.minimum(100.0 * right, 100.0), away  # the mean of ones may be more

    return probe.once(("logistic", n_dims), compute)


def _drowned(probe: Probe, n_dims: int | None) -> Array:
    """Whether a component that the ridge lets through is below rounding of the largest square."""
    x, _ = probe.reduced(n_dims)
    if n_dims is None:
        squares = jnp.square(components.principal(x, min(x.shape))[1])
    else:
        squares = jnp.sum(jnp.square(x), axis=0)
    real = squares if probe.scale is None else squares * jnp.square(probe.scale)
    return jnp.any((squares < DROWNED * squares[0]) & (real > SHRUNK))


def halves(labels: Array) -> Array:
    """Images in an order whose first ceil(n / 2) are the first half of each class.

    The middle image of a class that has an odd number is on the first side for the half of these
    classes whose middle images come first.

    Args:
        labels: (n,) classes.

    Returns:
        (n,) int32, each side in its own order.
    """
    by_class = jnp.argsort(labels, stable=True)
    start = jnp.searchsorted(labels[by_class], labels)
    of_class = jnp.searchsorted(labels[by_class], labels, side="right") - start
    before = jnp.argsort(by_class).astype(start.dtype) - start  # images of its class
    first = 2 * before + 1 < of_class
    middle = 2 * before + 1 == of_class
    first = first | (middle & (jnp.cumsum(middle) <= (jnp.sum(middle) + 1) // 2))
    return jnp.argsort(~first, stable=True)


class _Weights(NamedTuple):
    """W = X^T weights (h, c), what it makes of the images, K weights (h, c), the intercept (1, c).

    The optimum is a combination of the training images (the representer theorem), so X itself does
    not matter, only K = X X^T, and the size of the problem does not depend on d. All is measured in
    W's own length, tr(W^T W) = tr(weights^T K weights): in it the gradient has no K, and a step of
    conjugate gradients needs one product with K.
    """

    weights: Array
    images: Array
    intercept: Array

    def dot(self, other: "_Weights") -> Array:
        return jnp.sum(self.weights * other.images) + jnp.sum(self.intercept * other.intercept)

    def plus(self, step: Array, other: "_Weights") -> "_Weights":
        return _Weights(*(a + step * b for a, b in zip(self, other, strict=True)))

    def logits(self) -> Array:
        return self.images + self.intercept


def _fit(square: Array, y: Array, there: Array) -> tuple[_Weights, Array]:
    """Multinomial logistic regression by Newton's method, its steps by conjugate gradients.

    Args:
        square: (h, h) float32, K.
        y: (h, c) float32, one-hot.
        there: (1, c) bool, classes with images; the others have probability 0.

    Returns:
        The weights, and the length of the gradient over theirs: 0 at the optimum.
    """
    lengths = 2.0 ** -jnp.arange(12, dtype=square.dtype)
    size = square.dtype.itemsize

    def lift(weights: Array, intercept: Array) -> _Weights:
        return _Weights(weights, stats.matmul(square, weights), intercept)

    def probabilities(w: _Weights) -> Array:
        return jax.nn.softmax(jnp.where(there, w.logits(), -jnp.inf), axis=1)

    def gradient(w: _Weights) -> _Weights:
        wrong = probabilities(w) - y
        return lift(wrong + w.weights, jnp.sum(wrong, axis=0, keepdims=True))

    def loss(w: _Weights) -> Array:
        logits = w.logits()
        normaliser = jax.nn.logsumexp(jnp.where(there, logits, -jnp.inf), axis=1)
        return jnp.sum(normaliser) - jnp.sum(y * logits) + jnp.sum(w.weights * w.images) / 2

    def newton(state: tuple[_Weights, _Weights, Array]) -> tuple[_Weights, _Weights, Array]:
        w, slope, steps = state
        p = probabilities(w)

        def curvature(v: _Weights) -> _Weights:
            moved = p * v.logits()
            moved = moved - p * jnp.sum(moved, axis=1, keepdims=True)
            return lift(moved + v.weights, jnp.sum(moved, axis=0, keepdims=True))

        # The intercept's part of the Hessian, were classes independent, brings it to W's scale.
        spread = jnp.sum(p * (1.0 - p), axis=0, keepdims=True) + 1e-6
        norm = jnp.sqrt(slope.dot(slope))
        # Far from the optimum a rough step will do (Eisenstat and Walker 1996).
        enough = norm * jnp.minimum(0.3, jnp.sqrt(norm / first))
        direction = _solve(curvature, slope, spread, enough)
        losses = jax.vmap(lambda length: loss(w.plus(-length, direction)))(lengths)
        w = w.plus(-lengths[jnp.argmin(losses)], direction)
        return w, gradient(w), steps + 1

    nothing = jnp.zeros_like(y)
    start = _Weights(nothing, nothing, jnp.zeros((1, y.shape[1]), y.dtype))
    slope = gradient(start)
    first = jnp.sqrt(slope.dot(slope))

    def away(w: _Weights, slope: _Weights) -> Array:
        return jnp.sqrt(slope.dot(slope) / jnp.sum(w.weights * w.images))

    def unfinished(state: tuple[_Weights, _Weights, Array]) -> Array:
        w, slope, steps = state
        left = jnp.sqrt(slope.dot(slope)) > TOLERANCE[size] * first
        left = left | (away(w, slope) > ENOUGH[size])
        return left & (steps < NEWTON_STEPS)

    w, slope, _ = jax.lax.while_loop(unfinished, newton, (start, slope, jnp.int32(0)))
    return w, away(w, slope)


class _Search(NamedTuple):
    found: _Weights
    residual: _Weights
    direction: _Weights
    product: Array
    steps: Array


def _solve(
    apply: Callable[[_Weights], _Weights], b: _Weights, spread: Array, enough: Array
) -> _Weights:
    """Conjugate gradients for apply(x) = b, until the residual is short enough.

    The intercept is preconditioned by `spread` (1, c).
    """

    def conditioned(v: _Weights) -> _Weights:
        return v._replace(intercept=v.intercept / spread)

    def improve(s: _Search) -> _Search:
        applied = apply(s.direction)
        length = s.product / s.direction.dot(applied)
        residual = s.residual.plus(-length, applied)
        following = conditioned(residual)
        product = residual.dot(following)
        direction = following.plus(product / s.product, s.direction)
        return _Search(s.found.plus(length, s.direction), residual, direction, product, s.steps + 1)

    nothing = _Weights(*(jnp.zeros_like(part) for part in b))
    start = _Search(nothing, b, conditioned(b), b.dot(conditioned(b)), jnp.int32(0))
    return jax.lax.while_loop(
        lambda s: (jnp.sqrt(s.residual.dot(s.residual)) > enough) & (s.steps < CG_STEPS),
        improve,
        start,
    ).found
