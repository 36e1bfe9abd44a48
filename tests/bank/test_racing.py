"""Races: models that are surely worse are dropped before they have seen all images."""

import numpy as np
import pytest

import jaxparc
from jaxparc.errors import InputError, UndefinedScoreWarning

N, CLASSES = 300, 6
LABELS = np.repeat(np.arange(CLASSES), N // CLASSES)


def bank(seed=0, models=8):
    """Return features whose classes are the clearer the higher the number of the model."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(CLASSES, 12))
    return {
        f"m{i}": (0.15 * (i + 1) * means[LABELS] + rng.normal(size=(N, 12))).astype(np.float32)
        for i in range(models)
    }


class Extracting:
    """Models that record the images that they are shown."""

    def __init__(self, features):
        self.features = features
        self.seen = {name: [] for name in features}

    def models(self):
        def of(name):
            def extract(indices):
                self.seen[name].append(indices)
                return self.features[name][indices]

            return extract

        return {name: of(name) for name in self.features}


def raced(features, **options):
    extracting = Extracting(features)
    return jaxparc.race(extracting.models(), LABELS, method="parc", **options), extracting.seen


def test_the_choice_is_that_of_all_images_at_less_than_half_of_the_cost():
    features = bank()
    best = jaxparc.score_bank(features, LABELS, methods="parc").best
    found = [raced(features, seed=seed)[0] for seed in range(20)]
    assert np.mean([race.best == best for race in found]) >= 0.95
    assert np.mean([race.cost for race in found]) <= 0.5


def test_every_image_is_extracted_once_and_in_the_same_order():
    race, seen = raced(bank())
    assert [one.images for one in race.rounds] == [64, 128, 256, 300]
    whole = np.concatenate(seen[race.best])
    assert sorted(whole) == list(range(N))
    for name, parts in seen.items():
        shown = np.concatenate(parts)
        np.testing.assert_array_equal(shown, whole[: len(shown)])
        last = next((one.images for one in race.rounds if name in one.dropped), N)
        assert len(shown) == last
    assert race.cost == sum(len(np.concatenate(p)) for p in seen.values()) / (len(seen) * N)
    # The first round has images of all classes.
    assert set(np.bincount(LABELS[whole[:64]])) <= {10, 11}


def test_the_scores_of_those_left_are_those_of_all_images():
    features = bank()
    race, _ = raced(features)
    expected = jaxparc.score_bank(features, LABELS, methods="parc")
    for name, score in race.scores["parc"].items():
        assert score == pytest.approx(expected["parc"][name], abs=1e-3)
    assert race.scores.tied()[0] == race.best
    names = [name for name, _, _ in race.ranking()]
    assert sorted(names) == sorted(features)
    assert names[0] == race.best
    images = [images for _, images, _ in race.ranking()]
    assert images == sorted(images, reverse=True)


def test_equal_models_are_never_dropped():
    x = bank()["m5"]
    race, _ = raced({"a": x, "b": x.copy(), "c": x.copy()})
    assert race.cost == 1
    assert race.scores.tied() == ["a", "b", "c"]


def test_two_images_of_every_class_come_first():
    labels = np.arange(200) % 50
    x = np.random.default_rng(0).normal(size=(200, 5))
    race = jaxparc.race({"a": x.__getitem__, "b": x.__getitem__}, labels, method="knn")
    assert [one.images for one in race.rounds] == [100, 200]


def test_numbers_and_several_labels_are_raced_in_a_random_order():
    x = bank()["m5"]
    values = x[:, 0] + 0.1
    noise = np.random.default_rng(0).normal(size=x.shape)
    models = {"a": x.__getitem__, "noise": noise.__getitem__}
    race = jaxparc.race(models, values, method="ridge", label_kind="values")
    assert race.best == "a"
    assert race.rounds[0].dropped == ("noise",)


def test_an_undefined_score_is_not_taken_for_a_bad_one():
    features = bank(models=3) | {"dead": np.zeros((N, 4), np.float32)}
    with pytest.warns(UndefinedScoreWarning, match="dead"):
        race, _ = raced(features)
    assert np.isnan(race.scores["parc"]["dead"])
    assert race.ranking()[len(race.scores.names) - 1][0] == "dead"


def test_few_images_are_one_round():
    x = np.random.default_rng(0).normal(size=(30, 5))
    race = jaxparc.race({"a": x.__getitem__}, np.arange(30) % 3)
    assert [one.images for one in race.rounds] == [30]
    assert race.cost == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "leep"}, "'leep' cannot be raced; expected one that reads features and labels"),
        ({"method": "mean(parc,knn)"}, "cannot be raced"),
        ({"delta": 0}, "delta is 0; expected a probability"),
        ({"first": 0}, "first is 0; expected at least 3 images"),
        ({"method": "no"}, "unknown method 'no'"),
    ],
)
def test_a_mistake_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        jaxparc.race({"a": lambda indices: np.ones((len(indices), 3))}, LABELS, **options)
    with pytest.raises(InputError, match="models is empty"):
        jaxparc.race({}, LABELS)


def test_features_of_other_images_are_refused():
    with pytest.raises(InputError, match="'a' returned features of 3 images; expected 64"):
        jaxparc.race({"a": lambda indices: np.ones((3, 3))}, LABELS)
