"""Race the models of a bank: extract fewer images of those that are surely worse."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxparc import sampling, selectors
from jaxparc.bank.scores import DEFAULT_LEVEL, BankScores
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
        dropped: model that was dropped after it -> the reason.
    """

    images: int
    scores: dict[str, float]
    dropped: dict[str, str]


WORSE = "surely worse"
UNDEFINED = "undefined"
NO_TIME = "no time left"


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
        return found + dropped(self.rounds)


def dropped(rounds: Sequence[Round]) -> list[tuple[str, int, float]]:
    """Return the dropped models, the images they were last scored on, and that score.

    Those that were left longest come first, and of these the best.
    """
    found = []
    for one in reversed(rounds):
        order = sorted(one.dropped, key=lambda name: _worst_last(one.scores[name]))
        found += [(name, one.images, one.scores[name]) for name in order]
    return found


def _worst_last(score: float) -> tuple[bool, float]:
    return np.isnan(score), -score


def check_method(method: str) -> None:
    """Check that a method can be raced.

    Raises:
        InputError: it is unknown, or reads more than features and labels.
    """
    chosen = selectors.method(method)
    if isinstance(chosen, Ensemble) or not set(chosen.needs) <= {"features", "labels"}:
        raise InputError(
            f"method {method!r} cannot be raced; expected one that reads features and labels alone"
        )


def run(
    names: Sequence[str],
    sizes: Sequence[int],
    extract: Callable[[Sequence[str], int], Mapping[str, str]],
    score: Callable[[Sequence[str], int, float], BankScores],
    *,
    delta: float = 0.05,
    affordable: Callable[[Sequence[str], int], int] = lambda names, size: len(names),
) -> list[Round]:
    """Run the rounds of a race, as `race` describes them.

    Args:
        names: the models.
        sizes: number of images of each round, increasing; the last is n.
        extract: function from the models that are left, best first, and a number of images;
            extracts the features of the first so many, and returns the models for which it did not,
            with the reasons.
        score: function from these models, a number of images and a confidence level to their
            scores, with intervals.
        delta: as `race` takes it.
        affordable: function from the models that would be left, best first, and the next round's
            number of images; returns how many of them there is time for. If there is none, the race
            ends.

    Returns:
        The rounds, fewer than `sizes` if time ran out. Models without any features have been
        dropped after 0 images.
    """
    level = 1 - delta / (len(names) * max(1, len(sizes) - 1))
    rounds: list[Round] = []
    left = list(names)
    for size, following in zip(sizes, [*sizes[1:], None], strict=True):
        out = dict(extract(left, size))
        if rounds and len(out) == len(left) and set(out.values()) == {NO_TIME}:
            break
        if out and not rounds:
            rounds.append(Round(0, dict.fromkeys(out, np.nan), {}))
        if rounds:
            rounds[-1].dropped.update(out)
        left = [name for name in left if name not in out]
        if not left:
            break
        scores = score(left, size, DEFAULT_LEVEL if following is None else level)
        one = Round(size, scores[scores.methods[0]], {})
        rounds.append(one)
        if following is None:
            break
        one.dropped.update(_worse(scores, np.sqrt(1 - size / sizes[-1])))
        order = [name for name, _ in scores.ranking() if name not in one.dropped]
        count = affordable(order, following)
        if count == 0:
            break
        one.dropped.update(dict.fromkeys(order[count:], NO_TIME))
        left = order[:count]
    return rounds


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
        first: number of images of the first round, 64 by default, raised to two per class.
        seed: of the order of the images.
        label_kind: as `score_bank` takes it.

    Raises:
        InputError: an argument is wrong, or as for `score_bank`.
    """
    check_method(method)
    if first < 3:
        raise InputError(f"first is {first}; expected at least 3 images")
    if not models:
        raise InputError("models is empty; expected at least one")
    if not 0 < delta < 1:
        raise InputError(f"delta is {delta}; expected a probability in (0, 1)")
    encoded = check_labels(labels, (selectors.method(method),), kind=label_kind)
    y = encoded.values
    n = len(y)
    order = sampling.probe_indices(y, n, seed)
    sizes = sizes_of(n, encoded.kind, encoded.num_classes, first)
    held: dict[str, np.ndarray] = {}
    extracted = 0
    final: list[BankScores] = []

    def extract(left: Sequence[str], size: int) -> Mapping[str, str]:
        nonlocal held, extracted
        held = {name: held[name] for name in left if name in held}
        for name in left:
            new = order[len(held.get(name, ())) : size]
            x = np.asarray(models[name](new))
            if len(x) != len(new):
                raise InputError(
                    f"model {name!r} returned features of {len(x)} images; expected {len(new)}"
                )
            held[name] = np.concatenate([held[name], x]) if name in held else x
            extracted += len(new)
        return {}

    def score(left: Sequence[str], size: int, level: float) -> BankScores:
        final[:] = [
            score_bank(
                {name: held[name] for name in left},
                y[order[:size]],
                methods=method,
                label_kind=encoded.kind,
                intervals=level,
            )
        ]
        return final[0]

    rounds = run(list(models), sizes, extract, score, delta=delta)
    return Race(final[0], tuple(rounds), extracted / (len(models) * n))


def sizes_of(
    n: int, label_kind: str, num_classes: int, first: int = FIRST, multiple: int = 1
) -> list[int]:
    """Return the numbers of images of the rounds: they double from the first, and end with n.

    Args:
        n: number of images.
        label_kind: as `score_bank` takes it.
        num_classes: c, of which the first round has `PER_CLASS` images each.
        first: number of images of the first round, at least.
        multiple: number that all but n are a multiple of; n is larger than the one before it by at
            least as much.
    """
    if label_kind == "classes":
        first = max(first, PER_CLASS * num_classes)
    size = -(-first // multiple) * multiple
    sizes = []
    while size + multiple <= n:
        sizes.append(size)
        size *= 2
    return [*(size for size in sizes if size < n), n]


def _worse(scores: BankScores, shrink: float) -> dict[str, str]:
    """Return the models whose difference from the best one, times `shrink`, is significant.

    Those without a score are among them, unless no model has one.
    """
    values = scores[scores.methods[0]]
    if np.isnan(list(values.values())).all():
        return {}
    limits = scores.differences(scores.ranking()[0][0])
    middle = limits.mean(axis=1)
    surely = middle + shrink * (limits[:, 1] - middle) < 0
    found = {name: WORSE for name, worse in zip(scores.names, surely, strict=True) if worse}
    return found | {name: UNDEFINED for name, value in values.items() if np.isnan(value)}
