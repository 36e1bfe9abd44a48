import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxparc import parallel, stats
from jaxparc.selectors import components

SHAPES = [(24, 7), (9, 30)]

# one program each instead of one per operation: most of the time here is compilation
standardize = jax.jit(stats.standardize)
corrcoef = jax.jit(stats.corrcoef)
spearman = jax.jit(stats.spearman)
pca = jax.jit(components.pca, static_argnums=1)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_spectrum(values, n, d, seed=0):
    """Centred (n, d) float32 with these singular values."""
    rng = np.random.default_rng(seed)
    left = rng.standard_normal((n, len(values)))
    left, _ = np.linalg.qr(left - left.mean(0))
    right, _ = np.linalg.qr(rng.standard_normal((d, len(values))))
    return ((left * values) @ right.T).astype(np.float32)


def pca_float64(x, f):
    """Scores by a float64 SVD, with the sign convention, and all singular values."""
    centred = x.astype(np.float64) - x.astype(np.float64).mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    scores = left[:, :f] * values[:f]
    return scores * np.sign(scores[np.abs(scores).argmax(0), np.arange(scores.shape[1])]), values


# ---------------------------------------------------------------------------------- standardize


@pytest.mark.parametrize("shape", SHAPES)
def test_standardize_is_numpys(shape):
    # an offset, as features behind a ReLU have, and columns of very different scale
    x = (drawn(*shape) + 3) * np.geomspace(1e-3, 1e3, shape[1], dtype=np.float32)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(
        standardize(jnp.asarray(x)), (wide - wide.mean(0)) / wide.std(0), atol=1e-5
    )


@pytest.mark.parametrize("n", [3, 7, 333])
def test_standardize_turns_a_constant_column_into_zeros(n):
    # 0.1 summed and divided is not 0.1: the computed deviation of equal floats is not zero
    x = drawn(n, 6)
    x[:, 1:5] = 0.0, 0.1, -3.3e4, 1e-30
    z = np.asarray(standardize(jnp.asarray(x)))
    assert (z[:, 1:5] == 0).all()
    np.testing.assert_allclose(z[:, [0, 5]].std(0), 1, atol=1e-6)


def test_standardize_keeps_nan_to_its_column():
    x = drawn(6, 3)
    x[2, 1] = np.nan
    z = np.asarray(standardize(jnp.asarray(x)))
    assert np.isnan(z[:, 1]).all()
    assert np.isfinite(z[:, [0, 2]]).all()


# ------------------------------------------------------------------------------------- corrcoef


@pytest.mark.parametrize("shape", SHAPES)
def test_corrcoef_is_numpys(shape):
    x = drawn(*shape) + 2
    r = np.asarray(corrcoef(jnp.asarray(x)))
    np.testing.assert_allclose(r, np.corrcoef(x.astype(np.float64)), atol=2e-6)
    assert np.abs(r).max() <= 1


def test_corrcoef_of_chosen_columns_ignores_the_others():
    x = drawn(12, 6)
    where = np.array([True, False, True, True, False, True])
    expected = np.corrcoef(x[:, where].astype(np.float64))
    x[:, ~where] = 1e6
    r = corrcoef(jnp.asarray(x), where=jnp.asarray(where))
    np.testing.assert_allclose(r, expected, atol=2e-6)


@pytest.mark.parametrize("d", [2, 6, 33])
def test_corrcoef_of_a_constant_row_is_nan(d):
    # 0.1 again: the row minus its computed mean is rounding noise, which correlates with itself
    x = drawn(4, d)
    x[1] = 0.1
    r = np.asarray(corrcoef(jnp.asarray(x)))
    assert np.isnan(r[1]).all()
    assert np.isnan(r[:, 1]).all()
    others = [0, 2, 3]
    assert np.isfinite(r[np.ix_(others, others)]).all()


def test_corrcoef_of_two_columns_takes_exactly_two_values():
    # any two points lie on a line: values next to 1 would be ranked as if they meant something
    x = standardize(jnp.asarray(drawn(40, 2)))
    assert set(np.unique(stats.upper_triangle(corrcoef(x)))) == {-1.0, 1.0}


