"""k-nearest neighbours with its options, against loops over images."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance
from definitions import kind_of

from jaxparc import Probe, score_bank
from jaxparc.selectors import knn
from jaxparc.selectors.knn import METRICS

N, C, D = 40, 4, 9
RNG = np.random.default_rng(0)
Y = np.arange(N) % C
X = (RNG.normal(size=(N, D)) + 0.8 * RNG.normal(size=(C, D))[Y] + 2).astype(np.float32)
SCIPY = {"euclidean": "euclidean", "cosine": "cosine", "l1": "cityblock"}


def nearest(metric, k):
    """The k nearest other images of each."""
    distances = scipy.spatial.distance.cdist(X, X, SCIPY[metric])
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def by_votes(metric, k):
    right = []
    for own, others in zip(Y, nearest(metric, k), strict=True):
        classes, votes = np.unique(Y[others], return_counts=True)
        winners = classes[votes == votes.max()]
        right.append((own in winners) / len(winners))
    return 100 * np.mean(right)


def score(y, **options):
    probe = Probe(
        features=jnp.asarray(X),
        labels=jnp.asarray(y),
        num_classes=C,
        kind=kind_of(y),
    )
    return float(knn(probe, **options))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_classes_vote(metric, k):
    got = score(Y.astype(np.int32), k=k, metric=metric)
    assert got == pytest.approx(by_votes(metric, k), abs=1e-3)


def test_where_no_class_repeats_it_is_the_share_of_neighbours_that_are_right():
    y = np.arange(N, dtype=np.int32) // 2  # pairs: neighbours repeat no class but the image's own
    probe = Probe(features=jnp.asarray(X), labels=jnp.asarray(y), num_classes=N // 2)
    expected = []
    for own, others in zip(y, nearest("euclidean", 2), strict=True):
        classes = y[others]
        expected.append(np.mean(classes == own) if len(set(classes)) == 2 else classes[0] == own)
    assert float(knn(probe, k=2)) == pytest.approx(100 * np.mean(expected), abs=1e-3)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_labels_of_several_are_voted_on_one_by_one(k):
    y = (RNG.random((N, C)) < 0.4).astype(np.float32)
    share = np.array([y[others].mean(0) for others in nearest("euclidean", k)])
    voted = np.where(share > 0.5, 1, np.where(share < 0.5, 0, 0.5))
    expected = 100 * np.mean(1 - abs(voted - y))
    assert score(y, k=k) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("k", [1, 3])
def test_annotation_vectors_cost_their_l1_distance(k):
    y = RNG.dirichlet(np.ones(C), N).astype(np.float32)
    mean = np.array([y[others].mean(0) for others in nearest("euclidean", k)])
    assert score(y, k=k) == pytest.approx(-abs(mean - y).sum(1).mean(), abs=1e-5)


def test_options_are_named_in_the_table():
    method = functools.partial(knn, metric="cosine", k=3)
    scores = score_bank({"a": X}, Y, methods=[method, functools.partial(knn, k=3)])
    assert scores.methods == ("knn(k=3,metric=cosine)", "knn(k=3)")
    assert scores.values[0, 0] == pytest.approx(by_votes("cosine", 3), abs=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, f"k is 0; expected 1 to {N - 1} for {N} images"),
        ({"k": N}, f"k is {N}"),
        ({"metric": "dot"}, "unknown metric 'dot'; known: euclidean, cosine, l1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        score_bank({"a": X}, Y, methods=functools.partial(knn, **options))


def test_an_image_without_a_direction_has_no_cosine():
    x = X.copy()
    x[3] = 0
    probe = Probe(features=jnp.asarray(x), labels=jnp.asarray(Y, jnp.int32), num_classes=C)
    assert np.isnan(knn(probe, metric="cosine"))
