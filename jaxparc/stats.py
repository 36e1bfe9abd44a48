"""Statistics of one sample, as pure functions.

Every function takes one model's arrays, is neither jitted nor mapped (the caller does both), works
in their precision, float32 or float64, with the highest matrix precision, and returns NaN where the
quantity is undefined. n images are rows, d features are columns.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

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

# The squared distance of an image from its nearest, over their squared lengths, under which their
# product has too few digits to tell; by the bytes of a number.
CROWDED = {4: 1e-3, 8: 1e-9}

# Singular values, over the first, that one decomposition is relied on for, and the most of them.
RESOLVED = {4: 1e-3, 8: 1e-6}
STAGES = 64


def matmul(a: Array, b: Array) -> Array:
    """The product in full float32, also where a device would rather not."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def standardize(x: Array) -> Array:
    """Columns with mean 0 and population standard deviation 1; a constant column becomes zeros.

    Args:
        x: (n, d) float32.

    Returns:
        (n, d) float32.
    """
    # Minus one image first: that is exact where a large offset, or a constant, is all there is.
    # Over the largest distance from it: squares stay in range, whatever the column's size.
    y = x - x[0]
    spread = jnp.max(jnp.abs(y), axis=0)
    constant = spread == 0
    y = y * (1.0 / jnp.where(constant, 1.0, spread))
    centred = y - jnp.mean(y, axis=0)
    std = jnp.sqrt(jnp.mean(jnp.square(centred), axis=0))
    return jnp.where(constant, 0.0, centred * (1.0 / jnp.where(constant, 1.0, std)))


def corrcoef(x: Array, where: Array | None = None) -> Array:
    """Pearson correlation of the rows with each other.

    A correlation within 1e-6 of 1 or -1 is 1 or -1: with two columns every one is, and must tie.

    Args:
        x: (n, d) float32.
        where: (d,) bool, the columns that count; None counts all.

    Returns:
        (n, n) float32 in [-1, 1]; NaN in the row and column of a constant row.
    """
    return correlations(row_products(x, where)[0], varies(x, where))


def varies(x: Array, where: Array | None = None) -> Array:
    """Which rows of x (n, d) are not constant over the columns that count, (n,) bool."""
    # Decided on the values here too: a subtracted mean is off by rounding.
    highest = jnp.max(x, axis=1, where=where, initial=-jnp.inf)
    lowest = jnp.min(x, axis=1, where=where, initial=jnp.inf)
    return highest > lowest


def correlations(products: Array, defined: Array) -> Array:
    """Correlations from the products of centred rows (n, n); NaN where not `defined` (n,)."""
    norm = jnp.where(defined, jnp.sqrt(jnp.diagonal(products)), jnp.nan)
    # Normalising after the product reads x once and costs n * n divisions instead of n * d.
    r = products / (norm[:, None] * norm[None, :])
    return jnp.where(jnp.abs(r) > 1.0 - 1e-6, jnp.sign(r), r)


def row_products(x: Array, where: Array | None = None) -> tuple[Array, Array]:
    """Inner products of the rows, each minus its mean, and these means.

    Args:
        x: (n, d) float32.
        where: (d,) bool, the columns that count; None counts all.

    Returns:
        (n, n) float32 and (n,) float32. Those of the rows as they are: add the number of columns
        times the product of the means.
    """
    if where is not None:
        x = jnp.where(where, x, 0.0)
    mean = jnp.mean(x, axis=1, where=where)
    centred = x - mean[:, None]
    if where is not None:
        centred = jnp.where(where, centred, 0.0)
    return gram(centred), mean


def gram(x: Array) -> Array:
    """Inner products of the rows of x (n, d), (n, n) float32.

    All of them: half are enough, and making them in strips was 5 % faster at n = 500.
    """
    return matmul(x, x.T)


def centred_gram(x: Array) -> tuple[Array, Array]:
    """Gram matrix of the features, minus their column means, over their scale.

    Args:
        x: (n, d) float32.

    Returns:
        (n, n) float32, and the () float32 that features were divided by first, so that no square
        leaves float32: their largest distance from the first image's.
    """
    y, scale = _centred(x)
    return gram(y), scale


def _centred(x: Array) -> tuple[Array, Array]:
    # Minus one image first: that is exact where a large offset, or a constant, is all there is.
    y = x - x[0]
    scale = jnp.max(jnp.abs(y))
    scale = jnp.where(scale == 0, 1.0, scale)
    return (y - jnp.mean(y, axis=0)) * (1.0 / scale), scale