def test_duplicated_rows_have_the_same_correlations_bit_for_bit():
    x = drawn(41, 33)
    x[[20, 40]] = x[3]
    r = np.asarray(corrcoef(standardize(jnp.asarray(x))))
    others = np.setdiff1d(np.arange(41), [3, 20, 40])
    np.testing.assert_array_equal(r[20, others], r[3, others])
    np.testing.assert_array_equal(r[40, others], r[3, others])


def test_corrcoef_with_nan_is_nan_there():
    x = drawn(5, 8)
    x[4, 0] = np.nan
    r = np.asarray(corrcoef(jnp.asarray(x)))
    assert np.isnan(r[4]).all()
    assert np.isfinite(r[:4, :4]).all()


def test_upper_triangle_is_the_pairs_in_order():
    square = np.arange(16).reshape(4, 4)
    assert stats.upper_triangle(jnp.asarray(square)).tolist() == [1, 2, 3, 6, 7, 11]


# ------------------------------------------------------------------------- ranks and spearman


@pytest.mark.parametrize("levels", [None, 2, 7])
def test_spearman_is_scipys_with_and_without_ties(levels):
    a, b = drawn(1225), drawn(1225, seed=1)
    b = b + a
    if levels is not None:
        b = np.floor(scipy.stats.norm.cdf(b) * levels).astype(np.float32)
    expected = scipy.stats.spearmanr(a, b).statistic
    np.testing.assert_allclose(spearman(jnp.asarray(a), jnp.asarray(b)), expected, atol=1e-5)


def test_spearman_keeps_its_digits_on_every_pair_of_a_probe_set():
    k = 500 * 499 // 2
    a, b = drawn(k), (drawn(k, seed=1) > 1).astype(np.float32)
    expected = scipy.stats.spearmanr(a, b).statistic
    np.testing.assert_allclose(spearman(jnp.asarray(a), jnp.asarray(b)), expected, atol=1e-6)


def test_correlations_stay_in_range():
    for seed in range(40):
        a = jnp.asarray(drawn(28, seed=seed))
        assert 1 - 1e-6 < float(spearman(a, a)) <= 1
        assert -1 <= float(spearman(a, -a)) < -1 + 1e-6


@pytest.mark.parametrize("k", [6, 10, 28, 66])
def test_correlation_with_a_constant_is_nan(k):
    # the mean of equal floats is not that float for most k
    constant, other = jnp.full(k, 0.1, jnp.float32), jnp.asarray(drawn(k))
    assert np.isnan(spearman(constant, other))
    assert np.isnan(spearman(other, constant))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_correlation_with_what_is_not_finite_is_nan(value):
    a, b = drawn(10), drawn(10, seed=1)
    b[3] = value
    assert np.isnan(spearman(jnp.asarray(a), jnp.asarray(b)))
    assert np.isnan(spearman(jnp.asarray(b), jnp.asarray(a)))


# ------------------------------------------------------------------------------------------ pca


@pytest.mark.parametrize(("n", "d"), [(60, 20), (40, 100)])
def test_pca_is_an_svd_in_float64(n, d):
    x = drawn(n, d) + 5
    expected, values = pca_float64(x, 8)
    scores, kept = pca(jnp.asarray(x), 8)
    assert np.asarray(kept).all()
    np.testing.assert_allclose(scores, expected, atol=3e-5 * values[0])


def test_pca_makes_the_largest_score_of_a_component_positive():
    for seed in range(5):
        scores = np.asarray(pca(jnp.asarray(drawn(60, 20, seed=seed)), 8)[0])
        assert (scores[np.abs(scores).argmax(0), np.arange(8)] > 0).all()


def relative_error(x, f):
    """Of each component, relative to its own size."""
    expected, values = pca_float64(x, f)
    scores, kept = pca(jnp.asarray(x), f)
    assert np.asarray(kept).all()
    return np.abs(np.asarray(scores) - expected).max(0) / values[:f]


