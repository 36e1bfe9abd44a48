"""Principal components, as pure functions of one sample.

Right behind columns and components that dominate by any factor, and with the rank of each told by
the columns that make it up.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats

# Directions whose singular value is below this share of the columns that make them up carry
# rounding noise only: float32 leaves a few 1e-7 of a column in every direction, and real spectra
# end well above. The second is for features that have more digits than float32.
RANK_CUT = 1e-5
RANK_CUT_FLOAT64 = 1e-10

# Of the subspace iteration: vectors beyond those asked for, the share of its eigenvalue that may
# remain of a component, and the eigenvalue, over the first, under which a Gram matrix holds noise.
OVERSAMPLES = 32
RESIDUAL = 1e-2
GRAM_CUT = {4: 1e-4, 8: 1e-10}  # by the bytes of a number

# Singular values, over the first, that one decomposition is relied on for, and the most of them.
RESOLVED = {4: 1e-3, 8: 1e-6}
STAGES = 64


def pca(x: Array, n_dims: int) -> tuple[Array, Array]:
    """Scores on the leading principal components.

    Subspace iteration on the Gram matrix of the images, until what is left of every component is
    under RESIDUAL of its eigenvalue: a hundredth of a point of PARC or less. The Gram matrix holds
    squares, so behind one dominating component those under about 1e-3 of it drown in float32;
    where that is so, or the iteration does not end, singular value decompositions of the features
    take its place, several times slower. So they do for few images or narrow features.

    The sign of a component is free and changes row correlations. Convention (scikit-learn's
    before 1.5): the image with the largest absolute score on a component is positive.

    Args:
        x: (n, d) float32; centred here.
        n_dims: f, the number of components; more than min(n, d) becomes min(n, d).

    Returns:
        Scores (n, f) float32, largest component first, and (f,) bool that is False for a
        component that is rounding noise, see `RANK_CUT`; its scores are 0.

    Differs from the authors' code, which takes a randomised SVD with one power iteration: that is
    up to 0.4 points of PARC away from the components it approximates.
    """
    left, values, kept = principal(x, n_dims)
    return left * values[None, :], kept


def principal(
    x: Array, n_dims: int, gram_and_scale: tuple[Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """The leading left singular vectors and singular values of the centred features.

    Args:
        x: (n, d) float32.
        n_dims: f.
        gram_and_scale: what `centred_gram` gives, where it is there already.

    Returns:
        (n, f) float32 orthonormal columns, signs as `pca` says, (f,) float32, and (f,) bool, False
        for what is rounding noise, see `RANK_CUT`; vectors and values are 0 there.
    """
    n, d = x.shape
    f = min(n_dims, n, d)
    if f + OVERSAMPLES > min(n // 3, d // 2):
        left, values = _by_stages(x, f)
    else:
        squares, scale = gram_and_scale or stats.centred_gram(x)
        left, eigenvalues, found = _leading(squares, f)
        values = scale * jnp.sqrt(eigenvalues)
        # A loop of no or one turn, where `cond` would do both under vmap.
        left, values, _ = jax.lax.while_loop(
            lambda state: ~state[2],
            lambda state: (*_by_stages(x, f), jnp.bool_(True)),
            (left, values, found),
        )
    return _signed(left, values, values > 0)


def basis(x: Array) -> tuple[Array, Array]:
    """An orthonormal basis of what the columns of x (n, d), of one size, span when centred.

    Returns:
        (n, min(n, d)) float32, and which columns count: not those under RANK_CUT of the first.
    """
    left, values = _decomposed(x, min(x.shape))
    left, _, kept = _signed(left, values, values > RANK_CUT * values[0])
    return left, kept


def _signed(left: Array, values: Array, kept: Array) -> tuple[Array, Array, Array]:
    top = jnp.argmax(jnp.abs(left), axis=0)
    left = left * jnp.sign(left[top, jnp.arange(len(values))])[None, :]
    # what is not finite stays so: it must not look like a component without rank
    kept = kept | jnp.isnan(values[0])
    return jnp.where(kept[None, :], left, 0.0), jnp.where(kept, values, 0.0), kept


def _by_stages(x: Array, f: int) -> tuple[Array, Array]:
    """As `_decomposed`, and right behind components, or columns, that dominate by any factor.

    What a decomposition finds is off by rounding of the first singular value, however small the
    others are. So only those that are RESOLVED are taken from it, and the next looks at what they
    leave. There, columns under RANK_CUT of what they were are zeros, and directions under RANK_CUT
    of the columns that make them up do not count: a column may be small, and say much.

    Returns:
        (n, f) and (f,), zeros for what has no rank; NaN if the features are not finite.
    """
    size = jnp.dtype(x.dtype).itemsize
    whole, scale = stats.centred(x)
    cut: Array | float = RANK_CUT
    if size == 8:
        cut = jnp.where(
            jnp.all(x == x.astype(jnp.float32).astype(x.dtype)), RANK_CUT, RANK_CUT_FLOAT64
        )

    def stage(state: tuple[Array, ...]) -> tuple[Array, ...]:
        rest, columns, top, left, values, count, turns = state
        found, sizes = _decomposed(rest, f)
        resolved = sizes > RESOLVED[size] * sizes[0]
        vectors = jnp.where(resolved[None, :], found, 0.0)
        parts = stats.matmul(vectors.T, rest)
        made_of = jnp.sqrt(len(x) * jnp.sum(jnp.square(parts * columns[None, :]), axis=1))
        taken = resolved & (jnp.square(sizes) > cut * made_of)
        place = jnp.where(taken, count + jnp.cumsum(taken, dtype=jnp.int32) - 1, f)
        left = left.at[:, place].set(vectors, mode="drop")
        values = values.at[place].set(sizes * top, mode="drop")
        rest = rest - stats.matmul(vectors, parts)
        rest = rest - stats.matmul(vectors, stats.matmul(vectors.T, rest))
        largest = jnp.max(jnp.abs(rest), axis=0)
        said = largest > cut * columns
        # over the largest that is left: it may be smaller than the first by any power
        unit = jnp.max(jnp.where(said, largest, 0.0))
        shrink = 1.0 / jnp.where(unit > 0, unit, 1.0)
        rest = jnp.where(said[None, :], rest * shrink, 0.0)
        columns = jnp.where(said, columns * shrink, 0.0)
        count = count + jnp.sum(taken, dtype=jnp.int32)
        return rest, columns, top * unit, left, values, count, turns + 1

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
        lambda s: (s[5] < f) & (s[6] < STAGES) & jnp.any(s[0] != 0) & jnp.isfinite(scale),
        stage,
        start,
    )
    return left, jnp.where(jnp.isfinite(scale), scale * values, jnp.nan)


def _decomposed(x: Array, f: int) -> tuple[Array, Array]:
    """(n, f) left singular vectors and (f,) singular values of the centred features.

    After a QR decomposition where d > n:

        x^T = Q R       x = R^T Q^T,  R^T = U S W^T       the n x n part alone
    """
    n, d = x.shape
    y, scale = stats.centred(x)
    small = y if d <= n else jnp.linalg.qr(y.T, mode="r").T
    left, values, _ = jnp.linalg.svd(small, full_matrices=False)
    return left[:, :f], scale * values[:f]


def _leading(square: Array, f: int) -> tuple[Array, Array, Array]:
    """The f leading eigenvectors of a Gram matrix by subspace iteration (QR iteration).

    Written in matrix products, a Cholesky and a small symmetric eigenproblem: other LAPACK calls
    wake OpenBLAS's threads, which then spin beside XLA's and double the time of what follows.

    Args:
        square: (n, n) float32, symmetric, positive semidefinite.
        f: f + OVERSAMPLES <= n.

    Returns:
        (n, f) float32, (f,) float32, and () bool: whether they can be trusted.
    """
    n = square.shape[0]
    drawn = np.random.default_rng(0).standard_normal((f + OVERSAMPLES, n))
    start = jnp.asarray(drawn, square.dtype)

    def improve(state: tuple[Array, ...]) -> tuple[Array, ...]:
        # A loop, not its body four times: this is most of what is compiled.
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
    # NaN compares false: what failed is not trusted.
    trusted = (remainder <= RESIDUAL) & (values[-1] > GRAM_CUT[square.dtype.itemsize] * values[0])
    return vectors.T, values, trusted


def _orthonormal(rows: Array) -> Array:
    """Rows (b, n) made orthonormal, each against those before it (Cholesky QR)."""
    rows = rows * jax.lax.rsqrt(jnp.sum(jnp.square(rows), axis=1, keepdims=True))
    eye = jnp.eye(rows.shape[0], dtype=rows.dtype)
    # The summand keeps nearly dependent rows from failing; later turns make up for it.
    lower = jnp.linalg.cholesky(stats.matmul(rows, rows.T) + 1e-6 * eye)
    diagonal = jnp.diagonal(lower)
    # L = D (I - N) with N^b = 0, so L^-1 = (I + N)(I + N^2)(I + N^4)... D^-1
    power = eye - lower / diagonal[:, None]
    inverse = eye + power
    for _ in range(1, (rows.shape[0] - 1).bit_length()):
        power = stats.matmul(power, power)
        inverse = inverse + stats.matmul(inverse, power)
    return stats.matmul(inverse / diagonal[None, :], rows)
