"""Races: models that are surely worse are dropped before they have seen all images."""

import numpy as np
import pytest

import jaxparc
from jaxparc.bank import racing
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


@pytest.mark.slow
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
    assert race.rounds[0].dropped == {"noise": "surely worse"}


def test_an_undefined_score_is_dropped_under_its_own_name_and_ranks_last():
    features = bank(models=3) | {"dead": np.zeros((N, 4), np.float32)}
    with pytest.warns(UndefinedScoreWarning, match="dead"):
        race, _ = raced(features)
    assert race.rounds[0].dropped["dead"] == "undefined"
    assert "dead" not in race.scores.names
    first = [name for name, images, _ in race.ranking() if images == 64]
    assert first[-1] == "dead"


def test_where_no_score_is_defined_no_model_is_dropped():
    features = {name: np.zeros((N, 4), np.float32) for name in "ab"}
    with pytest.warns(UndefinedScoreWarning):
        race, _ = raced(features)
    assert race.scores.names == ("a", "b")
    assert race.cost == 1


def test_who_is_left_for_lack_of_time_is_dropped_worst_first():
    order = np.random.default_rng(0).permutation(N)
    noise = np.random.default_rng(1).normal(size=(4, N, 12))
    x = bank()["m5"]
    features = {f"m{i}": (x + 0.1 * noise[i])[order] for i in range(4)}

    def score(names, size, level):
        chosen = {name: features[name][:size] for name in names}
        return jaxparc.score_bank(chosen, LABELS[order][:size], methods="parc", intervals=level)

    def extract(names, size):
        return {"m0": "failed"} if "m0" in names else {}

    asked = []

    def affordable(names, size):
        asked.append((tuple(names), size))
        return 2 if size == 200 else 0

    rounds = racing.run(list(features), [150, 200, 300], extract, score, affordable=affordable)
    assert [one.images for one in rounds] == [0, 150, 200]
    assert rounds[0].dropped == {"m0": "failed"}
    assert [size for _, size in asked] == [200, 300]
    order = sorted(rounds[1].scores, key=rounds[1].scores.get, reverse=True)
    assert asked[0][0] == tuple(order)
    assert sorted(asked[1][0]) == sorted(order[:2])
    assert rounds[1].dropped == {order[2]: "no time left"}
    assert not rounds[2].dropped


def test_a_round_that_time_allows_for_no_model_is_left_out():
    x = bank()["m5"]

    def score(names, size, level):
        rows = np.random.default_rng(0).permutation(N)[:size]
        found = dict.fromkeys(names, x[rows])
        return jaxparc.score_bank(found, LABELS[rows], methods="parc", intervals=level)

    def extract(names, size):
        return dict.fromkeys(names, "no time left") if size > 64 else {}

    (one,) = racing.run(["a", "b"], [64, 128, N], extract, score)
    assert (one.images, one.dropped) == (64, {})


def test_sizes_are_multiples_of_the_batch_and_the_last_round_has_a_whole_one():
    assert racing.sizes_of(500, "classes", 10) == [64, 128, 256, 500]
    assert racing.sizes_of(500, "classes", 100) == [200, 400, 500]
    assert racing.sizes_of(500, "classes", 100, multiple=32) == [224, 448, 500]
    assert racing.sizes_of(270, "classes", 10, multiple=32) == [64, 128, 270]
    assert racing.sizes_of(500, "values", 0, multiple=48) == [96, 192, 384, 500]
    assert racing.sizes_of(40, "classes", 10, multiple=32) == [40]


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