@pytest.mark.parametrize("smallest", [1e-3, 1e-4])
@pytest.mark.parametrize(("n", "d"), [(60, 20), (40, 100)])
def test_pca_is_right_at_the_end_of_a_steep_spectrum(smallest, n, d):
    # the squares of the Gram matrix alone would lose these components
    x = with_spectrum(30 * np.geomspace(1, smallest, 8), n, d)
    assert relative_error(x, 8).max() < 1e-7 / smallest


@pytest.mark.parametrize("second", [1e-2, 1e-3, 1e-4])
def test_pca_is_right_behind_one_dominating_component(second):
    # one outlier unit, then more components close behind each other than oversampling reaches;
    # a float32 SVD of the array itself stays well under these bounds
    x = with_spectrum(30 * np.r_[1, second * np.geomspace(1, 0.1, 60)], 100, 80)
    assert relative_error(x, 8).max() < max(1e-3, 1e-6 / second)


@pytest.mark.parametrize("rank", [1, 5, 22])
def test_pca_leaves_out_what_is_rounding_noise(rank):
    x = with_spectrum(np.geomspace(10, 1, rank), 50, 40)
    scores, kept = pca(jnp.asarray(x), 32)
    assert np.asarray(kept).tolist() == [True] * rank + [False] * (32 - rank)
    assert (np.asarray(scores)[:, rank:] == 0).all()
    np.testing.assert_allclose(np.asarray(scores)[:, :rank], pca_float64(x, rank)[0], atol=1e-4)


def test_pca_leaves_out_dead_columns():
    x = drawn(50, 40) + 3
    x[:, 4:] = 0.7
    kept = pca(jnp.asarray(x), 32)[1]
    assert np.asarray(kept).sum() == 4


@pytest.mark.parametrize(("n", "d"), [(5, 30), (30, 5)])
def test_pca_to_more_dimensions_than_there_are_gives_all(n, d):
    x = drawn(n, d)
    rank = min(n - 1, d)  # centring takes one from the rows
    scores, kept = pca(jnp.asarray(x), 32)
    assert scores.shape == (n, 5)
    assert np.asarray(kept).sum() == rank
    np.testing.assert_allclose(np.asarray(scores)[:, :rank], pca_float64(x, rank)[0], atol=1e-4)


def test_pca_of_constant_features_keeps_nothing():
    scores, kept = pca(jnp.full((50, 40), 0.1, jnp.float32), 32)
    assert not np.asarray(kept).any()
    assert (np.asarray(scores) == 0).all()


def test_pca_with_a_nan_is_not_a_legal_number():
    x = drawn(50, 40)
    x[0, 0] = np.nan
    scores, kept = pca(jnp.asarray(x), 32)
    assert np.isnan(np.asarray(corrcoef(scores, where=kept))).all()


@pytest.mark.parametrize("n", [5, 12, 45])
def test_cka_of_a_constant_matrix_is_nan(n):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, n)).astype(np.float32)
    x = x + x.T
    constant = np.full((n, n), 0.1, np.float32)
    np.fill_diagonal(constant, 7)  # the diagonal does not count
    cka = jax.jit(stats.cka)
    assert np.isnan(cka(constant, x))
    assert np.isnan(cka(x, constant))
    np.testing.assert_allclose(cka(x, x), 1, rtol=1e-6)


# ------------------------------------------------------------------------- the faster ways


