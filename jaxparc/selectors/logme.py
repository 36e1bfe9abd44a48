"""LogME: the evidence of linear models of the labels."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import stats
from jaxparc.errors import InputError
from jaxparc.selectors.probe import Probe

VARIANTS = ("evidence", "thuml")

# Ratios alpha / beta that are tried: their number, the smallest, over the largest eigenvalue of the
# centred Gram matrix and by the item size of the dtype, and the largest, over a bound of the
# eigenvalues of the Gram matrix.
RATIOS = 256
SMALLEST = {4: 1e-7, 8: 1e-12}
LARGEST = 1e6

# Of the largest eigenvalue: the ratio below which the evidence depends on the smallest eigenvalues,
# the smallest eigenvalue for which it may in float32, and one that float32 cannot tell from 0.
SMALL = 2e-5
RESOLVED = 1e-4
LOST = 2e-7

# Of the fixed-point iteration of the published code.
PUBLISHED_STEPS = 11
PUBLISHED_TOLERANCE = 1e-3
PUBLISHED_EPSILON = 1e-5


def logme(probe: Probe, *, n_dims: int | None = None, variant: str = "evidence") -> Array:
    """Score how probable the labels are under linear models of the features.

    You et al., ICML 2021: each column y of the labels Y (n, c), one-hot for classes, is a linear
    function of the features x (n, d), not centred, with weights from N(0, I / alpha) and noise from
    N(0, 1 / beta). The score is the maximum over alpha and beta of the logarithm of the evidence,
    per image, averaged over columns. With r = alpha / beta and G = x x^T the best beta is
    b(r) = n / (r y^T (G + r I)^-1 y), and

        ln p(y) = n/2 ln b(r) - 1/2 ln det(I + G / r) - n/2 (1 + ln 2 pi)

    depends on r alone; d does not appear. Its maximum is found on a grid of ln r and refined by a
    parabola, r to infinity (the features say nothing) included.

    G is a change of rank two of the Gram matrix of the centred features, K = V diag(w) V^T, so K is
    all that is decomposed. With m the mean of the features, v = (x - m) m and
    t(r) = |m|^2 - v^T (K + r I)^-1 v,

        y^T (G + r I)^-1 y = y_c^T (K + r I)^-1 y_c + n (mean(y) - v^T (K + r I)^-1 y_c)^2
                             / (r + n t),   y_c = y - mean(y),
        det(I + G / r) = det(I + K / r) (1 + n t / r).

    Args:
        probe: needs `features` (n, d) and `labels` of any kind. Values should have variance 1 per
            column, as the evidence depends on it.
        n_dims: f, reduce the features by PCA, which centres them, first; None for no reduction.
        variant: "evidence", or "thuml", the value of the published code, for comparison with
            published numbers.

    Returns:
        () float32; columns of zeros, such as those of classes without images, do not count. NaN if
        the features are constant, or of lower rank than n and fit a column exactly (the evidence is
        infinite).

    Raises:
        InputError: the variant is unknown.

    Differs from the published code, which leaves (d - k) / 2 ln(alpha) out, k = min(n, d) (it sums
    the logarithms of k eigenvalues of d), so that its values of models of different widths with
    d > n cannot be compared, and which stops a fixed-point iteration after at most eleven steps.
    """
    if variant not in VARIANTS:
        raise InputError(f"logme: unknown variant {variant!r}; known: {', '.join(VARIANTS)}")
    design, columns = _problem(probe, n_dims)
    if variant == "evidence":
        values, _ = _best(probe, n_dims)
    else:
        spectrum = probe.spectrum(n_dims)
        scale = probe.original_scale(spectrum.scale)
        d = probe.num_columns(None) if n_dims is None else spectrum.values.shape[0]
        values = _published(design, columns, scale, d)
    counts = columns.present
    score = jnp.sum(jnp.where(counts, values, 0.0)) / jnp.sum(counts).astype(values.dtype)
    return jnp.where(jnp.max(design.values) > 0, score, jnp.nan)


def contributions(probe: Probe, *, n_dims: int | None = None, variant: str = "evidence") -> Array:
    """Return what each image contributes to the score, (n,) float32, up to a constant.

    This is n - 1 times the change of the evidence if the image is left out (the jackknife), with
    the same alpha / beta, at the best of which it does not matter to first order. With
    Q = r (G + r I)^-1 and e = Q y, y^T Q y loses e_i^2 / Q_ii and det(I + G / r) is multiplied by
    Q_ii, so that

        (n - 1)/2 ln(1 - e_i^2 / (Q_ii y^T Q y)) + 1/2 ln Q_ii.

    Options as in `logme`; NaN for the variant "thuml", whose alpha and beta are not the best.
    """
    if variant != "evidence":
        return jnp.full(len(probe.labels), jnp.nan)
    design, columns = _problem(probe, n_dims)
    ratios = _best(probe, n_dims)[1]
    values, vectors, _ = spectrum = probe.spectrum(n_dims)
    y = probe.targets(values.dtype)
    n = design.images
    # (K + r I)^-1, and r times it, which is finite where r is not.
    inverse = 1.0 / (values[:, None] + ratios[None, :])
    shrunk = 1.0 / (1.0 + values[:, None] / ratios[None, :])
    inside, outside = spectrum.project(y)
    along = stats.matmul(vectors, design.along[:, None] * inverse)
    offset = jnp.maximum(design.offset - stats.matmul(jnp.square(design.along), inverse), 0.0)
    rest = 1.0 + n * offset / ratios
    shift = (columns.mean - jnp.sum(columns.mixed.T * inverse, axis=0)) / rest
    residual = stats.matmul(vectors, shrunk * inside) + outside + shift * (1.0 - n * along)
    unseen = jnp.maximum(1.0 - 1.0 / n - jnp.sum(jnp.square(vectors), axis=1), 0.0)
    free = stats.matmul(jnp.square(vectors), shrunk) + unseen[:, None]
    free = free + jnp.square(1.0 - n * along) / (n * rest)
    share = jnp.square(residual) / (free * jnp.sum(y * residual, axis=0))
    share = jnp.minimum(share, 1.0 - jnp.finfo(share.dtype).eps)
    found = ((n - 1.0) * jnp.log1p(-share) + jnp.log(free)) / 2.0
    if probe.kind == "values":  # which are divided by their deviation, that of the resample
        found = found + jnp.square(y) / 2.0
    counts = columns.present
    return jnp.sum(jnp.where(counts, found, 0.0), axis=1) / jnp.sum(counts).astype(found.dtype)


def needs_float64(probe: Probe, *, n_dims: int | None = None, variant: str = "evidence") -> Array:
    """Return whether float32 is too coarse for the features, () bool; options as in `logme`."""
    del variant
    design, columns = _problem(probe, n_dims)
    evidence, found = _best(probe, n_dims)
    ratios = jnp.where(columns.present, found, jnp.inf)
    # In float32 the grid may end above the best ratio, which then seems to be 0.
    undefined = jnp.any(columns.present & ~jnp.isfinite(evidence))
    largest, n = jnp.max(design.values), design.values.shape[0]
    # In general no more eigenvalues are 0 than that of the mean, and those beyond the number of
    # columns that vary. The others may hold the signal however small they are.
    if n_dims is None:
        nonzero = jnp.minimum(probe.summary("varying"), n - 1)
        smallest = jnp.sort(design.values)[n - nonzero]
    else:  # components without rank are 0
        smallest = jnp.min(design.values, where=design.values > 0, initial=jnp.inf)
    coarse = (jnp.min(ratios) < SMALL * largest) & (smallest < RESOLVED * largest)
    return coarse | (smallest < LOST * largest) | undefined


def summaries(*, n_dims: int | None = None, variant: str = "evidence") -> tuple[str, ...]:
    """Return the summaries that the score follows from; options as in `logme`."""
    del variant
    return ("centred_gram", "mean_products", "varying") if n_dims is None else ("centred_gram",)


class _Design(NamedTuple):
    """What the evidence depends on of the features; see `logme`.

    Attributes:
        values: (k,), w.
        along: (k,), V^T v.
        offset: (), |m|^2.
        images: (), n.
    """

    values: Array
    along: Array
    offset: Array
    images: Array


class _Columns(NamedTuple):
    """What it depends on of the labels, per column.

    Attributes:
        squares: (c, k), squares of V^T y_c.
        mixed: (c, k), V^T y_c times V^T v.
        outside: (c,), squared length of the part of y_c outside of the span of V.
        mean: (c,), the mean of y.
        present: (c,) bool, whether y is not 0.
    """

    squares: Array
    mixed: Array
    outside: Array
    mean: Array
    present: Array


def _problem(probe: Probe, n_dims: int | None) -> tuple[_Design, _Columns]:
    def compute() -> tuple[_Design, _Columns]:
        spectrum = probe.spectrum(n_dims)
        values, vectors, _ = spectrum
        y = probe.targets(values.dtype)
        inside, outside = spectrum.project(y)
        if n_dims is None:
            products, offset = probe.summary("mean_products")
            along = stats.matmul(products, vectors)
        else:  # components are centred
            offset, along = jnp.zeros((), y.dtype), jnp.zeros_like(values)
        design = _Design(values, along, offset, jnp.asarray(len(y), y.dtype))
        columns = _Columns(
            jnp.square(inside).T,
            inside.T * along[None, :],
            jnp.sum(jnp.square(outside), axis=0),
            jnp.mean(y, axis=0),
            jnp.any(y != 0, axis=0),
        )
        return design, columns

    return probe.once(("logme", n_dims), compute)


def _terms(ratio: Array, design: _Design, column: _Columns) -> tuple[Array, Array]:
    """Return r y^T (G + r I)^-1 y and ln det(I + G / r), () each, of one r and one column."""
    n = design.images
    inverse = 1.0 / (design.values + ratio)
    offset = jnp.maximum(design.offset - jnp.sum(jnp.square(design.along) * inverse), 0.0)
    shift = column.mean - stats.matmul(inverse, column.mixed)
    misfit = stats.matmul(ratio * inverse, column.squares) + column.outside
    misfit = misfit + n * jnp.square(shift) * ratio / (ratio + n * offset)
    volume = jnp.sum(jnp.log1p(design.values / ratio)) + jnp.log1p(n * offset / ratio)
    return misfit, volume


def _evidence(ratio: Array, design: _Design, column: _Columns) -> Array:
    """Return the logarithm of the evidence per image, (), at the best beta."""
    misfit, volume = _terms(ratio, design, column)
    n = design.images
    return 0.5 * (jnp.log(n / misfit) - volume / n) - _CONSTANT


_CONSTANT = 0.5 * (1.0 + np.log(2.0 * np.pi)).item()


def _best(probe: Probe, n_dims: int | None) -> tuple[Array, Array]:
    """Return the largest logarithm of the evidence per image and its r, (c,) each."""
    return probe.once(("logme_best", n_dims), lambda: _maximised(*_problem(probe, n_dims)))


def _maximised(design: _Design, columns: _Columns) -> tuple[Array, Array]:
    dtype = design.values.dtype
    largest = jnp.max(design.values)
    first = jnp.log(SMALLEST[dtype.itemsize] * largest)
    last = jnp.log(LARGEST * 2.0 * (largest + design.images * design.offset))
    step = (last - first) / (RATIOS - 1)
    grid = first + step * jnp.arange(RATIOS, dtype=dtype)
    of_columns = jax.vmap(_evidence, (None, None, 0))
    found = jax.vmap(of_columns, (0, None, None), 1)(jnp.exp(grid), design, columns)  # (c, RATIOS)
    place = jnp.clip(jnp.argmax(found, axis=1), 1, RATIOS - 2)
    before, here, after = (
        jnp.take_along_axis(found, place[:, None] + side, axis=1)[:, 0] for side in (-1, 0, 1)
    )
    bend = before - 2.0 * here + after
    # The maximum of the parabola through three points, unless they are on a line.
    move = 0.5 * (before - after) / jnp.where(bend < 0, bend, -jnp.inf)
    ratios = jnp.exp(grid[place] + step * jnp.clip(move, -1.0, 1.0))
    refined = jax.vmap(_evidence, (0, None, 0))(ratios, design, columns)
    best = jnp.maximum(refined, jnp.max(found, axis=1))
    # r to 0: the noise is 0. Where features of lower rank than n fit a column exactly, the evidence
    # grows by 1 / 2n or more per unit of -ln r, without limit.
    growth = (found[:, 0] - found[:, 1]) * design.images / step
    endless = (jnp.argmax(found, axis=1) == 0) & (growth > 0.1)
    best = jnp.where(endless, jnp.nan, best)
    # r to infinity: the weights are 0.
    length = jnp.sum(columns.squares, axis=1) + columns.outside
    length = length + design.images * jnp.square(columns.mean)
    none = 0.5 * jnp.log(design.images / length) - _CONSTANT
    return jnp.maximum(best, none), jnp.where(none >= best, jnp.inf, ratios)


def _published(design: _Design, columns: _Columns, scale: Array, d: Array | int) -> Array:
    """Return the value of the published code for each column, (c,).

    Args:
        design: of features divided by `scale`, on which alpha depends.
        columns: the columns.
        scale: () float32.
        d: the number of features.
    """
    n = design.images
    unit = jnp.square(scale)
    beyond = jnp.asarray(d, unit.dtype) - jnp.minimum(n, jnp.asarray(d, unit.dtype))

    def of_column(column: _Columns) -> Array:
        def step(state: _Step) -> _Step:
            ratio = state.alpha / state.beta / unit
            one = jnp.ones_like(ratio)
            (misfit, _), (length, slope) = jax.jvp(
                lambda r: _terms(r, design, column), (ratio,), (one,)
            )
            # The misfit is residual + r length, for the squared lengths of the residual and of the
            # weights, and the latter is its derivative. n - gamma is the trace of r (G + r I)^-1.
            residual, length = misfit - ratio * length, length / unit
            gamma = -ratio * slope
            alpha = gamma / (length + PUBLISHED_EPSILON)
            beta = (n - gamma) / (residual + PUBLISHED_EPSILON)
            found = alpha / beta / unit
            fit = n * jnp.log(beta) - beta * residual - alpha * length
            fit = fit - _terms(found, design, column)[1] + beyond * jnp.log(alpha)
            evidence = 0.5 * (fit / n - np.log(2.0 * np.pi).item())
            done = jnp.abs(found - ratio) <= PUBLISHED_TOLERANCE * ratio
            following = _Step(alpha, beta, evidence, done)
            return jax.tree.map(lambda new, old: jnp.where(state.done, old, new), following, state)

        one = jnp.ones((), unit.dtype)
        start = _Step(one, one, one, jnp.bool_(False))
        last = jax.lax.fori_loop(0, PUBLISHED_STEPS, lambda _, state: step(state), start)
        return last.evidence

    return jax.vmap(of_column)(columns)


class _Step(NamedTuple):
    alpha: Array
    beta: Array
    evidence: Array
    done: Array
