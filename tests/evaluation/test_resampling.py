import itertools

import numpy as np
import pytest

from jaxparc.evaluation import Transfer, baselines, mean_pc, outcomes, resampling
from jaxparc.evaluation.measures import MEASURES

PEARSON = MEASURES["pearson"]


def drawn(seed=0, runs=2, quality=1.0):
    """Mappings of 3 architectures x 4 sources x 3 targets, own sources left out."""
    rng = np.random.default_rng(seed)
    transfers = [Transfer(*t) for t in itertools.product("abc", "wxyz", "xyv") if t[1] != t[2]]
    accuracies = {t: float(x) for t, x in zip(transfers, rng.normal(70, 9, 33), strict=False)}
    return accuracies, {
        name: [
            {t: q * a + float(rng.normal(0, 9)) for t, a in accuracies.items()} for _ in range(runs)
        ]
        for name, q in (("good", quality), ("poor", 0.2))
    }


def collected(**options):
    return outcomes.collect(*drawn(**options))


# Outcomes


def test_arrays_hold_what_the_mappings_held():
    accuracies, scores = drawn()
    found = outcomes.collect(accuracies, scores)
    assert found.accuracies.shape == (12, 3)
    assert found.where.sum() == len(accuracies)
    for transfer, value in accuracies.items():
        i = found.models.index(transfer[:2])
        j = found.targets.index(transfer.target)
        assert found.accuracies[i, j] == value
        for run in (0, 1):
            assert found.scores["good"][run, i, j] == scores["good"][run][transfer]


def test_the_mean_over_targets_is_mean_pc():
    accuracies, scores = drawn()
    found = outcomes.by_target(outcomes.collect(accuracies, scores), "good", PEARSON)
    assert found.shape == (2, 3)
    for run, of_run in zip(found, scores["good"], strict=True):
        np.testing.assert_allclose(100 * run.mean(), mean_pc(of_run, accuracies), rtol=1e-12)


def test_accuracies_that_are_not_available_are_not_evaluated():
    accuracies, scores = drawn()
    lost = next(iter(accuracies))
    accuracies[lost] = float("nan")
    found = outcomes.collect(accuracies, scores)
    assert found.where.sum() == len(accuracies) - 1
    assert np.isfinite(outcomes.by_target(found, "good", PEARSON)).all()


def test_undefined_scores_are_kept_and_counted():
    accuracies, scores = drawn()
    first, second = itertools.islice(accuracies, 2)
    scores["good"][1][first] = float("nan")
    del scores["good"][1][second]  # another method scored it
    found = outcomes.collect(accuracies, scores)
    assert (found.undefined("good"), found.undefined("poor")) == (2, 0)
    values = outcomes.by_target(found, "good", PEARSON)
    assert np.isfinite(values[0]).all()
    assert np.isnan(values[1]).sum() in (1, 2)


def test_a_score_without_an_accuracy_is_refused():
    accuracies, scores = drawn()
    scores["good"][0][Transfer("a", "w", "nowhere")] = 1.0
    with pytest.raises(ValueError, match="no accuracy for a/w/nowhere"):
        outcomes.collect(accuracies, scores)


def test_some_targets():
    found = collected().only(["v", "x"])
    assert found.targets == ("v", "x")
    whole = collected()
    j = whole.targets.index("x")
    np.testing.assert_array_equal(found.accuracies[:, 1], whole.accuracies[:, j])
    np.testing.assert_array_equal(found.scores["good"][:, :, 1], whole.scores["good"][:, :, j])


# Resampling


@pytest.mark.parametrize("name", MEASURES)
def test_a_resample_is_the_measure_of_the_drawn_models_targets_and_runs(name):
    found = collected()
    draws = resampling.draw(found, 7)
    samples = resampling.resampled(found, found.scores["good"], MEASURES[name], draws)
    for s, (models, targets, runs) in enumerate(zip(*draws, strict=True)):
        values = [
            MEASURES[name].function(
                found.scores["good"][run, models, target],
                found.accuracies[models, target],
                found.where[models, target],
            )
            for run in runs
            for target in targets
        ]
        np.testing.assert_allclose(samples[s], np.mean(values), rtol=1e-12)


