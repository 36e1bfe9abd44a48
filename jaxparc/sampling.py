"""Which images make a probe set (the paper, section 3.1), and which are held out for testing."""

import numpy as np


def probe_indices(labels: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """Draw a probe set: round-robin over the classes, or at random for multi-label targets.

    The images of each class are shuffled; then one image per class is taken in turn until the
    budget is reached. With more than budget / 2 classes, budget // 2 of them are kept at random
    first, so that every class can have two images.

    Args:
        labels: (N,) classes of all images of the target's training split, or (N, c) multi-label.
        budget: n, images to draw; more than there are draws them all.
        seed: of this probe set.

    Returns:
        (min(n, N'),) int64 positions in `labels`, N' the images of the kept classes. The order is
        the round-robin's, so that either half is about as balanced as the whole.
    """
    if budget < 1:
        raise ValueError(f"budget is {budget}; expected at least 1")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    if np.ndim(labels) == 2:
        return order[:budget]
    classes = rng.permutation(np.unique(labels))
    if 2 * len(classes) > budget:
        classes = classes[: max(budget // 2, 1)]
    turns = np.full(len(labels), -1)
    for place, cls in enumerate(classes):
        members = order[labels[order] == cls]
        # The i-th image of a class is taken in turn i; within a turn, classes keep their places.
        turns[members] = np.arange(len(members)) * len(classes) + place
    kept = np.flatnonzero(turns >= 0)
    return kept[np.argsort(turns[kept])][:budget]


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
