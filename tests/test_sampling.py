import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxparc import sampling

# images of each class, then their labels in a shuffled order
counts = st.lists(st.integers(1, 12), min_size=1, max_size=15)
budgets = st.integers(1, 60)
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=150, deadline=None)


def labels_of(counts, seed=0):
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))


@quick
@given(counts, budgets, seeds)
def test_budget_is_met_exactly_without_duplicates(counts, budget, seed):
    labels = labels_of(counts)
    drawn = sampling.probe_indices(labels, budget, seed)
    assert len(drawn) == min(budget, len(labels))
    assert len(np.unique(drawn)) == len(drawn)
    assert drawn.dtype == np.int64


@quick
@given(counts, budgets, seeds)
def test_classes_are_balanced_as_far_as_their_images_go(counts, budget, seed):
    counts = np.array(counts)
    labels = labels_of(counts)
    taken = np.bincount(labels[sampling.probe_indices(labels, budget, seed)], minlength=len(counts))
    kept = np.flatnonzero(taken)
    # whoever has fewer than most - 1 has given all it has
    assert (taken[kept] >= np.minimum(taken.max() - 1, counts[kept])).all()


@quick
@given(counts, budgets, seeds)
def test_every_class_that_can_has_two(counts, budget, seed):
    counts = np.array(counts)
    labels = labels_of(counts)
    taken = np.bincount(labels[sampling.probe_indices(labels, budget, seed)], minlength=len(counts))
    kept = np.flatnonzero(taken)
    if 2 * len(counts) <= budget:
        assert len(kept) == len(counts)
        assert (taken >= np.minimum(2, counts)).all()
    pairs = np.minimum(counts[counts >= 2], 2).sum()
    if 2 * len(counts) > budget and pairs >= budget >= 2:
        # enough classes with two images: no lone image is drawn, and each kept class has two,
        # but for the one that an odd budget cannot pair
        assert (counts[kept] >= 2).all()
        assert (taken[kept] < 2).sum() <= budget % 2


@quick
@given(counts, st.integers(1, 15), seeds)
def test_k_of_each_class(counts, k, seed):
    labels = labels_of(counts)
    drawn = sampling.per_class_indices(labels, k, seed)
    assert len(np.unique(drawn)) == len(drawn)
    taken = np.bincount(labels[drawn], minlength=len(counts))
    np.testing.assert_array_equal(taken, np.minimum(counts, k))
    assert_in_turns(labels[drawn])
    np.testing.assert_array_equal(drawn, sampling.per_class_indices(labels, k, seed))


def assert_in_turns(order):
    """The i-th image of every class comes before the (i + 1)-th of any, in one order of classes."""
    turn = np.array([(order[:i] == cls).sum() for i, cls in enumerate(order)])
    assert (np.diff(turn) >= 0).all()
    place = {cls: i for i, cls in enumerate(order[turn == 0])}
    for i in range(turn.max() + 1):
        assert np.all(np.diff([place[cls] for cls in order[turn == i]]) > 0)


@quick
@given(counts, budgets, seeds)
def test_classes_take_turns(counts, budget, seed):
    labels = labels_of(counts)
    assert_in_turns(labels[sampling.probe_indices(labels, budget, seed)])


@quick
@given(counts, budgets, seeds)
def test_a_seed_gives_one_probe_set(counts, budget, seed):
    labels = labels_of(counts)
    np.testing.assert_array_equal(
        sampling.probe_indices(labels, budget, seed), sampling.probe_indices(labels, budget, seed)
    )


@quick
@given(st.integers(1, 40), budgets, seeds)
def test_multi_label_targets_give_a_plain_subset(n, budget, seed):
    drawn = sampling.probe_indices(np.zeros((n, 4)), budget, seed)
    assert len(np.unique(drawn)) == len(drawn) == min(n, budget)
    assert set(drawn) <= set(range(n))


def test_seeds_differ_in_images_and_in_the_order_of_classes():
    labels = labels_of([20] * 10)
    first, second = (sampling.probe_indices(labels, 50, seed) for seed in (0, 1))
    assert set(first) != set(second)
    assert labels[first].tolist() != labels[second].tolist()


def test_every_image_and_every_class_is_drawn_equally_often():
    # 5 of 20 classes are kept, 2 of 6 images each: probability 1/12 per image
    labels = labels_of([6] * 20)
    times = np.zeros(120)
    for seed in range(1200):
        times[sampling.probe_indices(labels, 10, seed)] += 1
    # 100 expected, standard deviation about 9.6
    assert times.min() > 55
    assert times.max() < 145
    by_class = np.bincount(labels, times) / 2  # 300 expected, deviation 15
    assert by_class.min() > 225
    assert by_class.max() < 375


def test_the_papers_sizes():
    # 555 classes and 500 images: 250 classes, two images each
    taken = np.bincount(
        labels_of([40] * 555)[sampling.probe_indices(labels_of([40] * 555), 500, 0)]
    )
    assert sorted(set(taken)) == [0, 2]
    assert (taken == 2).sum() == 250


def test_more_than_there_is_draws_everything():
    labels = labels_of([2, 3, 1])
    assert sorted(sampling.probe_indices(labels, 100, 0)) == list(range(6))


def test_labels_may_be_words():
    words = np.array(["cat", "dog", "cat", "dog"])
    assert len(set(words[sampling.probe_indices(words, 4, 0)[:2]])) == 2


@pytest.mark.parametrize("budget", [0, -5])
def test_a_budget_without_images_is_refused(budget):
    with pytest.raises(ValueError, match=f"budget is {budget}"):
        sampling.probe_indices(np.array([0, 1]), budget, 0)


def test_k_below_one_and_several_classes_per_image_are_refused():
    with pytest.raises(ValueError, match="k is 0; expected at least 1"):
        sampling.per_class_indices(np.array([0, 1]), 0, 0)
    with pytest.raises(ValueError, match=r"labels have shape \(2, 3\); expected \(N,\), one class"):
        sampling.per_class_indices(np.zeros((2, 3)), 1, 0)


def test_half_of_a_class_heavy_set_stays_as_it_was():
    """Sets without lone images, as all of the paper's, keep the probe sets of earlier versions."""
    drawn = sampling.probe_indices(np.repeat(np.arange(9), 3), 6, 3)
    rng = np.random.default_rng(3)
    order = rng.permutation(27)
    kept = rng.permutation(np.arange(9))[:3]
    members = [order[order // 3 == cls] for cls in kept]
    assert drawn.tolist() == [m[turn] for turn in range(2) for m in members]
