"""Size, offset and dominance of features: what float64 NumPy and SciPy give, or NaN with a name."""

import functools
import re
import warnings

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from jaxparc import score_bank
from jaxparc.errors import UndefinedScoreWarning
from jaxparc.selectors import knn

N, D, C = 60, 24, 4
Y = np.arange(N) % C
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)) + 0.6 * RNG.normal(size=(C, D))[Y]  # float64, of all its digits
REFERENCE = RNG.normal(size=(N, 9)) + 2 * RNG.normal(size=(C, 9))[Y]
METHODS = (
    "parc",
    "parc_f8",
    "rsa",
    "rsa_f8",
    "dds",
    "dds_f8",
    "hscore",
    "hscore_f8",
    "knn",
    "knn_f8",
)
PAIRS = np.triu_indices(N, 1)


# ------------------------------------------------------------------------- float64, from SciPy


def components(x, f):
    """Whitened, and as they are; the sign is that of the image with the largest."""
    centred = x - x.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    left = left[:, :f] * np.sign(left[np.abs(left[:, :f]).argmax(0), np.arange(f)])
    return left, left * values[:f]


def correlations(x, f):
    z = components(x, f)[0] if f else x
    return np.corrcoef((z - z.mean(0)) / z.std(0))[PAIRS]


def parc_(x, f=None):
    return 100 * scipy.stats.spearmanr(-correlations(x, f), (Y[:, None] != Y)[PAIRS]).statistic


def rsa_(x, f=None):
    return 100 * scipy.stats.spearmanr(correlations(x, f), correlations(REFERENCE, f)).statistic


def centred_distances(x, f):
    z = components(x, f)[0] if f else x
    z = (z - z.mean(0)) / z.std(0)
    z = z / np.linalg.norm(z, axis=1)[:, None]
    d = 1 - z @ z.T
    np.fill_diagonal(d, 0)
    u = d - d.sum(0) / (N - 2) - d.sum(1)[:, None] / (N - 2) + d.sum() / ((N - 1) * (N - 2))
    np.fill_diagonal(u, 0)
    return u / np.linalg.norm(u)


def dds_(x, f=None):
    return 100 * np.sum(centred_distances(x, f) * centred_distances(REFERENCE, f))


def hscore_(x, f=None):
    if f:
        left = components(x, f)[0]
    else:
        left = np.linalg.svd((x - x.mean(0)) / x.std(0), full_matrices=False)[0]
    classes = [left[c == Y] for c in range(C)]
    return sum(np.square(rows.sum(0)).sum() / len(rows) for rows in classes)


def knn_(x, f=None):
    x = components(x, f)[1] if f else x
    distances = np.square(x[:, None] - x[None]).sum(2)
    np.fill_diagonal(distances, np.inf)
    return 100 * np.mean(Y[distances.argmin(1)] == Y)


def expected(x, methods=METHODS):
    x = x.astype(np.float64)
    named = {"parc": parc_, "rsa": rsa_, "dds": dds_, "hscore": hscore_, "knn": knn_}
    return [
        named[method.split("_")[0]](x, 8 if method.endswith("_f8") else None) for method in methods
    ]


def scores(x, methods=METHODS, reference=REFERENCE):
    return score_bank({"a": x}, Y, methods=methods, reference=reference).values[0]


TOLERANCES = np.array([0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 2e-3, 2e-3, 1e-3, 1e-3])


def assert_close(found, expected):
    off = np.abs(found - expected)
    assert (off <= TOLERANCES).all(), dict(
        zip(METHODS, zip(found, expected, strict=True), strict=True)
    )


