"""Labels that are values: independent definitions, and what scores do not depend on."""

import functools

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.spatial
import scipy.stats
import sklearn.linear_model
import sklearn.metrics
import sklearn.model_selection
import sklearn.neighbors

from jaxparc import score_bank, selectors
from jaxparc.errors import InputError
from jaxparc.selectors import SELECTORS

N, D = 80, 30
METHODS = ["parc", "parc_f8", "knn", "knn_f8", "ridge", "ridge_f8", "logme", "logme_f8"]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D))
AGES = np.round(40 + 12 * X[:, 0] + 6 * X[:, 1] + 6 * RNG.normal(size=N)).astype(int)
TWO = np.stack([AGES, 1e-3 * (X[:, 2] + RNG.normal(size=N))], 1)


def score(y, methods=METHODS, x=X, **options):
    scores = score_bank({"a": x}, y, methods=methods, label_kind="values", **options)
    return scores.values[0]


def left_out(regressor, y):
    folds = sklearn.model_selection.LeaveOneOut()
    return sklearn.model_selection.cross_val_predict(regressor, X, y, cv=folds)


@pytest.mark.parametrize("y", [AGES, TWO])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_knn_is_r2_of_neighbours(y, k):
    expected = sklearn.metrics.r2_score(
        y, left_out(sklearn.neighbors.KNeighborsRegressor(k), y), multioutput="uniform_average"
    )
    method = functools.partial(selectors.knn, k=k)
    assert score(y, [method])[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("y", [AGES, TWO])
def test_ridge_is_r2_of_images_left_out(y):
    # one penalty for all columns, the best on standardised ones
    z = (y - y.mean(0)) / y.std(0)
    largest = np.linalg.norm(X - X.mean(0), 2) ** 2
    predictions = [
        left_out(sklearn.linear_model.Ridge(largest * 10**k), z) for k in np.arange(-5, 1.5, 0.5)
    ]
    expected = sklearn.metrics.r2_score(
        z, min(predictions, key=lambda p: np.square(p - z).mean()), multioutput="uniform_average"
    )
    assert score(y, ["ridge"])[0] == pytest.approx(expected, abs=1e-5)


def test_logme_is_the_mean_of_the_evidence_per_column():
    z = (TWO - TWO.mean(0)) / TWO.std(0)

    def cost(parameters, column):
        alpha, beta = np.exp(parameters)
        covariance = np.eye(N) / beta + X @ X.T / alpha
        return -scipy.stats.multivariate_normal(np.zeros(N), covariance).logpdf(column) / N

    best = [
        min(
            scipy.optimize.minimize(cost, start, args=(column,), method="Nelder-Mead").fun
            for start in ([0, 0], [3, 0], [6, 0])
        )
        for column in z.T
    ]
    assert score(TWO, ["logme"])[0] == pytest.approx(-np.mean(best), abs=1e-4)


@pytest.mark.parametrize("y", [AGES, TWO])
def test_parc_is_spearman_of_distances(y):
    z = (X - X.mean(0)) / X.std(0)
    d_theta = scipy.spatial.distance.pdist(z, "correlation")
    d_y = scipy.spatial.distance.pdist(((y - y.mean(0)) / y.std(0)).reshape(N, -1))
    expected = 100 * scipy.stats.spearmanr(d_theta, np.round(d_y, 10)).statistic
    assert score(y, ["parc"])[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "change",
    [lambda y: y + 1e6, lambda y: 1e-6 * y, lambda y: -y, lambda y: 1e3 * y - 7],
)
@pytest.mark.parametrize("y", [AGES, TWO])
def test_units_offset_and_sign_of_values_do_not_matter(y, change):
    np.testing.assert_allclose(score(change(y)), score(y), atol=2e-4)


def test_order_of_columns_and_of_images_does_not_matter():
    np.testing.assert_allclose(score(TWO[:, ::-1]), score(TWO), atol=1e-4)
    order = np.random.default_rng(1).permutation(N)
    np.testing.assert_allclose(score(TWO[order], x=X[order]), score(TWO), atol=1e-3)
    np.testing.assert_array_equal(score(AGES[:, None]), score(AGES))


def test_units_of_one_column_of_several_do_not_matter():
    np.testing.assert_allclose(score(TWO * [1, 1e9]), score(TWO), atol=1e-4)


def test_values_and_features_of_low_precision():
    expected = score(AGES.astype(float))
    for y in (AGES.astype(np.float16), AGES.astype(np.int16), AGES.tolist()):
        np.testing.assert_array_equal(score(y), expected)
    small = X.astype(np.float16)
    half = score(AGES, x=small)
    np.testing.assert_allclose(half, score(AGES, x=small.astype(np.float64)), atol=2e-3)


def test_features_without_signal_score_about_0_and_linear_ones_near_1():
    y = np.random.default_rng(2).normal(size=300)
    noise = np.random.default_rng(3).normal(size=(300, 20))
    parc, knn, ridge, logme = score(y, ["parc", "knn", "ridge", "logme"], x=noise)
    assert abs(parc) < 2
    assert knn < 0
    assert -0.05 < ridge < 0.02
    assert logme == pytest.approx(-0.5 * (1 + np.log(2 * np.pi)), abs=1e-2)
    linear = np.c_[y * 100, noise[:, :2]]
    better = score(y, ["parc", "knn", "ridge", "logme"], x=linear)
    assert (better > [parc, knn, ridge, logme]).all()
    assert better[1] > 0.99
    assert better[2] > 0.9999
    wide = np.random.default_rng(4).normal(size=(300, 2000))
    assert -0.05 < score(y, ["ridge"], x=wide)[0] < 0.05


def test_class_methods_refuse_values_by_name():
    given = {"probs": [np.full((N, 3), 1 / 3)]}
    refusing = [name for name, s in SELECTORS.items() if "values" not in s.kinds]
    assert len(refusing) == 11
    for method in refusing:
        with pytest.raises(InputError) as refused:
            score(AGES, [method], **given)
        assert str(refused.value) == f"method {method!r} takes classes labels; these are values"


def test_ensembles_layers_priors_and_methods_that_read_no_labels():
    names = ["mean(parc_f8,ridge)", "ridge+l", "knn+p", "rsa", "dds", "heuristic"]
    bank = {"good": X, "poor": X[:, 2:], "noise": RNG.normal(size=(N, D))}
    scores = score_bank(
        bank,
        AGES,
        methods=names,
        label_kind="values",
        reference=X[:, :2],
        layers=[10, 20, 30],
        prior=[1, 2, 3],
        source_images=[1, 2, 3],
        target_images=N,
    )
    assert np.isfinite(scores.values).all()
    assert scores.ranking("mean(parc_f8,ridge)")[0][0] == "good"


def test_an_outlier_hides_no_order_from_parc():
    # float32 has few digits left for the others beside it
    y = AGES.astype(float)
    y[5] = 1e6
    z = (X - X.mean(0)) / X.std(0)
    d_theta = scipy.spatial.distance.pdist(z, "correlation")
    expected = 100 * scipy.stats.spearmanr(d_theta, scipy.spatial.distance.pdist(y[:, None]))[0]
    assert score(y, ["parc"])[0] == pytest.approx(expected, abs=1e-3)
