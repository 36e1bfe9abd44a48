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
CG_STEPS = 30
TOLERANCE = 1e-4


def logistic(probe: Probe, *, n_dims: int | None = None) -> Array:
    """How well does a linear classifier trained on one half of the images do on the other?

    The baseline "Logistic" of the paper (section 5.1): the first ceil(n / 2) images train, which is
    about balanced in the order of `sampling.probe_indices`. Multinomial logistic regression on
    unscaled features, minimising the sum of cross-entropies plus ||W||^2 / 2, intercept free.

    W is a combination of the training images (the representer theorem), so the problem is solved
    in the coordinates of their Gram matrix: its size does not depend on d. Newton's method, its
    steps by conjugate gradients.

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
    x = probe.features if n_dims is None else stats.pca(probe.features, n_dims)[0]
    n, c = x.shape[0], probe.num_classes
    half = -(-n // 2)
    # A free intercept makes any shift of the features the same problem.
    squares, scale = stats.centred_gram(x)
    squares = squares * jnp.square(scale)
    values, vectors = jnp.linalg.eigh(squares[:half, :half])
    # Images as rows of coordinates whose inner products are those of the features.
    root = jnp.sqrt(jnp.maximum(values, 0.0))
    train = vectors * root
    # What is under the rounding of the largest has no direction of its own to be projected on.
    safe = values > 1e-6 * values[-1]
    test = jnp.where(
        safe, _matmul(squares[half:, :half], vectors) / jnp.where(safe, root, 1.0), 0.0
    )
    y = jax.nn.one_hot(probe.labels[:half], c)
    there = jnp.any(y > 0, axis=0)
    weights, intercept = _fit(jnp.where(safe, train, 0.0), y, there)
    logits = jnp.where(there, _matmul(test, weights) + intercept, -jnp.inf)
    right = jnp.mean((jnp.argmax(logits, axis=1) == probe.labels[half:]).astype(jnp.float32))
    # NaN would be taken for the largest logit
    return jnp.where(jnp.all(jnp.isfinite(weights)) & jnp.isfinite(scale), 100.0 * right, jnp.nan)


class _State(NamedTuple):
    weights: Array  # (r + 1, c), the last row the intercept
    logits: Array  # (h, c)
    gradient: Array  # (r + 1, c)
    steps: Array
    first: Array  # the norm of the first gradient


def _fit(x: Array, y: Array, there: Array) -> tuple[Array, Array]:
    """The optimum of multinomial logistic regression.

    Args:
        x: (h, r) float32.
        y: (h, c) float32, one-hot.
        there: (c,) bool, classes with images; the others have probability 0.

    Returns:
        (r, c) weights and (c,) intercept, float32.
    """
    h, r = x.shape
    x = jnp.concatenate([x, jnp.ones((h, 1), jnp.float32)], axis=1)
    penalty = np.append(np.ones(r, np.float32), np.float32(0))[:, None]
    lengths = jnp.sum(jnp.square(x), axis=0)[:, None]
    steps = np.float32(2.0) ** -np.arange(0, 12, dtype=np.float32)

    def probabilities(logits: Array) -> Array:
        return jax.nn.softmax(jnp.where(there, logits, -jnp.inf), axis=1)

    def losses(weights: Array, logits: Array) -> Array:
        chosen = jnp.sum(y * logits, axis=-1)
        normaliser = jax.nn.logsumexp(jnp.where(there, logits, -jnp.inf), axis=-1)
        ridge = jnp.sum(penalty * jnp.square(weights), axis=(-2, -1)) / 2
        return jnp.sum(normaliser - chosen, axis=-1) + ridge

    def gradient(weights: Array, logits: Array) -> Array:
        return _matmul(x.T, probabilities(logits) - y) + penalty * weights

    def newton(state: _State) -> _State:
        p = probabilities(state.logits)

        def curvature(v: Array) -> Array:
            moved = p * _matmul(x, v)
            return _matmul(x.T, moved - p * jnp.sum(moved, axis=1, keepdims=True)) + penalty * v

        # The Hessian's diagonal, were the images' probabilities their mean.
        spread = jnp.mean(p * (1.0 - p), axis=0)
        diagonal = lengths * spread + penalty + 1e-6
        norm = jnp.linalg.norm(state.gradient)
        # Far from the optimum a rough step will do (Eisenstat and Walker 1996).
        enough = norm * jnp.minimum(0.3, jnp.sqrt(norm / state.first))
        direction = _solve(curvature, -state.gradient, diagonal, enough)
        moved = _matmul(x, direction)
        trial = losses(
            state.weights + steps[:, None, None] * direction,
            state.logits + steps[:, None, None] * moved,
        )
        step = jnp.asarray(steps)[jnp.argmin(trial)]
        weights, logits = state.weights + step * direction, state.logits + step * moved
        return _State(weights, logits, gradient(weights, logits), state.steps + 1, state.first)

    weights, logits = jnp.zeros((r + 1, y.shape[1]), jnp.float32), jnp.zeros_like(y)
    slope = gradient(weights, logits)
    state = _State(weights, logits, slope, jnp.int32(0), jnp.linalg.norm(slope))
    state = jax.lax.while_loop(
        lambda s: (jnp.linalg.norm(s.gradient) > TOLERANCE * s.first) & (s.steps < NEWTON_STEPS),
        newton,
        state,
    )
    return state.weights[:-1], state.weights[-1]


def _solve(apply: Callable[[Array], Array], b: Array, diagonal: Array, enough: Array) -> Array:
    """Preconditioned conjugate gradients for apply(x) = b, until the residual is small enough."""

    def improve(state: tuple[Array, ...]) -> tuple[Array, ...]:
        x, residual, direction, product, step = state
        applied = apply(direction)
        length = product / jnp.sum(direction * applied)
        x, residual = x + length * direction, residual - length * applied
        conditioned = residual / diagonal
        following = jnp.sum(residual * conditioned)
        return x, residual, conditioned + following / product * direction, following, step + 1

    conditioned = b / diagonal
    start: tuple[Array, ...] = (
        jnp.zeros_like(b),
        b,
        conditioned,
        jnp.sum(b * conditioned),
        jnp.int32(0),
    )
    return jax.lax.while_loop(
        lambda s: (jnp.linalg.norm(s[1]) > enough) & (s[4] < CG_STEPS), improve, start
    )[0]


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
