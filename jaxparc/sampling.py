"""Draw probe sets (the paper, section 3.1) and test sets."""

import numpy as np

from jaxparc.errors import InputError


def probe_indices(labels: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """Draw a probe set: round-robin over the classes, or at random for multi-label targets.

    The images of each class are shuffled; then one image per class is taken in turn until the
    budget is reached. With more than budget / 2 classes, budget // 2 of them are first chosen at
    random, so that every class can have two images; classes with at least two images are preferred.
    If the chosen classes have too few images for the budget, more classes are added.

    Args:
        labels: (N,) classes of all images of the target's training split, or (N, c) multi-label.
        budget: n, number of images; all are drawn if fewer exist.
        seed: seed of this probe set.

    Returns:
        (min(n, N),) int64 indices into `labels`, in round-robin order, so that each half is about
        as balanced as the whole.

    Raises:
        InputError: the budget is below 1.
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
        # Stable, so that the order is unchanged if no class has only one image.
        shuffled = shuffled[np.argsort(counts[shuffled] < 2, kind="stable")]
        enough = int(np.searchsorted(np.cumsum(counts[shuffled]), budget)) + 1
        shuffled = shuffled[: max(budget // 2, 1, enough)]
    return _in_turns(labels, classes[shuffled], order)[:budget]


def per_class_indices(labels: np.ndarray, k: int, seed: int) -> np.ndarray:
    """Draw k images of every class, or all images of a class that has fewer.

    Args:
        labels: (N,) classes.
        k: images per class.
        seed: seed of this draw.

    Returns:
        (n,) int64 indices into `labels`, round-robin over the classes.

    Raises:
        InputError: k is below 1, or labels are multi-label.
    """
    if k < 1:
        raise InputError(f"k is {k}; expected at least 1")
    if np.ndim(labels) != 1:
        raise InputError(
            f"labels have shape {np.shape(labels)}; expected (N,), one class per image"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    drawn = _in_turns(labels, rng.permutation(classes), order)
    return drawn[: np.minimum(counts, k).sum()]


def _in_turns(labels: np.ndarray, classes: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return all images of some classes, one of each class in turn, each class in `order`."""
    turns = np.full(len(labels), -1)
    for place, cls in enumerate(classes):
        members = order[labels[order] == cls]
        # The i-th image of a class is taken in turn i; within a turn, classes keep their places.
        turns[members] = np.arange(len(members)) * len(classes) + place
    kept = np.flatnonzero(turns >= 0)
    return kept[np.argsort(turns[kept])]


def held_out(labels: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """Choose a stratified test set of an exact size.

    Each class is shuffled and its images are spread evenly over [0, 1); the `count` images with the
    lowest positions over all classes are held out, so every class contributes its share, rounded up
    or down. The last image of a class is held out only once no class has more than one image left.

    Args:
        labels: (n,) classes.
        count: number of images to hold out, at most n.
        seed: seed of the shuffle.

    Returns:
        (n,) bool, True for held-out images.
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