def squared_distances(x: Array) -> Array:
    """Between the rows of x (n, d), (n, n): not by products, and so however close they are."""
    y, _ = _centred(x)
    return jax.lax.map(lambda row: jnp.sum(jnp.square(y - row), axis=1), y)


def crowded(distances: Array, squares: Array, share: float) -> Array:
    """Whether most images have another one near, for their lengths; () bool.

    So it is where a column, or a direction, dominates: images that agree in it differ by less than
    its square has digits for. Images that are the same do not count as near.

    Args:
        distances: (n, n), squared.
        squares: (n,), squared lengths.
        share: of the squared lengths of two images, which a distance is near under.
    """
    lengths = squares[:, None] + squares[None, :]
    apart = (distances > share * lengths) | (distances == 0)
    return jnp.mean(jnp.all(apart, axis=1).astype(jnp.float32)) < 0.5


def cka(a: Array, b: Array) -> Array:
    """Centred kernel alignment of two symmetric matrices, by the unbiased statistic.

    Args:
        a: (n, n) float32, n > 3.
        b: (n, n) float32.

    Returns:
        () float32 in [-1, 1]; NaN if either is constant off the diagonal.
    """
    return cosine(u_centred(a), u_centred(b))


def u_centred(x: Array) -> Array:
    """A symmetric matrix U-centred (Szekely and Rizzo 2014, definition 2), over its norm.

    The diagonal does not count and is 0, and rows sum to 0. The inner product of two such matrices
    is their `cka`.

    Args:
        x: (n, n) float32, n > 3.

    Returns:
        (n, n) float32; NaN throughout if x is constant off the diagonal.
    """
    n = x.shape[0]
    diagonal = jnp.eye(n, dtype=bool)
    # Decided on the values: centring a constant leaves rounding noise, which has a cosine.
    highest = jnp.max(x, where=~diagonal, initial=-jnp.inf)
    lowest = jnp.min(x, where=~diagonal, initial=jnp.inf)
    off = jnp.where(diagonal, 0.0, x)
    rows = jnp.sum(off, axis=1) / (n - 2)
    total = jnp.sum(rows) / (n - 1)
    centred = jnp.where(diagonal, 0.0, off - rows[:, None] - rows[None, :] + total)
    return jnp.where(highest > lowest, centred / jnp.linalg.norm(centred), jnp.nan)


def upper_triangle(square: Array) -> Array:
    """The entries above the diagonal, row by row.

    Args:
        square: (n, n).

    Returns:
        (n * (n - 1) / 2,), one value per pair i < j.
    """
    rows, columns = np.triu_indices(square.shape[0], k=1)
    return square[rows, columns]


