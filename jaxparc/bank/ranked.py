"""The scores of a bank, and the answer that follows from them: what to fine-tune."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxparc import printing
from jaxparc.bank.costs import Facts
from jaxparc.bank.racing import NO_TIME, WORSE, Round, dropped
from jaxparc.bank.scores import DEFAULT_LEVEL, BankScores
from jaxparc.report.thumbnails import Thumbnails

NAMED = 3  # maximum number of tied models that the answer names
NOTABLE = 1.25  # ratio of speeds, or of parameters, from which the answer mentions it


@dataclasses.dataclass(frozen=True)
class Row:
    """One model of a ranking.

    Attributes:
        name: name of the model.
        rank: by the first method, from 1; None if its score is undefined.
        score: by the first method.
        low: lower limit of the score's confidence interval.
        high: upper limit of the score's confidence interval.
        tied: whether it is the best model or indistinguishable from it, paired over the images.
        ranks: method -> rank by that method, of those that are defined.
        better_by: the methods that score it higher than the best model by more than chance.
        facts: what it costs and where it comes from.
        frontier: whether no other model has a higher score and extracts features faster.
        images: in a race, number of images that the score is of.
        dropped: why the model was dropped from the race; "" if it was not.
    """

    name: str
    rank: int | None
    score: float
    low: float = math.nan
    high: float = math.nan
    tied: bool = False
    ranks: Mapping[str, int] = dataclasses.field(default_factory=dict)
    better_by: tuple[str, ...] = ()
    facts: Facts = Facts()
    frontier: bool = False
    images: int | None = None
    dropped: str = ""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Ranked:
    """A ranked bank; see `ranking.Ranking`, which prints and writes it.

    Attributes:
        scores: scores of all models, with intervals; the first method determines the ranking.
        facts: model -> facts about it; models may be absent.
        evidence: why the first method ranks, one line; "" if it was requested.
        settings: what determined the scores, as strings, numbers and lists.
        notes: notes on undefined scores and methods left out, one line each.
        rounds: the rounds of a race, in which the models without `scores` were dropped.
        detailed: whether its text has the scores of all methods.
        bounds: method -> the lowest and the highest possible score, which limit its intervals;
            methods may be absent.
        thumbnails: images of the probe set, for the page.
    """

    scores: BankScores
    facts: Mapping[str, Facts] = dataclasses.field(default_factory=dict)
    evidence: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()
    rounds: Sequence[Round] = ()
    detailed: bool = False
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    thumbnails: Thumbnails = Thumbnails()

    @property
    def best(self) -> str:
        """The model with the highest score by the first method.

        Raises:
            InputError: the first method is undefined for all models.
        """
        return self.scores.best

    @property
    def answer(self) -> str:
        """What to fine-tune first, in words: the best model, its ties, and the fastest of these."""
        return answer(self.rows, self.scores.methods, self.scores.level)

    @functools.cached_property
    def numbers(self) -> dict[tuple[str, str], tuple[float, float, float]]:
        """(Method, model) -> score and its interval within the bounds; NaN where unknown."""
        scores, found = self.scores, {}
        for method in scores.methods:
            intervals = scores.interval(method)
            lowest, highest = self.bounds.get(method, (-math.inf, math.inf))
            for name, score in scores[method].items():
                low, high = intervals[name]  # NaN, as the first argument, stays
                found[method, name] = score, max(low, lowest), min(high, highest)
            for name, _, score in dropped(self.rounds):
                value = score if method == scores.methods[0] else math.nan
                found[method, name] = value, math.nan, math.nan
        return found

    @functools.cached_property
    def rows(self) -> tuple[Row, ...]:
        """The models, best first, undefined ones last."""
        scores = self.scores
        order = [name for name, _ in scores.ranking()]
        ranks = {method: _ranks(scores.ranking(method)) for method in scores.methods}
        first = ranks[scores.methods[0]]
        tied = set(scores.tied())
        better = _better(scores, order[0]) if first else {}
        frontier = _frontier(scores[scores.methods[0]], self.facts)
        images = self.rounds[-1].images if self.rounds else None
        rows = [
            Row(
                name,
                first.get(name),
                *self.numbers[scores.methods[0], name],
                tied=name in tied,
                ranks={m: of[name] for m, of in ranks.items() if name in of},
                better_by=tuple(m for m, names in better.items() if name in names),
                facts=self.facts.get(name, Facts()),
                frontier=name in frontier,
                images=images,
            )
            for name in order
        ]
        reasons = {name: reason for one in self.rounds for name, reason in one.dropped.items()}
        for name, seen, score in dropped(self.rounds):
            facts = self.facts.get(name, Facts())
            rows.append(Row(name, None, score, facts=facts, images=seen, dropped=reasons[name]))
        return tuple(rows)


def _ranks(ranking: Sequence[tuple[str, float]]) -> dict[str, int]:
    """Return ranks from 1; equal scores share the lowest. Undefined models are left out."""
    found: dict[str, int] = {}
    before = (math.nan, 0)
    for place, (name, score) in enumerate(ranking, start=1):
        if not math.isnan(score):
            before = (score, before[1] if score == before[0] else place)
            found[name] = before[1]
    return found


def _better(scores: BankScores, best: str) -> dict[str, set[str]]:
    """Return, by method, the models that score higher than the best one by more than chance."""
    return {
        method: {
            name
            for name, (low, _) in zip(scores.names, scores.differences(best, method), strict=True)
            if low > 0
        }
        for method in scores.methods[1:]
    }


def _frontier(scores: Mapping[str, float], facts: Mapping[str, Facts]) -> set[str]:
    """Return the models than which none of known speed is both faster and better, or equal."""
    points = {
        name: (score, speed)
        for name, score in scores.items()
        if name in facts and (speed := facts[name].images_per_second) and not math.isnan(score)
    }
    return {
        name
        for name, (score, speed) in points.items()
        if not any(
            s >= score and v >= speed and (s, v) != (score, speed) for s, v in points.values()
        )
    }


def answer(rows: Sequence[Row], methods: Sequence[str], level: float = DEFAULT_LEVEL) -> str:
    """Say in words which model to fine-tune, which may be as good, and which of these is cheaper.

    Args:
        rows: the models, best first.
        methods: labels of the methods; the first determines the ranking.
        level: confidence level of ties.

    Returns:
        One line; names are as given, so it is to be escaped like them.
    """
    defined = [row for row in rows if row.rank is not None]
    worse = [row for row in rows if row.dropped == WORSE]
    untimed = [row for row in rows if row.dropped == NO_TIME]
    percent = f"{100 * level:g} %"
    if not defined:
        models = printing.count(len(rows), "model")
        return f"No model can be recommended: {methods[0]} is undefined for {models}."
    best, *others = defined
    if not others and not worse and not untimed:
        which = "the only model" if len(rows) == 1 else "the only model with a score"
        return f"Fine-tune {best.name}, {which}."
    tied = [row for row in others if row.tied]
    sentences = [f"Fine-tune {best.name}."]
    if math.isnan(best.low):
        sentences.append(f"How sure that is, is not known: {methods[0]} has no interval.")
    elif tied:
        names = _joined([row.name for row in tied])
        sentences.append(f"{names} cannot be told from it ({percent}).")
        sentences += _cheaper(best, tied)
    elif count := len(others) + len(worse):
        few = {1: "The other model scores", 2: "Both others score"}
        rest = few.get(count, f"All {count} others score")
        if untimed:
            rest = f"{printing.count(count, 'model')} that had time to be compared score"
        sentences.append(f"{rest} lower by more than chance ({percent}).")
    if untimed:
        sentences.append(f"{printing.count(len(untimed), 'model')} had no time to be compared.")
    for method in methods[1:2]:
        if preferred := [row.name for row in others if method in row.better_by]:
            sentences.append(f"By {method}, however, {_joined(preferred)} would be better.")
    return " ".join(sentences)


def _joined(names: Sequence[str]) -> str:
    """Join names: "a", "a and b", "a, b and c", "a, b, c and 4 others"."""
    shown = list(names[:NAMED]) if len(names) > NAMED + 1 else list(names)
    if len(shown) < len(names):
        shown.append(f"{len(names) - len(shown)} others")
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def _cheaper(best: Row, tied: Sequence[Row]) -> list[str]:
    """Return a sentence on the cheapest of the tied models, if it is notably cheaper."""
    if speeds := _known(best, tied, "images_per_second"):
        fastest = max(speeds, key=lambda name: speeds[name])
        text = f"{fastest} extracts {_times(speeds[fastest])} as fast."
        return [text] if speeds[fastest] >= NOTABLE else []
    if sizes := _known(best, tied, "parameters"):
        smallest = min(sizes, key=lambda name: sizes[name])
        text = f"{smallest} has {_times(1 / sizes[smallest])} fewer parameters."
        return [text] if 1 / sizes[smallest] >= NOTABLE else []
    return []


def _known(best: Row, tied: Sequence[Row], fact: str) -> dict[str, float]:
    """Return a fact of each tied model over that of the best; {} if the best's is unknown."""
    own = getattr(best.facts, fact)
    return {row.name: value / own for row in tied if own and (value := getattr(row.facts, fact))}


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio >= 10 else f"{ratio:.1f} times"
