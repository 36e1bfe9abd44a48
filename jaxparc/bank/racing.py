"""Race the models of a bank: extract fewer images of those that are surely worse."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxparc import sampling, selectors
from jaxparc.bank.scores import BankScores
from jaxparc.bank.scoring import check_labels, score_bank
from jaxparc.errors import InputError
from jaxparc.selectors import Ensemble

FIRST = 64  # images of the first round
PER_CLASS = 2  # images of every class in the first round


class Round(NamedTuple):
    """One round of a race.

    Attributes:
        images: number of images that all models of this round have seen.
        scores: model -> score on these.
        dropped: the models that were dropped after it.
    """

    images: int
    scores: dict[str, float]
    dropped: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Race:
    """The result of a race.

    Attributes:
        scores: the scores of the models that are left on all images, with intervals.
        rounds: the rounds, the last of which has all images.
        cost: images that were extracted, over those of all models and images.
    """

    scores: BankScores
    rounds: tuple[Round, ...]
    cost: float

    @property
    def best(self) -> str:
        """The model with the highest score of those that are left.

        Raises:
            InputError: the score of none of them is defined.
        """
        return self.scores.best

    def ranking(self) -> list[tuple[str, int, float]]:
        """Return models, the images they were last scored on, and that score, best first.

        Models that were dropped follow those that were left longer.
        """
        found = [(name, self.rounds[-1].images, score) for name, score in self.scores.ranking()]
        for one in reversed(self.rounds[:-1]):
            order = sorted(one.dropped, key=lambda name: -one.scores[name])
            found += [(name, one.images, one.scores[name]) for name in order]
        return found


def race(
    models: Mapping[str, Callable[[np.ndarray], Any]],
    labels: Any,
    *,
    method: str = "parc_f32",
    delta: float = 0.05,
    first: int = FIRST,
    seed: int = 0,
    label_kind: str | None = None,
) -> Race:
    """Score models on more and more images, dropping those that are surely worse than the best.

    All models see the images in the same order, one of each class in turn. After 64, 128, 256, ...
    of them each model is compared with the best one so far: it is dropped if the interval of their
    difference over all n images excludes 0. The intervals are paired and corrected for finite
    populations, sqrt(1 - s / n) after s images (Cochran 1977), and for the number of models and
    rounds (Bonferroni). So the best model of all n images is dropped with a probability of about
    `delta`; this says nothing about accuracies.

    Args:
        models: name -> a function from (k,) int indices of images to their features, (k, d). It is
            called with images that it has not seen, once per round.
        labels: of the n images, as `score_bank` takes them.
        method: a method that reads nothing but features and labels.
        delta: probability of a wrong drop, in (0, 1).
        first: number of images of the first round, raised to two per class.
        seed: of the order of the images.
        label_kind: as `score_bank` takes it.

    Raises:
        InputError: an argument is wrong, or as for `score_bank`.
    """
    chosen = selectors.method(method)
    if first < 3:
        raise InputError(f"first is {first}; expected at least 3 images")
    if not models:
        raise InputError("models is empty; expected at least one")
    if not 0 < delta < 1:
        raise InputError(f"delta is {delta}; expected a probability in (0, 1)")
    if isinstance(chosen, Ensemble) or not set(chosen.needs) <= {"features", "labels"}:
        raise InputError(
            f"method {method!r} cannot be raced; expected one that reads features and labels alone"
        )
    encoded = check_labels(labels, (chosen,), kind=label_kind)
    y = encoded.values
    n = len(y)
    order = sampling.probe_indices(y, n, seed)
    if encoded.kind == "classes":
        first = max(first, PER_CLASS * encoded.num_classes)
    sizes = _sizes(n, first)
    level = 1 - delta / (len(models) * max(1, len(sizes) - 1))
    held: dict[str, np.ndarray] = {}
    left = list(models)
    seen, extracted = 0, 0
    rounds: list[Round] = []
    for size in sizes:
        new = order[seen:size]
        for name in left:
            x = np.asarray(models[name](new))
            if len(x) != len(new):
                raise InputError(
                    f"model {name!r} returned features of {len(x)} images; expected {len(new)}"
                )
            held[name] = np.concatenate([held[name], x]) if seen else x
        extracted += len(left) * len(new)
        seen = size
        scores = score_bank(
            {name: held[name] for name in left},
            y[order[:size]],
            methods=method,
            label_kind=encoded.kind,
            intervals=level if size < n else 0.95,
        )
        dropped = _worse(scores, np.sqrt(1 - size / n)) if size < n else ()
        rounds.append(Round(size, scores[scores.methods[0]], dropped))
        left = [name for name in left if name not in dropped]
        held = {name: held[name] for name in left}
    return Race(scores, tuple(rounds), extracted / (len(models) * n))


def _sizes(n: int, first: int) -> list[int]:
    """Return numbers of images that double from the first, and n."""
    sizes = []
    while first < n:
        sizes.append(first)
        first *= 2
    return [*sizes, n]


def _worse(scores: BankScores, shrink: float) -> tuple[str, ...]:
    """Return the models whose difference from the best one, times `shrink`, is significant."""
    order = [name for name, score in scores.ranking() if not np.isnan(score)]
    if not order:
        return ()
    limits = scores.differences(order[0])
    middle = limits.mean(axis=1)
    # NaN, of an undefined score, compares false: such a model may yet be defined.
    surely = middle + shrink * (limits[:, 1] - middle) < 0
    return tuple(name for name, worse in zip(scores.names, surely, strict=True) if worse)