@pytest.mark.parametrize("f", [4, 8])
@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_pca_of_many_images_is_an_svd_in_float64(f, decay):
    # enough images for the subspace iteration; decay 0 is noise, whose values lie close together
    n, d = 200, 300
    assert f + components.OVERSAMPLES <= min(n // 3, d // 2)
    x = (drawn(n, d) * np.arange(1, d + 1) ** -decay + 3).astype(np.float32)
    expected, values = pca_float64(x, f)
    scores, kept = pca(jnp.asarray(x), f)
    scores = np.asarray(scores)
    assert np.asarray(kept).all()
    np.testing.assert_allclose(np.linalg.norm(scores, axis=0), values[:f], rtol=1e-3)
    if decay:  # otherwise which vector is which is decided by next to nothing
        np.testing.assert_allclose(scores, expected, atol=1e-3 * values[0])
    unit = scores / np.linalg.norm(scores, axis=0)
    np.testing.assert_allclose(unit.T @ unit, np.eye(f), atol=1e-5)


@pytest.mark.parametrize("second", [1e-2, 1e-3, 1e-4])
def test_pca_of_many_images_is_right_behind_one_dominating_component(second):
    x = with_spectrum(30 * np.r_[1, second * np.geomspace(1, 0.1, 60)], 150, 200)
    assert relative_error(x, 8).max() < max(1e-3, 1e-6 / second)


def test_pca_of_many_images_leaves_out_what_is_rounding_noise():
    x = with_spectrum(np.geomspace(10, 1, 5), 150, 200)
    scores, kept = pca(jnp.asarray(x), 8)
    assert np.asarray(kept).tolist() == [True] * 5 + [False] * 3
    np.testing.assert_allclose(np.asarray(scores)[:, :5], pca_float64(x, 5)[0], atol=1e-4)


def test_pca_of_duplicated_images_ends():
    # ten directions alone, all alike: the iteration cannot tell them from each other
    x = np.repeat(np.eye(10, 40, dtype=np.float32), 15, axis=0)
    kept = np.asarray(pca(jnp.asarray(x), 12)[1])
    assert kept.sum() == 9


@pytest.mark.parametrize("k", [1, 2, 10, 1225, 20_000])
@pytest.mark.parametrize("levels", [3, 40, None])
def test_ranks_are_scipys(k, levels):
    x = np.random.default_rng(k).beta(2, 5, k).astype(np.float32)
    if levels is not None:
        x = np.round(x * levels) / np.float32(levels)
    got = np.asarray(jax.jit(stats.ranks)(jnp.asarray(x)))
    expected = scipy.stats.rankdata(x.astype(np.float64))
    # what is equal has the average rank; unequal neighbours may share theirs
    np.testing.assert_allclose(got, expected, atol=0 if levels else 2)
    assert got.sum(dtype=np.float64) == expected.sum()


def test_ranks_of_equal_values_are_equal_and_of_larger_ones_no_smaller():
    x = 1 - np.tanh(np.random.default_rng(0).standard_normal(5000) * 3).astype(np.float32)
    got = np.asarray(jax.jit(stats.ranks)(jnp.asarray(np.r_[x, x])))
    np.testing.assert_array_equal(got[:5000], got[5000:])
    assert (np.diff(got[:5000][np.argsort(x)]) >= 0).all()


def test_ranks_tell_apart_every_float_that_one_minus_r_can_be():
    # near 0, where distances of images that look the same lie: steps of 2^-24
    x = np.float32(1) - np.r_[np.float32(-1), 1 - np.arange(2000, dtype=np.float32) * 2.0**-23]
    got = np.asarray(jax.jit(stats.ranks)(jnp.asarray(x, jnp.float32)))
    np.testing.assert_array_equal(got, scipy.stats.rankdata(x.astype(np.float64)))


@pytest.mark.parametrize("draw", ["uniform", "normal", "beta", "lognormal"])
def test_spearman_is_right_to_1e_5_where_values_spread_over_their_range(draw):
    rng = np.random.default_rng(0)
    x = {
        "uniform": rng.random,
        "normal": rng.standard_normal,
        "beta": functools.partial(rng.beta, 2, 5),
        "lognormal": functools.partial(rng.lognormal, 0, 1),
    }[draw](size=124_750).astype(np.float32)
    y = x + x.std() * rng.standard_normal(x.size).astype(np.float32)
    expected = scipy.stats.spearmanr(x, y).statistic
    assert float(spearman(jnp.asarray(x), jnp.asarray(y))) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("sigma", [1, 6])
def test_ranks_of_float64_are_scipys_whatever_the_tail(sigma):
    x = np.random.default_rng(0).lognormal(0, sigma, 2_000)
    x[::7] = x[0]
    with parallel.enable_x64(True):
        got = np.asarray(jax.jit(stats.ranks)(x))
        broken = np.asarray(jax.jit(stats.ranks)(np.where(x == x[1], np.inf, x)))
    np.testing.assert_array_equal(got, scipy.stats.rankdata(x))
    assert np.isnan(broken).all()


def test_hits_share_ties():
    scores = jnp.float32([[3, 1, 2], [2, 2, 1], [1, 1, 1], [1, 2, 0], [1, 1.5, 0]])
    labels = jnp.int32([0, 1, 2, 0, 0])
    found = stats.hits(scores, labels)
    np.testing.assert_allclose(found, [1, 1 / 2, 1 / 3, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(stats.hits(scores, labels, 0.6)[-1], 1 / 2)
    # neither a score of NaN nor one of infinity for all wins by default
    assert stats.hits(jnp.full((1, 2), jnp.nan), jnp.int32([0])) == 0
    assert stats.hits(jnp.full((1, 2), -jnp.inf), jnp.int32([0])) == 0.5


def test_the_cosine_of_standard_entries_is_scipys_pearson_and_undefined_for_constants():
    rng = np.random.default_rng(0)
    a = rng.standard_normal(1000).astype(np.float32) + 10
    b = (a + rng.standard_normal(1000)).astype(np.float32)
    where = np.arange(1000) % 3 > 0
    expected = scipy.stats.pearsonr(a[where].astype(float), b[where]).statistic
    a[0] = b[6] = 1e6  # neither counts
    found = stats.cosine(stats.standard(a, where), stats.standard(b, where))
    assert found == pytest.approx(expected, abs=1e-6)
    assert np.isnan(stats.standard(jnp.full(1000, 0.1), where)).all()
    assert np.isnan(stats.standard(a, np.zeros(1000, bool))).all()


@pytest.mark.parametrize("square", [False, True])
def test_pairs_contribute_the_derivative_of_a_correlation(square):
    """With the weight of an image, by differences; the weight of a pair is the product."""
    n = 12
    rng = np.random.default_rng(0)
    a, b = (x + x.T for x in rng.standard_normal((2, n, n)))
    first, second = np.triu_indices(n, 1)

    def weighted(weights):
        pairs = (weights[:, None] * weights[None, :])[first, second]
        x, y = ((z := m[first, second]) - np.average(z, weights=pairs) for m in (a, b))
        norm = np.sqrt(np.average(x * x, weights=pairs) * np.average(y * y, weights=pairs))
        return np.average(x * y, weights=pairs) / norm

    steps = 1e-5 * np.eye(n)
    ones = np.ones(n)
    expected = [n * (weighted(ones + s) - weighted(ones - s)) / 2e-5 for s in steps]
    where = ~np.eye(n, dtype=bool) if square else np.triu(np.ones((n, n), bool), 1)
    x, y = (np.asarray(stats.standard(m.astype(np.float32), where)) for m in (a, b))
    if not square:
        x, y = x[first, second], y[first, second]
    found = stats.pair_contributions(jnp.asarray(x), jnp.asarray(y))
    # Weights move the pairs of an image, n - 1 of n (n - 1) / 2, by as much as 2 / n of all.
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_directions_are_inner_products_of_centred_rows_of_length_1():
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32) + 1
    x *= np.geomspace(1e-25, 1e25, 6, dtype=np.float32)[:, None]  # squares are out of range
    x[2] = 0
    rows = x.astype(float) / np.where(x.any(1), np.linalg.norm(x.astype(float), axis=1), 1)[:, None]
    rows -= rows.mean(0)
    np.testing.assert_allclose(stats.directions(x), rows @ rows.T, atol=1e-6)
    same = np.outer(np.arange(1, 6), x[0]).astype(np.float32)
    assert not np.any(stats.directions(same))


@pytest.mark.parametrize("offset", [0, 1e4])
def test_mean_products_complete_the_centred_gram_matrix(offset):
    x = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32) + np.float32(offset)
    gram, scale = stats.centred_gram(x)
    v, s = stats.mean_products(x)
    whole = np.asarray(gram + v[:, None] + v[None, :] + s, np.float64) * float(scale) ** 2
    np.testing.assert_allclose(whole, x.astype(float) @ x.astype(float).T, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("place", [0, 1, 777, 4998, 4999])
def test_ranks_with_nan_anywhere_are_nan(place):
    x = drawn(5000)
    x[place] = np.nan
    assert np.isnan(np.asarray(jax.jit(stats.ranks)(x))).all()