def test_chunks_do_not_matter(monkeypatch):
    found = collected()
    draws = resampling.draw(found, 10)
    whole = resampling.resampled(found, found.scores["good"], PEARSON, draws)
    monkeypatch.setattr(resampling, "_CHUNK", 3)
    parts = resampling.resampled(found, found.scores["good"], PEARSON, draws)
    np.testing.assert_array_equal(parts, whole)


def test_what_is_not_drawn_stays():
    found = collected()
    draws = resampling.draw(found, 50, over=["targets"])
    assert (draws.models == np.arange(12)).all()
    assert (draws.runs == np.arange(2)).all()
    assert len({tuple(row) for row in draws.targets.tolist()}) > 10
    with pytest.raises(ValueError, match="cannot resample 'seeds'; known: models, targets"):
        resampling.draw(found, over=["seeds"])


def test_a_method_of_one_probe_set_is_resampled_beside_others():
    found = collected()
    found.scores["one"] = found.scores["good"][:1]
    intervals, samples = resampling.compare(found, PEARSON, resampling.draw(found, 100))
    assert np.isfinite(samples["one"]).all()
    first = outcomes.by_target(found, "one", PEARSON).mean()
    np.testing.assert_allclose(intervals["one"].value, first, rtol=1e-12)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Scores and accuracies of correlation 0.6, one target, 60 models, 200 banks."""
    rng = np.random.default_rng(0)
    covered = 0
    for bank in range(200):
        x, noise = rng.standard_normal((2, 60))
        y = 0.6 * x + 0.8 * noise
        found = outcomes.Outcomes(
            tuple((str(i), "") for i in range(60)),
            ("t",),
            y[:, None],
            {"x": x[None, :, None]},
            np.ones((60, 1), bool),
        )
        draws = resampling.draw(found, 400, seed=bank)
        _, low, high, _ = resampling.compare(found, PEARSON, draws)[0]["x"]
        covered += low <= 0.6 <= high
    assert 0.89 <= covered / 200 <= 0.98


def test_paired_differences_are_told_where_they_are_there():
    found = collected(quality=3.0)
    draws = resampling.draw(found, 500)
    intervals, samples = resampling.compare(found, PEARSON, draws)
    assert intervals["good"].low > intervals["poor"].value
    assert resampling.p_value(samples["good"], samples["poor"]) < 0.05
    assert resampling.p_value(samples["good"], samples["good"]) == 1
    assert resampling.p_value(samples["good"], samples["poor"]) >= 2 / 500
    assert np.isnan(resampling.p_value(np.full(5, np.nan), np.zeros(5)))


def test_the_p_value_is_rarely_small_without_a_difference():
    """Two methods that are equally good, on 200 banks."""
    small = 0
    for seed in range(200):
        accuracies, _ = drawn(seed)
        rng = np.random.default_rng(seed + 1000)
        scores = {
            name: [{t: a + float(rng.normal(0, 9)) for t, a in accuracies.items()}]
            for name in ("first", "second")
        }
        found = outcomes.collect(accuracies, scores)
        _, samples = resampling.compare(found, PEARSON, resampling.draw(found, 200, seed))
        small += resampling.p_value(samples["first"], samples["second"]) < 0.05
    assert small / 200 < 0.1


def test_undefined_numbers_have_no_interval():
    found = collected()
    found.scores["good"][:] = np.nan
    intervals, _ = resampling.compare(found, PEARSON, resampling.draw(found, 20))
    value, low, high, undefined = intervals["good"]
    assert np.isnan([value, low, high]).all()
    assert undefined == 20


def test_chance_is_centred_on_no_correlation():
    found = collected()
    same = resampling.chance(found, PEARSON, 3000)
    anew = resampling.chance(found, PEARSON, 3000, same=False)
    assert abs(same.value) < 0.03
    assert abs(anew.value) < 0.03
    assert anew.low < 0 < anew.high
    # targets that agree make one lucky order lucky everywhere
    agreeing = outcomes.Outcomes(
        found.models,
        found.targets,
        np.repeat(np.arange(12.0)[:, None], 3, axis=1),
        {},
        np.ones((12, 3), bool),
    )
    wide = resampling.chance(agreeing, PEARSON, 3000)
    narrow = resampling.chance(agreeing, PEARSON, 3000, same=False)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_chance_of_what_is_undefined_is_undefined():
    found = collected()
    found.where[:] = False
    assert np.isnan(resampling.chance(found, PEARSON, 10)[:3]).all()


def test_chance_of_regret_is_the_mean_over_models():
    found = collected()
    expected = [
        (col[there].max() - col[there]).mean()
        for col, there in zip(found.accuracies.T, found.where.T, strict=True)
    ]
    chance = resampling.chance(found, MEASURES["regret1"], 4000, same=False)
    np.testing.assert_allclose(chance.value, np.mean(expected), rtol=0.05)


# Baselines


def test_the_other_targets_mean():
    found = collected()
    scores = baselines.others_mean(found)
    z = np.full(found.accuracies.shape, np.nan)
    for j in range(3):
        there = found.where[:, j]
        z[there, j] = scipy_zscore(found.accuracies[there, j])
    for i, j in np.ndindex(12, 3):
        others = [z[i, k] for k in range(3) if k != j and np.isfinite(z[i, k])]
        np.testing.assert_allclose(scores[0, i, j], np.mean(others), rtol=1e-12)


def test_the_other_targets_mean_does_not_see_the_target():
    found = collected()
    scores = baselines.others_mean(found)
    found.accuracies[:, 0] = np.random.default_rng(5).random(12)
    np.testing.assert_array_equal(baselines.others_mean(found)[0, :, 0], scores[0, :, 0])
    assert (baselines.others_mean(found)[0, :, 1] != scores[0, :, 1]).any()


def test_the_best_source_is_that_of_all_architectures():
    found = collected()
    scores = baselines.best_source(found)
    for source in "wxyz":
        rows = [i for i, model in enumerate(found.models) if model[1] == source]
        assert np.ptp(scores[0, rows], axis=0).max() == 0
    found.accuracies[:, 0] = 1.0 + np.arange(12)
    np.testing.assert_array_equal(baselines.best_source(found)[0, :, 0], scores[0, :, 0])


def test_depth_and_capacity():
    found = collected()
    layers = {"a": 8, "b": 18, "c": 50}
    images = {name: float(i + 2) for i, name in enumerate("wxyzv")}
    depth, capacity = baselines.depth(found, layers), baselines.capacity(found, layers, images)
    for (i, (a, s)), (j, t) in itertools.product(enumerate(found.models), enumerate(found.targets)):
        assert depth[0, i, j] == layers[a]
        np.testing.assert_allclose(capacity[0, i, j], layers[a] + np.log(images[s] + images[t]))


def scipy_zscore(values):
    import scipy.stats

    return scipy.stats.zscore(values)


def test_outcomes_of_some_models_and_targets_keep_their_scores():
    found = collected()
    models, targets = found.models[4:1:-1], found.targets[::-2]
    part = found.only(targets, models)
    assert (part.models, part.targets) == (models, targets)
    for a, model in enumerate(models):
        for b, target in enumerate(targets):
            i, j = found.models.index(model), found.targets.index(target)
            np.testing.assert_array_equal(part.accuracies[a, b], found.accuracies[i, j])
            np.testing.assert_array_equal(
                part.scores["poor"][:, a, b], found.scores["poor"][:, i, j]
            )
            assert part.where[a, b] == found.where[i, j]
    assert found.only().scores["good"].shape == found.scores["good"].shape
    assert found.only(models=[]).where.shape == (0, 3)
    with pytest.raises(ValueError, match="unknown target 'nowhere'; known: "):
        found.only(["nowhere"])


def test_outcomes_go_back_to_mappings():
    accuracies, scores = drawn()
    lost = next(iter(accuracies))
    accuracies[lost] = float("nan")
    found = outcomes.collect(accuracies, scores)
    assert found.by_transfer(found.accuracies) == {t: a for t, a in accuracies.items() if t != lost}
    first = found.by_transfer(found.scores["good"][0])
    assert first == {t: s for t, s in scores["good"][0].items() if t != lost}
