import numpy as np
import pytest

from jaxparc import Probe
from jaxparc.selectors.heuristic import heuristic, plus_layers


def test_heuristic_is_equation_4_as_printed():
    probe = Probe(
        layers=np.float32(50), source_images=np.float32(150_000), target_images=np.float32(24_633)
    )
    # not ln(source) - ln(target), which the authors' code has
    np.testing.assert_allclose(heuristic(probe), 50 + np.log(174_633), rtol=1e-6)


@pytest.mark.parametrize("ell_max", [50, 101])
def test_plus_layers_is_equation_6_with_the_population_deviation(ell_max):
    scores, layers = np.array([3.0, -1.0, 4.0, 1.5]), np.array([50, 18, 22, 8])
    got = plus_layers(scores, layers, ell_max)
    np.testing.assert_allclose(
        got, (scores - scores.mean()) / scores.std(ddof=0) + layers / ell_max, rtol=1e-12
    )


def test_plus_layers_counts_50_layers_as_1_by_default():
    scores, layers = np.array([0.0, 2.0]), np.array([50, 101])
    np.testing.assert_allclose(plus_layers(scores, layers), [0.0, 3.02])


def test_plus_layers_leaves_an_undefined_score_undefined_and_out_of_the_mean():
    got = plus_layers(np.array([1.0, np.nan, 3.0]), np.array([50, 50, 50]))
    np.testing.assert_allclose(got, [0.0, np.nan, 2.0])


@pytest.mark.parametrize(
    "scores",
    [[0.1] * 7, [5.0], [np.nan, np.nan], [np.nan, 5.0, 5.0]],
)
def test_plus_layers_of_equal_scores_is_undefined(scores):
    # their computed deviation need not be 0: 0.1 seven times
    assert np.isnan(plus_layers(np.array(scores), np.full(len(scores), 50))).all()
