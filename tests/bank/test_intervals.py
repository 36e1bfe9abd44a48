"""Intervals over the choice of images, and the models that are tied with the best."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import t

from jaxparc import parallel, score_bank, selectors
from jaxparc.bank import chunks
from jaxparc.bank.scores import BankScores
from jaxparc.errors import InputError, UndefinedScoreWarning
from jaxparc.selectors import SELECTORS, Probe

CLASSES, WIDTH = 4, 24

# nleep takes its mixture as given, so its intervals are too narrow, and heuristic reads no image.
HOLDING = [name for name in SELECTORS if name not in ("nleep", "heuristic")]
OF_REFERENCE = [name for name in HOLDING if "reference" in SELECTORS[name].needs]
REDUCED = ["parc_f8", "knn_f8", "ridge_f8", "logme_f8", "hscore_f8"]


def drawn(seed, models, images):
    """Return labels, and features and probabilities of images drawn anew for each model."""
    rng = np.random.default_rng(seed)
    labels = np.arange(images) % CLASSES
    falling = 1 / np.sqrt(np.arange(1, WIDTH + 1))
    means = 0.8 * rng.normal(size=(CLASSES, WIDTH)) * falling
    mixing = rng.normal(size=(WIDTH, WIDTH)) / np.sqrt(WIDTH)
    x = means[labels] + rng.normal(size=(models, images, WIDTH)) * falling
    logits = rng.normal(size=(CLASSES, 8))[labels] + rng.normal(size=(models, images, 8))
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return labels, np.maximum(x @ mixing, 0).astype(np.float32), probs.astype(np.float32)


def given(reference, probs):
    return {"probs": probs, "reference": reference}


def covering(scores, names):
    """Check that intervals hold as often as they claim, and are as wide as scores vary."""
    values, intervals = scores.values, scores.intervals
    mean = values.mean(axis=0)
    covered = ((intervals[..., 0] <= mean) & (mean <= intervals[..., 1])).mean(axis=0)
    width = (intervals[..., 1] - intervals[..., 0]).mean(axis=0) / 2 / 1.98
    ratio = width / values.std(axis=0, ddof=1)
    for name, share, wide in zip(names, covered, ratio, strict=True):
        assert 0.89 <= share <= 0.99, (name, share)
        assert 0.8 < wide < 1.4, (name, wide)


@pytest.mark.slow
def test_intervals_cover_the_mean_over_draws():
    labels, features, probs = drawn(0, models=200, images=120)
    names = [name for name in HOLDING if name not in OF_REFERENCE] + REDUCED
    covering(score_bank(features, labels, methods=names, probs=probs, intervals=0.95), names)


@pytest.mark.slow
def test_intervals_of_methods_with_a_reference_cover_the_mean_over_draws():
    labels, features, _ = drawn(0, models=300, images=120)
    scores = [
        score_bank([("a", x)], labels, methods=OF_REFERENCE, reference=y, intervals=0.95)
        for x, y in zip(features[::2], features[1::2], strict=True)
    ]
    names = [str(i) for i in range(len(scores))]
    joined = BankScores(
        tuple(names),
        tuple(OF_REFERENCE),
        np.concatenate([one.values_per_run for one in scores], axis=1),
        contributions=(np.concatenate([one.contributions[0] for one in scores]),),
    )
    covering(joined, OF_REFERENCE)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["parc_f8", "ridge", "knn", "mean(parc_f8,ridge,ncm)"])
def test_equally_good_models_are_tied_as_often_as_claimed(method):
    """Of two networks that see the same images, and differ in what they see besides."""
    labels, first, _ = drawn(0, models=60, images=240)
    noise = np.random.default_rng(1).normal(size=(2, *first.shape)) * 0.2
    tied = []
    for x, of_first, of_second in zip(first, *noise, strict=True):
        bank = {"a": x + of_first, "b": x + of_second, "worse": x + 10 * of_first}
        tied.append(set(score_bank(bank, labels, methods=method, intervals=0.95).tied()))
    # Of two models that hardly differ, the components that are taken as given are what differs.
    claimed = 0.8 if method == "parc_f8" else 0.9
    assert np.mean([{"a", "b"} <= found for found in tied]) >= claimed
    assert np.mean(["worse" in found for found in tied]) < 0.05


# Of a reference, and of probabilities, one each.
JACKKNIFE = {
    "parc": 0.9,
    "rsa": 0.9,
    "dds": 0.9,
    "lfc": 0.97,
    "leep": 0.99,
    "nce": 0.9,
    "gbc": 0.9,
    "logme": 0.97,
    "logme_f8": 0.8,
    "hscore": 0.9,
    "hscore_shrunk": 0.97,
    "transrate": 0.97,
}


@pytest.mark.parametrize("name", JACKKNIFE)
def test_contributions_are_those_of_leaving_images_out(name):
    """Compare with the pseudo-values of the jackknife: n S - (n - 1) S_-i, computed anew."""
    n = 60
    labels, features, probs = drawn(2, models=2, images=n)
    method = selectors.method(name)

    def probe(kept):
        return Probe(
            features=jnp.asarray(features[0], float)[kept],
            reference=jnp.asarray(features[1], float)[kept],
            probs=jnp.asarray(probs[0], jnp.float32 if name == "nce" else float)[kept],
            labels=jnp.asarray(labels, jnp.int32)[kept],
            num_classes=CLASSES,
            kind="classes",
        )

    with parallel.enable_x64(True):
        others = np.array([np.delete(np.arange(n), i) for i in range(n)])
        without = jax.jit(lambda kept: jax.lax.map(lambda k: method.function(probe(k)), kept))
        pseudo = -(n - 1) * np.asarray(without(others))
        found = np.asarray(jax.jit(lambda: method.contributions(probe(np.arange(n))))())
    assert found.shape == (n,)
    assert np.corrcoef(found, pseudo)[0, 1] > JACKKNIFE[name]
    assert 0.7 < found.std() / pseudo.std() < 1.25


@pytest.fixture(scope="module")
def bank():
    labels, features, probs = drawn(4, models=4, images=80)
    return {"labels": labels, "features": dict(zip("abcd", features, strict=True)), "probs": probs}


@pytest.fixture(scope="module")
def scored(bank):
    return score_bank(bank["features"], bank["labels"], methods=("knn", "parc"), intervals=0.9)


def test_intervals_leave_the_scores_as_they_are(bank, scored):
    plain = score_bank(bank["features"], bank["labels"], methods=("knn", "parc"))
    np.testing.assert_allclose(plain.values, scored.values, rtol=1e-5)
    assert plain.contributions == ()


def test_an_interval_is_that_of_a_mean(scored):
    parts = scored.contributions[0].astype(float)
    n = parts.shape[-1]
    np.testing.assert_allclose(parts.mean(axis=-1), 0, atol=1e-4)
    half = t.ppf(0.95, n - 1) * parts.std(axis=-1, ddof=1) / np.sqrt(n)
    np.testing.assert_allclose(scored.intervals[..., 0], scored.values - half)
    np.testing.assert_allclose(scored.intervals[..., 1], scored.values + half)
    assert list(scored.interval("parc")) == list(scored.names)
    assert scored.interval()["a"] == tuple(scored.intervals[0, 0])


def test_the_interval_of_a_mean_is_that_of_the_bootstrap(scored):
    """With as many resamples as it takes: of the mean of means, an independent way."""
    parts = scored.contributions[0].astype(float)
    n = parts.shape[-1]
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), 20_000) / n
    low, high = np.quantile(draws @ parts[:, 0].T, [0.05, 0.95], axis=0)
    found = scored.intervals[:, 0] - scored.values[:, :1]
    np.testing.assert_allclose(found, np.stack([low, high], axis=1), rtol=0.15)


def test_models_are_compared_on_the_same_images():
    """Two models of wide intervals differ significantly if they differ alike on all images."""
    labels, (x,), _ = drawn(4, models=1, images=200)
    noise = np.random.default_rng(0).normal(size=x.shape)
    features = {"a": x, "same": x, "noisy": x + 0.15 * noise}
    scores = score_bank(features, labels, methods="parc", intervals=0.95)
    (low, _), (_, high) = scores.interval()["a"], scores.interval()["noisy"]
    assert low < high  # the intervals overlap
    assert scores.tied() == ["a", "same"]


def test_probe_sets_are_joined_with_their_intervals(bank, scored):
    labels, features, _ = drawn(5, models=4, images=60)
    further = score_bank(
        dict(zip("abcd", features, strict=True)), labels, methods=("knn", "parc"), intervals=0.9
    )
    joined = BankScores.concat([scored, further])
    errors = [
        one.contributions[0].var(axis=-1, ddof=1, dtype=float) / one.contributions[0].shape[-1]
        for one in (scored, further)
    ]
    half = t.ppf(0.95, 79 + 59) * np.sqrt(sum(errors)) / 2
    np.testing.assert_allclose(joined.intervals[..., 1] - joined.values, half)
    assert joined.tied()[0] == joined.best
    plain = score_bank(bank["features"], bank["labels"], methods=("knn", "parc"))
    with pytest.raises(InputError, match="probe set 1 was scored with other intervals"):
        BankScores.concat([scored, plain])


def test_images_that_probe_sets_share_count_once(scored):
    n = scored.contributions[0].shape[-1]
    images = np.random.default_rng(0).permutation(n)
    same = BankScores.concat([scored, scored], [images, images])
    half, one = (found.intervals[..., 1] - found.values for found in (same, scored))
    np.testing.assert_allclose(half, one, rtol=1e-5)  # the second set says nothing new
    np.testing.assert_allclose(same.differences("b"), scored.differences("b"), rtol=1e-4, atol=1e-6)
    apart = BankScores.concat([scored, scored], [images, images + n])
    independent = BankScores.concat([scored, scored])
    np.testing.assert_allclose(apart.intervals, independent.intervals, rtol=1e-2)
    with pytest.raises(InputError, match=r"images have the shapes \[\(3,\), \(3,\)\]; expected"):
        BankScores.concat([scored, scored], [images[:3], images[:3]])


def test_intervals_of_overlapping_probe_sets_cover_the_mean_over_draws():
    """Halves of two probe sets are the same images; scores are means of numbers."""
    rng = np.random.default_rng(0)
    widths, means = [], []
    for _ in range(400):
        x = rng.normal(size=90)
        sets = [np.arange(60), np.arange(30, 90)]
        parts = [(x[of] - x[of].mean()).astype(np.float32)[None, None] for of in sets]
        scores = [
            BankScores(("a",), ("mean",), np.array([[[x[of].mean()]]]), {}, (part,), 0.9)
            for of, part in zip(sets, parts, strict=True)
        ]
        joined = BankScores.concat(scores, sets)
        widths.append(float(joined.intervals[0, 0, 1] - joined.values[0, 0]))
        means.append(float(joined.values[0, 0]))
    assert np.mean(widths) == pytest.approx(t.ppf(0.95, 89) * np.std(means), rel=0.08)


def test_means_and_suffixes_have_intervals(bank):
    methods = ("mean(parc,knn)", "mean(parc,knn)+l", "parc+p", "parc", "knn")
    numbers = dict(zip("abcd", (1, 2, 3, 5), strict=True))
    scores = score_bank(
        bank["features"],
        bank["labels"],
        methods=methods,
        layers=numbers,
        prior=numbers,
        intervals=0.95,
    )
    mean, with_layers, with_prior, *alone = np.moveaxis(scores.contributions[0], 1, 0)
    unit = [part / scores.values[:, 3 + k].std() for k, part in enumerate(alone)]
    np.testing.assert_allclose(mean, np.mean(unit, axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(with_layers, mean / scores.values[:, 0].std(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(with_prior, unit[0], rtol=1e-4, atol=1e-6)


def test_scores_that_are_computed_again_have_intervals(bank, scored):
    """In float64, as float32 loses the differences, and from features of few units."""
    x = bank["features"]["a"].astype(float)
    features = {"a": x, "far": x + 1e5, "narrow": x[:, :3]}
    methods = ("knn", "parc", "parc_f8")
    again = score_bank(features, bank["labels"], methods=methods, intervals=0.9)
    assert np.isfinite(again.intervals).all()
    np.testing.assert_allclose(again.intervals[1], again.intervals[0], rtol=1e-3)
    np.testing.assert_allclose(again.intervals[0, :2], scored.intervals[0], rtol=1e-4)


def test_undefined_scores_have_no_interval(bank):
    features = bank["features"] | {"dead": np.zeros((80, 3), np.float32)}
    with pytest.warns(UndefinedScoreWarning, match="dead"):
        scores = score_bank(features, bank["labels"], methods="knn", intervals=0.95)
    assert np.isnan(scores.interval()["dead"]).all()
    assert "dead" not in scores.tied()
    assert np.isfinite(scores.intervals[:4]).all()


def test_all_devices_find_the_same_intervals(monkeypatch, bank, scored):
    monkeypatch.setattr(chunks, "devices", jax.local_device_count)
    found = score_bank(bank["features"], bank["labels"], methods=("knn", "parc"), intervals=0.9)
    np.testing.assert_allclose(found.intervals, scored.intervals, rtol=1e-4)


@pytest.mark.parametrize("kind", ["multi_label", "vectors", "values"])
@pytest.mark.parametrize("method", ["knn", "ridge", "parc", "logme"])
def test_labels_of_every_kind_have_intervals(bank, kind, method):
    rng = np.random.default_rng(0)
    x = bank["features"]["a"]
    wish = x[:, :3] + 0.1 * rng.normal(size=(80, 3))
    labels = {
        "multi_label": (wish > np.median(wish, axis=0)).astype(int),
        "vectors": np.abs(wish) / np.abs(wish).sum(axis=1, keepdims=True),
        "values": wish,
    }[kind]
    if kind != "values":  # PARC refuses constant annotations
        keep = ~(labels == labels[:, :1]).all(axis=1)
        x, labels = x[keep], labels[keep]
    features = {"a": x, "b": rng.normal(size=x.shape)}
    scores = score_bank(features, labels, methods=method, label_kind=kind, intervals=0.95)
    low, high = np.moveaxis(scores.intervals[:, 0], -1, 0)
    assert np.all(low < scores.values[:, 0])
    assert np.all(scores.values[:, 0] < high)
    assert scores.tied() == ["a"]


@pytest.mark.parametrize("level", [0, 1, -0.5, 95, float("nan"), True])
def test_a_level_is_between_0_and_1(bank, level):
    with pytest.raises(InputError, match="intervals is .*; expected a level such as 0.95"):
        score_bank(bank["features"], bank["labels"], intervals=level)


def test_intervals_that_were_not_computed_say_so(bank):
    scores = score_bank(bank["features"], bank["labels"], methods="parc")
    for ask in (lambda: scores.intervals, scores.interval, scores.tied):
        with pytest.raises(InputError, match=r"intervals"):
            ask()


def test_the_table_has_half_widths_and_names_the_tied(scored):
    text = str(scored)
    assert "one probe set, ± 90 % interval" in text
    best = scored.best
    half = scored.interval()[best][1] - scored["knn"][best]
    assert f"{scored['knn'][best]:.2f} ± {half:.2f}" in text
    assert "indistinguishable from the best by knn" in text
    assert "paired over images" in text


def test_the_plot_has_intervals(scored):
    pytest.importorskip("matplotlib")
    figure = scored.plot()
    assert "90 % interval" in figure.get_supxlabel()


def test_csv_has_the_limits(tmp_path, scored):
    head, first, *_ = scored.to_csv().splitlines()
    assert head == "model,knn,knn_low,knn_high,parc,parc_low,parc_high"
    assert first.split(",")[2] == f"{scored.intervals[0, 0, 0]:.6f}"


@pytest.mark.slow
def test_intervals_of_numbers_cover_the_mean_over_draws():
    """Labels are drawn anew as well, and so scored one by one."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(12, 1))
    names = ["ridge", "parc", "logme", "knn"]
    scores = []
    for _ in range(100):
        x = rng.normal(size=(150, 12)).astype(np.float32)
        y = 3 + x @ weights + 2 * rng.normal(size=(150, 1))
        one = score_bank([("a", x)], y, methods=names, label_kind="values", intervals=0.95)
        scores.append(one)
    joined = BankScores(
        tuple(map(str, range(len(scores)))),
        tuple(names),
        np.concatenate([one.values_per_run for one in scores], axis=1),
        contributions=(np.concatenate([one.contributions[0] for one in scores]),),
    )
    covered = (joined.intervals[..., 0] <= joined.values.mean(axis=0)) & (
        joined.values.mean(axis=0) <= joined.intervals[..., 1]
    )
    width = (joined.intervals[..., 1] - joined.intervals[..., 0]).mean(axis=0) / 2 / 1.98
    ratio = dict(zip(names, width / joined.values.std(axis=0, ddof=1), strict=True))
    assert np.all(covered.mean(axis=0) >= 0.89)
    assert all(0.8 < wide < 2 for wide in ratio.values()), ratio


def test_noise_that_is_not_known_tells_no_models_apart(bank):
    numbers = dict(zip("abcd", (1, 2, 3, 5), strict=True))
    methods = ("heuristic", functools.partial(selectors.logme, variant="thuml"))
    scores = score_bank(
        bank["features"],
        bank["labels"],
        methods=methods,
        layers=numbers,
        source_images=numbers,
        target_images=10,
        intervals=0.95,
    )
    assert np.isnan(scores.intervals).all()
    for method in scores.methods:
        assert sorted(scores.tied(method)) == list("abcd")


def test_a_score_of_as_many_components_as_images_has_no_interval(bank):
    x = bank["features"]["a"][:26]
    methods = ("hscore", "hscore_f8")
    scores = score_bank({"a": x, "b": x + 1}, bank["labels"][:26], methods=methods, intervals=0.95)
    assert np.isnan(scores.intervals[:, 0]).all()
    assert np.isfinite(scores.intervals[:, 1]).all()
