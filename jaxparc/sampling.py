"""Which images make a probe set (the paper, section 3.1), and which are held out for testing."""

import numpy as np

from jaxparc.errors import InputError


def probe_indices(labels: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """Draws a probe set: round-robin over the classes, or at random for multi-label targets.

    The images of each class are shuffled; then one image per class is taken in turn until the
    budget is reached. With more than budget / 2 classes, budget // 2 of them are kept at random
    first, so that every class can have two images: of those that have two, as long as there are
    such. Where the kept ones have too few images for the budget, more classes follow.

    Args:
        labels: (N,) classes of all images of the target's training split, or (N, c) multi-label.
        budget: n, images to draw; more than there are draws them all.
        seed: of this probe set.

    Returns:
        (min(n, N),) int64 positions in `labels`. The order is the round-robin's, so that either
        half is about as balanced as the whole.

    Raises:
        ValueError: the budget is below 1.
    """
    if budget < 1:
        raise InputError(f"budget is {budget}; expected at least 1")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    if np.ndim(labels) == 2:
        return order[:budget]
    classes, counts = np.unique(labels, return_counts=True)
    shuffled = rng.permutation(len(classes))
    if 2 * len(classes) > budget:
        # Stable, so that a set without lone images keeps the classes that come first.
        shuffled = shuffled[np.argsort(counts[shuffled] < 2, kind="stable")]
        enough = int(np.searchsorted(np.cumsum(counts[shuffled]), budget)) + 1
        shuffled = shuffled[: max(budget // 2, 1, enough)]
    return _in_turns(labels, classes[shuffled], order)[:budget]


def per_class_indices(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Draws k images of every class, or all of a class that has fewer.

    Args:
        labels: (N,) classes.
        k: images per class.
        seed: of this draw.

    Returns:
        int64 positions in `labels`, round-robin over the classes.

    Raises:
        ValueError: k is below 1, or an image has several classes.
    """
    if k < 1:
        raise InputError(f"k is {k}; expected at least 1")
    if np.ndim(labels) != 1:
        raise InputError(f"labels are {np.shape(labels)}; expected one class per image")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    drawn = _in_turns(labels, rng.permutation(classes), order)
    return drawn[: np.minimum(counts, k).sum()]


def _in_turns(labels: np.ndarray, classes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """All images of these classes, one of each class in turn, those of a class in this order."""
    turns = np.full(len(labels), -1)
    for place, cls in enumerate(classes):
        members = order[labels[order] == cls]
        # The i-th image of a class is taken in turn i; within a turn, classes keep their places.
        turns[members] = np.arange(len(members)) * len(classes) + place
    kept = np.flatnonzero(turns >= 0)
    return kept[np.argsort(turns[kept])]


def held_out(labels: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Chooses a stratified test set of an exact size.

    Each class is shuffled, its images are spread evenly over [0, 1), and the `count` lowest of
    all classes together are held out: every class gives its share, rounded up or down. The last
    image of a class is held out when of every class only the last is left.

    Args:
        labels: (n,) classes.
        count: images to hold out, at most n.
        seed: of the shuffle.

    Returns:
        (n,) bool, True for the images held out.
    """
    rng = np.random.default_rng(seed)
    position = np.empty(len(labels))
    for label in np.unique(labels):
        (members,) = np.nonzero(labels == label)
        rank = rng.permutation(len(members))
        place = (rank + rng.random(len(members))) / len(members)
        position[members] = place + (rank == len(members) - 1)
    chosen = np.zeros(len(labels), bool)
    chosen[np.argsort(position)[:count]] = True
    return chosen
