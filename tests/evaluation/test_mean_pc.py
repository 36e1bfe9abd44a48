import csv
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from experiments import benchmarks
from jaxparc import Probe, evaluation
from jaxparc.evaluation import VARYING, Transfer
from jaxparc.selectors.heuristic import heuristic


def drawn(seed=0, transfers=None):
    """Random scores and accuracies of 3 architectures x 4 sources x 5 targets, some missing."""
    rng = np.random.default_rng(seed)
    if transfers is None:
        transfers = list(itertools.product("abc", "wxyz", "12345"))
        transfers = [Transfer(*t) for i, t in enumerate(transfers) if i % 11]
    return tuple(
        dict(zip(transfers, rng.standard_normal(len(transfers)), strict=True)) for _ in "sa"
    )


@pytest.mark.parametrize(
    ("varying", "fixed"),
    [
        ("source and architecture", lambda t: t.target),
        ("architecture", lambda t: (t.source, t.target)),
        ("source", lambda t: (t.architecture, t.target)),
        ("target", lambda t: (t.architecture, t.source)),
    ],
)
def test_mean_pc_is_the_mean_of_scipys_correlations(varying, fixed):
    scores, accuracies = drawn()
    # an accuracy that nothing scores must not count
    accuracies[Transfer("d", "v", "1")] = 1e9
    groups = {}
    for transfer in scores:
        groups.setdefault(fixed(transfer), []).append(transfer)
    expected = np.mean(
        [
            scipy.stats.pearsonr([scores[t] for t in g], [accuracies[t] for t in g]).statistic
            for g in groups.values()
        ]
    )
    np.testing.assert_allclose(
        evaluation.mean_pc(scores, accuracies, varying), 100 * expected, rtol=1e-10
    )


def test_every_way_of_varying_is_tested_above():
    assert list(VARYING) == ["source and architecture", "architecture", "source", "target"]


def test_default_is_the_papers_eq_2():
    scores, accuracies = drawn()
    by_default = evaluation.mean_pc(scores, accuracies)
    assert by_default == evaluation.mean_pc(scores, accuracies, "source and architecture")


def test_mean_pc_stays_in_range():
    # two transfers correlate by exactly +-1, whatever rounding says
    transfers = [Transfer("a", "x", "1"), Transfer("b", "x", "1")]
    for seed in range(200):
        scores, accuracies = drawn(seed, transfers)
        assert 100 - 1e-9 < abs(evaluation.mean_pc(scores, accuracies)) <= 100


def _with_nan_score(scores, accuracies):
    scores[Transfer("b", "x", "3")] = np.nan


def _with_nan_accuracy(scores, accuracies):
    accuracies[Transfer("b", "x", "3")] = np.nan


def _with_lonely_transfer(scores, accuracies):
    scores[Transfer("a", "w", "6")] = accuracies[Transfer("a", "w", "6")] = 1.0


def _with_equal_scores(scores, accuracies):
    scores.update({t: 0.1 for t in scores if t.target == "2"})


def _with_equal_accuracies(scores, accuracies):
    accuracies.update({t: 0.1 for t in scores if t.target == "2"})


@pytest.mark.parametrize(
    "spoil",
    [
        _with_nan_score,
        _with_nan_accuracy,
        _with_lonely_transfer,
        _with_equal_scores,
        _with_equal_accuracies,
    ],
)
def test_one_undefined_correlation_makes_the_mean_undefined(spoil):
    scores, accuracies = drawn()
    assert np.isfinite(evaluation.mean_pc(scores, accuracies))
    spoil(scores, accuracies)
    assert np.isnan(evaluation.mean_pc(scores, accuracies))


def test_no_scores_no_mean():
    assert np.isnan(evaluation.mean_pc({}, {}))


def test_unknown_varying_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown varying 'model'; known: source and architecture"):
        evaluation.mean_pc(*drawn(), "model")


def test_missing_accuracy_names_the_transfer():
    scores, accuracies = drawn()
    del accuracies[Transfer("b", "x", "3")]
    with pytest.raises(ValueError, match="no accuracy for b/x/3"):
        evaluation.mean_pc(scores, accuracies)


# ------------------------------------------------------- the paper's heuristic, without features

LAYERS = {"resnet50": 50, "resnet18": 18, "googlenet": 22, "alexnet": 8}
IMAGES = benchmarks.CONTROLLED.published_images


@pytest.fixture(scope="module")
def published():
    """Accuracies of the 168 transfers to single-label targets, and eq. 4 of each."""
    folder = os.environ.get("JAXPARC_ORACLES")
    if not folder:
        pytest.skip("JAXPARC_ORACLES names no folder with the published controlled.csv")
    with Path(folder, "controlled.csv").open(newline="") as file:
        accuracies = {
            Transfer(row["Architecture"], row["Source Dataset"], row["Target Dataset"]): float(
                row["Oracle"]
            )
            for row in csv.DictReader(file)
            if row["Target Dataset"] != "voc2007"
        }
    scores = {
        t: float(
            heuristic(
                Probe(
                    layers=np.float32(LAYERS[t.architecture]),
                    source_images=np.float32(IMAGES[t.source]),
                    target_images=np.float32(IMAGES[t.target]),
                )
            )
        )
        for t in accuracies
    }
    assert len(scores) == 168
    return scores, accuracies


@pytest.mark.parametrize(
    ("varying", "printed"),
    [
        ("source and architecture", 51.06),
        ("architecture", 61.27),  # Table 2, as the next two
        ("source", 7.13),
        ("target", 13.63),
    ],
)
def test_heuristic_reproduces_the_papers_rows(published, varying, printed):
    assert round(evaluation.mean_pc(*published, varying), 2) == printed