def ranks(x: Array) -> Array:
    """Ranks from 1, equal values sharing the average of theirs, by counting instead of sorting.

    A histogram of 4,096 bins of one width is the coarse rank. A bin that holds c values is cut into
    at least c slots of one width, and counting again gives the rank of a slot. The few unequal
    values that share one tie: under 1e-5 of a Spearman correlation. Linear in k: XLA
    ranks 124,750 floats on two CPU cores in 32 ms by sorting, and in 2 by counting.

    Args:
        x: (k,) float32.

    Returns:
        (k,) float32. Equal values have equal ranks, larger values ranks at least as large; values
        closer than 2^-24 of the range, or in one slot, tie. NaN throughout if any value is not
        finite.
    """
    k = x.size
    finer = max(1, (1 << 17) // k)  # slots for every value
    lowest, highest = jnp.min(x), jnp.max(x)
    unit = (highest - lowest) / (1 << 24)
    key = ((x - lowest) / jnp.where(unit == 0, 1.0, unit)).astype(jnp.int32)
    coarse, fine = key >> 12, key & 0xFFF
    in_bin = jnp.zeros(4097, jnp.int32).at[coarse].add(1)
    below = jnp.cumsum(in_bin, dtype=jnp.int32) - in_bin
    share = fine.astype(jnp.float32) / (1 << 12)
    within = (finer * in_bin[coarse]).astype(jnp.float32) * share
    slot = finer * below[coarse] + within.astype(jnp.int32)
    in_slot = jnp.zeros(finer * k, jnp.int32).at[slot].add(1)
    upto = jnp.cumsum(in_slot, dtype=jnp.int32)
    # twice the average rank of a slot is an integer
    average = (2 * upto - in_slot + 1).astype(x.dtype) / 2
    return jnp.where(jnp.isfinite(highest - lowest), average[slot], jnp.nan)


def standard_ranks(x: Array) -> Array:
    """Ranks with mean 0 and length 1: the inner product of two such is their Spearman correlation.

    Args:
        x: (k,) float32.

    Returns:
        (k,) float32; NaN throughout if all values are equal or any is not finite.
    """
    # Ranks over their count: squares of raw ranks of 124,750 pairs lose digits in float32.
    centred = (ranks(x) - (x.size + 1) / 2) / x.size
    norm = jnp.sqrt(jnp.sum(jnp.square(centred)))
    return jnp.where(jnp.max(x) > jnp.min(x), centred / norm, jnp.nan)


def spearman(a: Array, b: Array) -> Array:
    """Spearman rank correlation, with average ranks for ties.

    Args:
        a: (k,) float32.
        b: (k,) float32.

    Returns:
        () float32 in [-1, 1]; NaN if either is constant or holds a value that is not finite.
    """
    return cosine(standard_ranks(a), standard_ranks(b))


def cosine(a: Array, b: Array) -> Array:
    """Inner product, in [-1, 1], of two arrays of one shape and length 1, in the first's type."""
    b = b.astype(a.dtype)
    return jnp.clip(jnp.sum(a * b), -1.0, 1.0)


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
    return left * values, kept


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
        squares, scale = gram_and_scale or centred_gram(x)
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
    left = left * jnp.sign(left[top, jnp.arange(len(values))])
    # what is not finite stays so: it must not look like a component without rank
    kept = kept | jnp.isnan(values[0])
    return jnp.where(kept, left, 0.0), jnp.where(kept, values, 0.0), kept


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
    whole, scale = _centred(x)
    cut: Array | float = RANK_CUT
    if size == 8:
        cut = jnp.where(
            jnp.all(x == x.astype(jnp.float32).astype(x.dtype)), RANK_CUT, RANK_CUT_FLOAT64
        )

    def stage(state: tuple[Array, ...]) -> tuple[Array, ...]:
        rest, columns, top, left, values, count, turns = state
        found, sizes = _decomposed(rest, f)
        resolved = sizes > RESOLVED[size] * sizes[0]
        vectors = jnp.where(resolved, found, 0.0)
        parts = matmul(vectors.T, rest)
        made_of = jnp.sqrt(len(x) * jnp.sum(jnp.square(parts * columns), axis=1))
        taken = resolved & (jnp.square(sizes) > cut * made_of)
        place = jnp.where(taken, count + jnp.cumsum(taken, dtype=jnp.int32) - 1, f)
        left = left.at[:, place].set(vectors, mode="drop")
        values = values.at[place].set(sizes * top, mode="drop")
        rest = rest - matmul(vectors, parts)
        rest = rest - matmul(vectors, matmul(vectors.T, rest))
        largest = jnp.max(jnp.abs(rest), axis=0)
        said = largest > cut * columns
        # over the largest that is left: it may be smaller than the first by any power
        unit = jnp.max(jnp.where(said, largest, 0.0))
        shrink = 1.0 / jnp.where(unit > 0, unit, 1.0)
        rest = jnp.where(said, rest * shrink, 0.0)
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
    y, scale = _centred(x)
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
            0, 4, lambda _, q: _orthonormal(matmul(matmul(q, square), square)), state[0]
        )
        w = matmul(q, square)
        values, rotation = jnp.linalg.eigh(matmul(w, q.T))
        values, rotation = values[::-1][:f], rotation[:, ::-1][:, :f].T
        vectors = matmul(rotation, q)
        remainder = matmul(rotation, w) - values[:, None] * vectors
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
    lower = jnp.linalg.cholesky(matmul(rows, rows.T) + 1e-6 * eye)
    diagonal = jnp.diagonal(lower)
    # L = D (I - N) with N^b = 0, so L^-1 = (I + N)(I + N^2)(I + N^4)... D^-1
    power = eye - lower / diagonal[:, None]
    inverse = eye + power
    for _ in range(1, (rows.shape[0] - 1).bit_length()):
        power = matmul(power, power)
        inverse = inverse + matmul(inverse, power)
    return matmul(inverse / diagonal[None, :], rows)
