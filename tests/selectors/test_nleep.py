"""N-LEEP: how little the random start matters, and when every image has a Gaussian of its own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxparc import Probe, score_bank, selectors
from jaxparc.errors import UndefinedScoreWarning
from jaxparc.selectors import nleep

N, C, D = 400, 4, 200
Y = np.arange(N) % C


def features(separation, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D)) * np.linspace(2, 0.1, D)
    return (x + separation * rng.normal(size=(C, D))[Y]).astype(np.float32)


def score(x, y=Y, method="nleep", **options):
    return score_bank({"a": x}, y, methods=method, **options).values[0, 0]


def test_seeds_differ_less_than_models():
    bank = {str(separation): features(separation) for separation in (0, 0.2, 0.4, 0.8)}
    methods = [functools.partial(nleep, seed=seed) for seed in range(8)]
    scores = score_bank(bank, Y, methods=methods).values
    assert len(np.unique(scores[0])) == 8  # the seed is used
    assert scores.std(axis=1).max() < 0.1 * scores[:, 0].std()
    assert (np.diff(scores, axis=0) > 0).all()
    assert score(bank["0"]) == scores[0, 0]


def test_it_is_a_mean_of_logarithms():
    # copies that leave the logarithm out give a probability
    assert score(features(0)) == pytest.approx(np.log(1 / C), abs=0.2)
    assert score(features(9)) == pytest.approx(0, abs=1e-5)


def test_scale_rotation_shift_and_absent_classes_do_not_matter():
    rng = np.random.default_rng(1)
    x = features(0.3)
    rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
    expected = pytest.approx(score(x), abs=1e-3)
    assert score((x @ rotation + rng.uniform(-5, 5, D)).astype(np.float32)) == expected
    assert score((1e-20 * x).astype(np.float32)) == expected
    assert score(x, 3 * Y, num_classes=30) == expected
    assert score(x, 3 * Y, num_classes=4000) == expected


def test_about_as_many_gaussians_as_images_is_a_warning():
    y = np.arange(N) % 41
    with pytest.warns(UserWarning, match="205 Gaussians, 5 per class, for 400 images"):
        assert score(features(0), y) > np.log(1 / 41) / 2
    y = np.arange(N) % 40
    assert score(features(0), y) < 0  # 200 do not


@pytest.mark.filterwarnings("ignore:nleep")
def test_few_distinct_images():
    x = np.repeat(features(0)[:3], [200, 150, 50], axis=0)
    rates = np.array([[200, 0], [150, 0], [20, 30]])
    y = np.repeat([0, 1, 0, 1], [200, 0, 20, 30]), np.repeat([0], 150)
    y = np.concatenate([y[0][:200], y[1], y[0][200:]])
    shares = rates / rates.sum(1, keepdims=True)
    expected = np.sum(rates * np.log(np.where(shares > 0, shares, 1))) / N
    assert score(x, y) == pytest.approx(expected, abs=1e-4)


def test_constant_features_are_undefined():
    with pytest.warns(UndefinedScoreWarning):
        assert np.isnan(score(np.ones((N, D), np.float32)))


def test_memory_does_not_grow_beyond_one_gaussian_per_image():
    n = 500
    gram = jax.ShapeDtypeStruct((n, n), jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    probe = Probe(
        labels=jax.ShapeDtypeStruct((n,), jnp.int32),
        summaries={"centred_gram": gram},
        width=jax.ShapeDtypeStruct((), jnp.int32),
        num_classes=n,
    )
    memory = jax.jit(selectors.method("nleep").function).lower(probe).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**25
