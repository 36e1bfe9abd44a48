"""Fine-tuning: validation images and accuracies."""

import numpy as np
import pytest

from jaxparc.bank import tuning
from jaxparc.errors import InputError


def test_a_fifth_of_each_class_is_held_out_and_always_the_same():
    labels = np.repeat([0, 1, 2], [50, 100, 10])
    held = tuning.validation_images(labels, 0, "x")
    assert np.bincount(labels[held]).tolist() == [10, 20, 2]
    assert np.array_equal(held, tuning.validation_images(labels, 0, "x"))
    assert not np.array_equal(held, tuning.validation_images(labels, 1, "x"))


def test_every_class_keeps_an_image():
    labels = np.array([0] * 6 + [1, 2, 3, 4])
    held = tuning.validation_images(labels, 0, "x")
    assert held.sum() == 2
    assert set(labels[~held]) == set(labels)
    few = np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8])  # a fifth is more than can be spared
    held = tuning.validation_images(few, 0, "x")
    assert few[held].tolist() == [0]


def test_no_more_images_are_held_out_than_are_needed():
    held = tuning.validation_images(np.arange(50_000) % 10, 0, "x")
    assert held.sum() == tuning.MOST_VALIDATION


def test_one_image_per_class_is_refused_in_one_line():
    with pytest.raises(InputError, match=r"x: every class has one image .*--learning-rate") as one:
        tuning.validation_images(np.arange(5), 0, "x")
    assert "\n" not in str(one.value)


def test_of_several_classes_images_are_held_out_by_their_sets():
    labels = np.random.default_rng(0).integers(0, 2, (40, 5)).astype(np.float32)
    assert tuning.validation_images(labels, 0, "x").sum() == 8


def test_the_interval_is_wilsons():
    # Newcombe 1998, table I: 81 of 263, and 0 of 20
    assert tuning.wilson(81, 263) == pytest.approx((25.53, 36.62), abs=0.01)
    assert tuning.wilson(0, 20) == pytest.approx((0, 16.11), abs=0.01)


def test_accuracies_have_a_chance_level():
    labels = np.repeat([0, 1], [60, 40])
    found = tuning.measured(np.repeat([1.0, 0.0], [75, 25]), labels)
    assert (found.percent, found.chance) == (75, 60)
    assert (found.low, found.high) == tuning.wilson(75, 100)
    hot = np.zeros((100, 2), np.float32)
    hot[:30, 0] = hot[:80, 1] = 1
    several = tuning.measured(np.repeat([1.0, 0.5], 50), hot)
    assert (several.percent, several.chance) == (75, pytest.approx(75))
    assert several.high - several.low == pytest.approx(2 * 1.96 * 25 / 10)
