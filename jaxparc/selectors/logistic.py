"""Logistic: a linear classifier trained on half of the probe set."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats
from jaxparc.probe import Probe

# Newton steps at most, conjugate gradient steps in each, and the gradient, over the first, at which
# the optimum counts as found.
NEWTON_STEPS = 40
CG_STEPS = 100
TOLERANCE = 1e-4


def logistic(probe: Probe, *, n_dims: int | None = None) -> Array:
    """How well does a linear classifier trained on one half of the images do on the other?

    The baseline "Logistic" of the paper (section 5.1): the first ceil(n / 2) images train, which is
    about balanced in the order of `sampling.probe_indices`. Multinomial logistic regression on
    unscaled features, minimising the sum of cross-entropies plus ||W||^2 / 2, intercept free.

    Args:
        probe: needs `features` (n, d) and `labels` (n,) classes.
        n_dims: f, reduce the features of all images by PCA first.

    Returns:
        () float32 in [0, 100], percent of the second half that is classified correctly; a class
        that the first half lacks is never right. NaN if the features leave float32.

    Differs from the authors' code, which stops L-BFGS after 20 iterations or at a tolerance of 0.1:
    this is the converged optimum, which has one value whatever the optimiser. On unscaled features
    of real networks it is up to 8 points above theirs.
    """
    n, c = probe.features.shape[0], probe.num_classes
    half = -(-n // 2)
    squares, scale = probe.centred_gram(n_dims)  # a free intercept makes any shift the same problem
    squares = squares * jnp.square(scale)
    y = jax.nn.one_hot(probe.labels[:half], c)
    there = jnp.any(y > 0, axis=0)
    fitted = _fit(squares[:half, :half], y, there)
    seen = stats.matmul(squares[half:, :half], fitted.weights) + fitted.intercept
    found = jnp.argmax(jnp.where(there, seen, -jnp.inf), axis=1)
    right = jnp.mean((found == probe.labels[half:]).astype(jnp.float32))
    # NaN would be taken for the largest logit
    return jnp.where(jnp.all(jnp.isfinite(seen)), 100.0 * right, jnp.nan)


class _Weights(NamedTuple):
    """W = X^T weights (h, c), what it makes of the images, K weights (h, c), the intercept (c,).

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


def _fit(square: Array, y: Array, there: Array) -> _Weights:
    """Multinomial logistic regression by Newton's method, its steps by conjugate gradients.

    Args:
        square: (h, h) float32, K.
        y: (h, c) float32, one-hot.
        there: (c,) bool, classes with images; the others have probability 0.
    """
    lengths = np.float32(2.0) ** -np.arange(12, dtype=np.float32)

    def lift(weights: Array, intercept: Array) -> _Weights:
        return _Weights(weights, stats.matmul(square, weights), intercept)

    def probabilities(w: _Weights) -> Array:
        return jax.nn.softmax(jnp.where(there, w.logits(), -jnp.inf), axis=1)

    def gradient(w: _Weights) -> _Weights:
        wrong = probabilities(w) - y
        return lift(wrong + w.weights, jnp.sum(wrong, axis=0))

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
            return lift(moved + v.weights, jnp.sum(moved, axis=0))

        # The intercept's part of the Hessian, were classes independent, brings it to W's scale.
        spread = jnp.sum(p * (1.0 - p), axis=0) + np.float32(1e-6)
        norm = jnp.sqrt(slope.dot(slope))
        # Far from the optimum a rough step will do (Eisenstat and Walker 1996).
        enough = norm * jnp.minimum(0.3, jnp.sqrt(norm / first))
        direction = _solve(curvature, slope, spread, enough)
        losses = jax.vmap(lambda length: loss(w.plus(-length, direction)))(lengths)
        w = w.plus(-jnp.asarray(lengths)[jnp.argmin(losses)], direction)
        return w, gradient(w), steps + 1

    nothing = jnp.zeros_like(y)
    start = _Weights(nothing, nothing, jnp.zeros(y.shape[1], jnp.float32))
    slope = gradient(start)
    first = jnp.sqrt(slope.dot(slope))
    return jax.lax.while_loop(
        lambda s: (jnp.sqrt(s[1].dot(s[1])) > TOLERANCE * first) & (s[2] < NEWTON_STEPS),
        newton,
        (start, slope, jnp.int32(0)),
    )[0]


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

    The intercept is preconditioned by `spread` (c,).
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
