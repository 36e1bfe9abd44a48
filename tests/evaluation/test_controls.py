import numpy as np
import pytest
import scipy.stats
from evaluation.test_resampling import collected, drawn

from jaxparc.evaluation import VARYING, controls, mean_pc, outcomes, summary
from jaxparc.evaluation.measures import MEASURES
from jaxparc.selectors.heuristic import plus_layers

LAYERS = {"a": 8, "b": 18, "c": 50}
PEARSON = MEASURES["pearson"]


def test_plus_layers_of_each_target_is_eq_6():
    found = collected()
    layered = controls.plus_layers(found, "good", LAYERS, pooled=False)
    depth = np.array([LAYERS[a] for a, _ in found.models])
    for run in range(2):
        for j in range(3):
            there = found.where[:, j]
            expected = plus_layers(found.scores["good"][run, there, j], depth[there])
            np.testing.assert_allclose(layered[run, there, j], expected, rtol=1e-12)


def test_plus_layers_pooled_has_one_mean_and_deviation():
    found = collected()
    layered = controls.plus_layers(found, "good", LAYERS, pooled=True, ell_max=10)
    scores = np.where(found.where, found.scores["good"], np.nan)
    z = (scores - np.nanmean(scores)) / np.nanstd(scores)
    depth = np.array([LAYERS[a] / 10 for a, _ in found.models])
    np.testing.assert_allclose(layered, z + depth[:, None], rtol=1e-12)


@pytest.mark.parametrize("pooled", [False, True])
def test_plus_layers_keeps_what_is_undefined(pooled):
    found = collected()
    found.scores["good"][0, np.argmax(found.where[:, 0]), 0] = np.nan
    layered = controls.plus_layers(found, "good", LAYERS, pooled=pooled)
    assert (np.isnan(layered) & found.where).sum() == 1
    found.scores["poor"][:] = 3.0
    assert np.isnan(controls.plus_layers(found, "poor", LAYERS, pooled=pooled)).all()


def test_within_architectures_is_mean_pc_of_varying_sources():
    assert "source" in VARYING
    accuracies, scores = drawn()
    found = outcomes.collect(accuracies, scores)
    values = controls.within_architectures(found, "good", PEARSON)
    # Mean PC weighs all (architecture, target) alike; here all architectures have all targets
    for run, of_run in zip(values, scores["good"], strict=True):
        np.testing.assert_allclose(100 * run.mean(), mean_pc(of_run, accuracies, "source"))


def test_an_architecture_with_one_model_has_no_say_and_nan_stays():
    found = collected()
    found.where[[a == "a" for a, _ in found.models], 1] = False
    found.where[0, 1] = True
    assert np.isfinite(controls.within_architectures(found, "good", PEARSON)).all()
    found.scores["good"][0, -1, 0] = np.nan
    assert np.isnan(controls.within_architectures(found, "good", PEARSON)[0, 0])


def test_without_model_effects_is_the_correlation_of_residuals():
    found = collected()
    values = controls.without_model_effects(found, "good", PEARSON)

    def residuals(matrix):
        z = np.full(matrix.shape, np.nan)
        for j, there in enumerate(found.where.T):
            z[there, j] = scipy.stats.zscore(matrix[there, j])
        return z - np.nanmean(z, axis=1, keepdims=True)

    y = residuals(found.accuracies)
    for run in range(2):
        x = residuals(found.scores["good"][run])
        for j, there in enumerate(found.where.T):
            expected = scipy.stats.pearsonr(x[there, j], y[there, j]).statistic
            np.testing.assert_allclose(values[run, j], expected, rtol=1e-10)


def test_a_summary_ranks_and_marks():
    found = collected(quality=3.0)
    found.scores["lost"] = np.full((2, 12, 3), np.nan)
    found.scores["as good"] = found.scores["good"].copy()
    result = summary.summarise(found, ["pearson", "regret1"], resamples=300)
    cells = result.cells["pearson"]
    assert list(cells) == ["good", "as good", "poor", "lost"]
    assert cells["good"].worse == ("as good", 1.0)
    assert not cells["good"].significant
    assert cells["as good"].worse[0] == "poor"
    assert cells["as good"].significant
    assert cells["poor"].worse is None
    assert result.undefined == {"lost": found.where.sum() * 2}
    assert list(result.cells["regret1"])[-1] == "lost"
    regrets = [c.interval.value for c in result.cells["regret1"].values()]
    assert regrets[:3] == sorted(regrets[:3])
    np.testing.assert_allclose(cells["good"].targets.mean(), cells["good"].interval.value)
    with pytest.raises(ValueError, match="unknown measure 'r2'; known: pearson"):
        summary.summarise(found, ["r2"])
