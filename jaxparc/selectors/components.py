"""Principal components, as pure functions of one sample.

The results are accurate even if some columns or components dominate the others by any factor.
Whether a component is rounding noise is decided relative to the columns that contribute to it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats

# A direction whose singular value is below this share of the columns that contribute to it is only
# rounding noise: float32 leaves a few 1e-7 of a column in every direction, and real spectra end
# well above that. The second value is for features with more digits than float32.
RANK_CUT = 1e-5
RANK_CUT_FLOAT64 = 1e-10

# Subspace iteration: the number of vectors beyond those requested, the residual of a component over
# its eigenvalue at which it has converged, and the eigenvalue, over the largest, below which a Gram
# matrix holds only noise.
OVERSAMPLES = 32
RESIDUAL = 1e-2
GRAM_CUT = {4: 1e-4, 8: 1e-10}  # by the item size of the dtype

# Singular values, over the largest, that one decomposition resolves reliably (by the item size of
# the dtype), and the maximum number of decompositions.
RESOLVED = {4: 1e-3, 8: 1e-6}
STAGES = 64


def pca(x: Array, n_dims: int) -> tuple[Array, Array]:
    """Return the scores on the leading principal components.

    They are computed by subspace iteration on the Gram matrix of the images, until the residual of
    every component is below RESIDUAL times its eigenvalue, which changes PARC by a hundredth of a
    point or less. The Gram matrix holds squares, so components below about 1e-3 of a dominant one
    are lost in float32. In that case, if the iteration does not converge, and for few images or
    narrow features, singular value decompositions of the features are used instead, which are
    several times slower.

    The sign of a component is arbitrary, but changes row correlations. By convention (that of
    scikit-learn before 1.5) the image with the largest absolute score on a component is positive.

    Args:
        x: (n, d) float32, not necessarily centred.
        n_dims: f, the number of components; at most min(n, d) are returned.

    Returns:
        Scores (n, f) float32, largest component first, and (f,) bool that is False for a
        component that is rounding noise (see `RANK_CUT`), whose scores are 0.

    Differs from the authors' code, which uses a randomised SVD with one power iteration; its
    approximation changes PARC by up to 0.4 points.
    """
    left, values, kept = principal(x, n_dims)
    return left * values[None, :], kept


def principal(
    x: Array, n_dims: int, gram_and_scale: tuple[Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """Return the leading left singular vectors and singular values of the centred features.

    Args:
        x: (n, d) float32.
        n_dims: f.
        gram_and_scale: the result of `stats.centred_gram`, if it has already been computed.

    Returns:
        (n, f) float32 orthonormal columns with the signs of `pca`, (f,) float32, and (f,) bool,
        False for rounding noise (see `RANK_CUT`), where vectors and values are 0.
    """
    n, d = x.shape
    f = min(n_dims, n, d)
    if not (iterates_over(n, f) and f <= most_from_gram(d)):
        left, values = _by_stages(x, f)
    else:
        found = _leading(*(gram_and_scale or stats.centred_gram(x)), f)
        # A loop of at most one iteration: under vmap, `cond` would compute both branches.
        left, values, _ = jax.lax.while_loop(
            lambda state: ~state[2],
            lambda state: (*_by_stages(x, f), jnp.bool_(True)),
            found,
        )
    return _signed(left, values, values > 0)


def principal_of_gram(gram: Array, scale: Array, n_dims: int) -> tuple[Array, Array, Array, Array]:
    """Return what `principal` does, as far as the Gram matrix determines it.

    Args:
        gram: (n, n) float32, see `stats.centred_gram`.
        scale: () float32, see `stats.centred_gram`.
        n_dims: f, for which `iterates_over(n, f)`.

    Returns:
        The results of `principal`, and () bool, whether they can be trusted; if not, or if f is
        above `most_from_gram`, they must be computed from the features.
    """
    left, values, found = _leading(gram, scale, min(n_dims, len(gram)))
    return *_signed(left, values, values > 0), found


def iterates_over(n: int, n_dims: int) -> bool:
    """Return whether there are enough images, n, to find n_dims components by iteration."""
    return min(n_dims, n) + OVERSAMPLES <= n // 3


def most_from_gram(d: Any) -> Any:
    """Return the maximum number of components of d features that the iteration may find."""
    return d // 2 - OVERSAMPLES


def basis(x: Array) -> tuple[Array, Array]:
    """Return an orthonormal basis of the span of the centred columns of x (n, d).

    The columns are expected to have the same scale.

    Returns:
        (n, min(n, d)) float32, and (min(n, d),) bool, the columns that count: those whose singular
        values are above RANK_CUT times the largest. The others are 0.
    """
    left, values = _decomposed(x, min(x.shape))
    left, _, kept = _signed(left, values, values > RANK_CUT * values[0])
    return left, kept


def _signed(left: Array, values: Array, kept: Array) -> tuple[Array, Array, Array]:
    top = jnp.argmax(jnp.abs(left), axis=0)
    left = left * jnp.sign(left[top, jnp.arange(len(values))])[None, :]
    # NaN is kept: it must not pass for a component without rank.
    kept = kept | jnp.isnan(values[0])
    return jnp.where(kept[None, :], left, 0.0), jnp.where(kept, values, 0.0), kept


def _by_stages(x: Array, f: int) -> tuple[Array, Array]:
    """Decompose as `_decomposed`, accurately even if components or columns dominate by any factor.

    The error of a decomposition is the rounding error of its largest singular value, however small
    the others are. So only the singular values that are RESOLVED are taken from it, and the next
    decomposition is of the remainder. In the remainder, columns below RANK_CUT times their original
    size are set to zero, and directions below RANK_CUT times the columns that contribute to them do
    not count: the comparison is with their own columns, as small columns may be informative.

    Returns:
        (n, f) and (f,), zeros beyond the rank; NaN values if the features are not finite.
    """
    size = jnp.dtype(x.dtype).itemsize
    whole, scale = stats.centred(x)
    finite = jnp.all(jnp.isfinite(x)) & jnp.isfinite(scale)
    cut: Array | float = RANK_CUT
    if size == 8:
        cut = jnp.where(
            jnp.all(x == x.astype(jnp.float32).astype(x.dtype)), RANK_CUT, RANK_CUT_FLOAT64
        )

    def stage(state: tuple[Array, ...]) -> tuple[Array, ...]:
        rest, columns, top, left, values, count, stages = state
        found, sizes = _decomposed(rest, f)
        resolved = sizes > RESOLVED[size] * sizes[0]
        vectors = jnp.where(resolved[None, :], found, 0.0)
        parts = stats.matmul(vectors.T, rest)
        contributing = jnp.sqrt(len(x) * jnp.sum(jnp.square(parts * columns[None, :]), axis=1))
        taken = resolved & (jnp.square(sizes) > cut * contributing)
        place = jnp.where(taken, count + jnp.cumsum(taken, dtype=jnp.int32) - 1, f)
        left = left.at[:, place].set(vectors, mode="drop")
        values = values.at[place].set(sizes * top, mode="drop")
        rest = rest - stats.matmul(vectors, parts)
        rest = rest - stats.matmul(vectors, stats.matmul(vectors.T, rest))
        largest = jnp.max(jnp.abs(rest), axis=0)
        remaining = largest > cut * columns
        # Rescaled, as the remainder may be smaller than the features by any power.
        unit = jnp.max(jnp.where(remaining, largest, 0.0))
        rescale = 1.0 / jnp.where(unit > 0, unit, 1.0)
        rest = jnp.where(remaining[None, :], rest * rescale, 0.0)
        columns = jnp.where(remaining, columns * rescale, 0.0)
        count = count + jnp.sum(taken, dtype=jnp.int32)
        return rest, columns, top * unit, left, values, count, stages + 1

    start: tuple[Array, ...] = (
        whole,
        jnp.max(jnp.abs(whole), axis=0),
        jnp.ones((), x.dtype),
        jnp.zeros((x.shape[0], f), x.dtype),
        jnp.zeros(f, x.dtype),
        jnp.int32(0),
        jnp.int32(0),
    )
    *_, left, values, _, _ = jax.lax.while_loop(
        lambda s: (s[5] < f) & (s[6] < STAGES) & jnp.any(s[0] != 0) & finite,
        stage,
        start,
    )
    return left, jnp.where(finite, scale * values, jnp.nan)


def _decomposed(x: Array, f: int) -> tuple[Array, Array]:
    """Return left singular vectors (n, f) and singular values (f,) of the centred features.

    If d > n, a QR decomposition comes first, so that only an n x n matrix is decomposed:

        x^T = Q R,  x = R^T Q^T,  R^T = U S W^T
    """
    n, d = x.shape
    y, scale = stats.centred(x)
    small = y if d <= n else jnp.linalg.qr(y.T, mode="r").T
    left, values, _ = jnp.linalg.svd(small, full_matrices=False)
    return left[:, :f], scale * values[:f]


def _leading(square: Array, scale: Array, f: int) -> tuple[Array, Array, Array]:
    """Return the f leading singular vectors by subspace iteration (QR iteration) on a Gram matrix.

    It uses only matrix products, a Cholesky decomposition and a small symmetric eigenproblem: other
    LAPACK calls wake OpenBLAS's threads, which then compete with XLA's and double the time of the
    operations that follow.

    Args:
        square: (n, n) float32, symmetric, positive semidefinite; see `stats.centred_gram`.
        scale: () float32, by which the features were divided.
        f: number of vectors, f + OVERSAMPLES <= n.

    Returns:
        (n, f) float32, (f,) float32 singular values, and () bool: whether they have converged and
        are above the noise of the Gram matrix.
    """
    n = square.shape[0]
    drawn = np.random.default_rng(0).standard_normal((f + OVERSAMPLES, n))
    start = jnp.asarray(drawn, square.dtype)

    def improve(state: tuple[Array, ...]) -> tuple[Array, ...]:
        # A loop rather than four copies of its body, which would dominate the compilation time.
        q = jax.lax.fori_loop(
            0, 4, lambda _, q: _orthonormal(stats.matmul(stats.matmul(q, square), square)), state[0]
        )
        w = stats.matmul(q, square)
        values, rotation = jnp.linalg.eigh(stats.matmul(w, q.T))
        values, rotation = values[::-1][:f], rotation[:, ::-1][:, :f].T
        vectors = stats.matmul(rotation, q)
        remainder = stats.matmul(rotation, w) - values[:, None] * vectors
        remainder = jnp.sqrt(jnp.max(jnp.sum(jnp.square(remainder), axis=1)))
        return q, state[1] + 1, vectors, values, remainder / values[-1]

    state: tuple[Array, ...] = (
        start,
        jnp.int32(0),
        jnp.zeros((f, n), square.dtype),
        jnp.zeros(f, square.dtype),
        jnp.asarray(jnp.inf, square.dtype),
    )
    _, _, vectors, values, remainder = jax.lax.while_loop(
        lambda state: (state[4] > RESIDUAL) & (state[1] < 4), improve, state
    )
    # The result of a failed iteration is not trusted.
    trusted = (remainder <= RESIDUAL) & (values[-1] > GRAM_CUT[square.dtype.itemsize] * values[0])
    trusted = trusted & jnp.all(jnp.isfinite(vectors))
    return vectors.T, scale * jnp.sqrt(values), trusted


def _orthonormal(rows: Array) -> Array:
    """Orthonormalise rows (b, n), each against those before it (Cholesky QR)."""
    rows = rows * jax.lax.rsqrt(jnp.sum(jnp.square(rows), axis=1, keepdims=True))
    eye = jnp.eye(rows.shape[0], dtype=rows.dtype)
    # The shift keeps nearly dependent rows from failing; later iterations correct its error.
    lower = jnp.linalg.cholesky(stats.matmul(rows, rows.T) + 1e-6 * eye)
    diagonal = jnp.diagonal(lower)
    # L = D (I - N) with N^b = 0, so L^-1 = (I + N)(I + N^2)(I + N^4)... D^-1
    power = eye - lower / diagonal[:, None]
    inverse = eye + power
    for _ in range(1, (rows.shape[0] - 1).bit_length()):
        power = stats.matmul(power, power)
        inverse = inverse + stats.matmul(inverse, power)
    return stats.matmul(inverse / diagonal[None, :], rows)