@functools.cache
def ordinary(dtype):
    return scores(X.astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ordinary_features_score_what_scipy_gives(dtype):
    assert_close(ordinary(dtype), expected(X))


@pytest.mark.parametrize(
    ("dtype", "power"),
    [("float32", p) for p in (-37, -20, -5, 18, 19, 37)]
    + [("float64", p) for p in (-300, -20, 20, 300)],
)
def test_the_size_of_all_features_does_not_matter(dtype, power):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = scores((X.astype(dtype) * np.dtype(dtype).type(f"1e{power}")).astype(dtype))
    assert_close(found, ordinary(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("power", [5, 6, 8, 12])
def test_a_column_that_dominates_hides_no_other(dtype, power):
    x = X.astype(dtype)
    x[:, 3] *= np.dtype(dtype).type(f"1e{power}")
    # SciPy's own decomposition loses digits; columns far apart have the same limit
    like = x.astype(np.float64)
    like[:, 3] /= 10.0 ** max(power - 8, 0)
    assert_close(scores(x), expected(like))


@pytest.mark.parametrize(("dtype", "power"), [("float32", 25), ("float64", 25), ("float64", 190)])
def test_columns_may_be_apart_by_any_factor(dtype, power):
    x, like = X.astype(dtype), X.astype(np.float64)
    for column, share in ((3, 1.0), (5, 0.5), (11, -0.5)):
        x[:, column] *= np.dtype(dtype).type(f"1e{round(power * share)}")
        like[:, column] *= 10.0 ** (10 * share)
    assert_close(scores(x), expected(like))


@pytest.mark.parametrize("power", [4, 8])
def test_an_offset_in_float64_does_not_matter(power):
    assert_close(scores(X + 10.0**power), ordinary("float64"))
    offset = X.copy()
    offset[:, ::2] -= 10.0**power
    assert_close(scores(offset), ordinary("float64"))


def test_a_direction_that_is_no_column_hides_no_other_in_float64():
    rng = np.random.default_rng(1)
    x = X + 1e6 * rng.normal(size=(N, 1)) * rng.normal(size=D)
    reduced = [method for method in METHODS if method.endswith("_f8")]
    np.testing.assert_allclose(scores(x, reduced), expected(x, reduced), atol=0.02)


@pytest.mark.parametrize("move", [lambda r: r * 1e200, lambda r: r * 1e-200, lambda r: r + 1e8])
def test_the_size_and_offset_of_the_reference_do_not_matter(move):
    assert_close(scores(X, reference=move(REFERENCE)), ordinary("float64"))


def test_an_offset_counts_for_a_cosine():
    cosine = functools.partial(knn, metric="cosine")
    for x in (X, X + 1e6, X * 1e200):
        unit = x / np.linalg.norm(x / abs(x).max(), axis=1)[:, None] / abs(x).max()
        apart = np.square(unit[:, None] - unit[None]).sum(2)
        np.fill_diagonal(apart, np.inf)
        wanted = 100 * np.mean(Y[apart.argmin(1)] == Y)
        assert scores(x, [cosine])[0] == pytest.approx(wanted, abs=1e-3)


# ------------------------------------------------------------------------------------- logistic


def logistic_(x):
    """By Newton's method, columns over their scale and the ridge of each accordingly."""
    scale = abs(x - x.mean(0)).max(0)
    x = (x - x.mean(0)) / scale
    half = len(x) // 2
    train = np.c_[x[:half], np.ones(half)]
    one_hot = np.eye(C)[Y[:half]]
    ridge = np.r_[1 / scale**2, 0][:, None]

    def loss(flat):
        w = flat.reshape(-1, C)
        logits = train @ w
        total = scipy.special.logsumexp(logits, axis=1)
        slope = train.T @ (np.exp(logits - total[:, None]) - one_hot) + ridge * w
        return total.sum() - (logits * one_hot).sum() + (ridge * w * w).sum() / 2, slope.ravel()

    found = scipy.optimize.minimize(
        loss,
        np.zeros(train.shape[1] * C),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 40_000, "gtol": 1e-9, "ftol": 1e-16},
    )
    w = found.x.reshape(-1, C)
    return 100 * np.mean((x[half:] @ w[:-1] + w[-1]).argmax(1) == Y[half:])


@pytest.mark.parametrize("power", [-3, 0, 2])
def test_logistic_sees_the_size_of_features(power):
    x = X * 10.0**power
    assert scores(x, ["logistic"])[0] == pytest.approx(logistic_(x), abs=1e-3)


@pytest.mark.parametrize("power", [3, 4, 5])
def test_logistic_is_right_beside_a_column_that_dominates(power):
    x = X.copy()
    x[:, 3] *= 10.0**power
    assert scores(x, ["logistic"])[0] == pytest.approx(logistic_(x), abs=1e-3)


@pytest.mark.parametrize(
    "change", [lambda x: x * 1e30, lambda x: x * 1e-8, lambda x: x * np.r_[1e12, np.ones(D - 1)]]
)
def test_where_logistic_finds_no_optimum_it_is_nan_by_name(change):
    with pytest.warns(UserWarning, match="'a': logistic is .*: the optimiser does not converge"):
        assert np.isnan(scores(change(X), ["logistic"])[0])


# ------------------------------------------------------------------------------ NaN has a name


def test_every_nan_is_named_with_its_model_and_method_and_reason():
    flat = X.astype(np.float32)
    flat[:, 1:] = flat[:, :1]  # all columns alike: an image has one value
    bank = {"good": X, "flat": flat}
    with pytest.warns(UndefinedScoreWarning) as told:
        found = score_bank(bank, Y, methods=METHODS, reference=REFERENCE)
    nan = np.isnan(found.values)
    assert not nan[0].any()
    assert nan[1].sum() >= 2
    undefined = {(found.names[i], found.methods[k]) for i, k in np.argwhere(nan)}
    assert found.undefined.keys() == undefined
    assert found.undefined["flat", "parc"] == "all standardised features of an image are equal"
    named = []  # by the warnings
    for warning in told:
        model, methods, reason = str(warning.message).split(": ")
        methods = re.sub(r" (is|are) undefined \(NaN\)$", "", methods).split(", ")
        named += [(model, method, reason) for method in methods]
    assert sorted(named) == sorted(
        (f"model {name!r}", method, reason) for (name, method), reason in found.undefined.items()
    )


def test_models_that_share_a_reason_share_a_warning():
    bank = {f"m{i}": X * np.nan for i in range(12)} | {"good": X}
    with pytest.warns(UndefinedScoreWarning) as told:
        found = score_bank(bank, Y, methods=("parc", "knn"))
    assert [str(warning.message) for warning in told] == [
        "models 'm0', 'm1', 'm2', 'm3', 'm4', 'm5', 'm6', 'm7' and 4 more: parc, knn are undefined "
        "(NaN): features are not finite"
    ]
    assert len(found.undefined) == 24


def test_scores_that_cannot_be_standardised_are_named():
    message = r"'a': knn\+l is .*: \+l needs scores of at least two models that are not all equal"
    with pytest.warns(UndefinedScoreWarning, match=message):
        assert np.isnan(score_bank({"a": X}, Y, methods="knn+l", layers=[3]).values).all()
    with pytest.warns(UndefinedScoreWarning, match=r"'b': knn\+l .*: layers is not a finite num"):
        found = score_bank({"a": X, "b": X**3}, Y, methods="knn+l", layers=[3, np.nan]).values
    assert np.isnan(found[:, 0]).tolist() == [False, True]
    message = "'a': heuristic is .*: layers, source_images or target_images is not a positive"
    with pytest.warns(UndefinedScoreWarning, match=message):
        score_bank(
            {"a": X}, Y, methods="heuristic", layers=[3], source_images=[np.nan], target_images=2
        )
