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
    kept = np.unique(labels[drawn])
    if 2 * len(counts) <= budget:
        assert len(kept) == len(counts)
    else:
        assert len(kept) <= max(budget // 2, 1)
    # a single-image class among those kept may leave the budget unmet: nothing else fills in
    assert len(drawn) <= budget
    if len(drawn) < budget:
        assert len(drawn) == np.isin(labels, kept).sum()
        assert len(kept) == min(len(counts), max(budget // 2, 1))
    assert len(np.unique(drawn)) == len(drawn)
    assert drawn.dtype == np.int64


@quick
@given(counts, budgets, seeds)
def test_classes_are_balanced_as_far_as_their_images_go(counts, budget, seed):
    labels = labels_of(counts)
    taken = np.bincount(labels[sampling.probe_indices(labels, budget, seed)], minlength=len(counts))
    kept = np.flatnonzero(taken)
    most = taken.max()
    # whoever has fewer than most - 1 has given all it has
    for cls in kept:
        assert taken[cls] >= min(most - 1, counts[cls])
        assert taken[cls] >= min(2, counts[cls]) or budget < 2


@quick
@given(counts, budgets, seeds)
def test_classes_take_turns(counts, budget, seed):
    labels = labels_of(counts)
    order = labels[sampling.probe_indices(labels, budget, seed)]
    # the i-th image of every class comes before the (i + 1)-th of any, in one order of classes
    turn = np.array([(order[:i] == cls).sum() for i, cls in enumerate(order)])
    assert (np.diff(turn) >= 0).all()
    place = {cls: i for i, cls in enumerate(order[turn == 0])}
    for i in range(turn.max() + 1):
        assert np.all(np.diff([place[cls] for cls in order[turn == i]]) > 0)


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
