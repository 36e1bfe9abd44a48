"""Scores and accuracies of a benchmark as arrays: models by targets, and probe sets before."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxparc.errors import InputError
from jaxparc.evaluation import Transfer
from jaxparc.evaluation.measures import Measure

Model = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """What selectors said, and what fine-tuning gave.

    Attributes:
      models: m names: architecture and source, the latter "" where a name is all there is.
      targets: t names.
      accuracies: (m, t) float64, any unit; NaN where there is none, as of a model's own source.
      scores: method -> (r, m, t) float64 of r probe sets; larger is better.
      where: (m, t) bool, the transfers to evaluate: each has an accuracy. A score that is NaN there
        makes what it is a part of undefined.
    """

    models: tuple[Model, ...]
    targets: tuple[str, ...]
    accuracies: np.ndarray
    scores: Mapping[str, np.ndarray]
    where: np.ndarray

    def only(self, targets: Sequence[str]) -> "Outcomes":
        """The same of some targets."""
        kept = [self.targets.index(target) for target in targets]
        return dataclasses.replace(
            self,
            targets=tuple(targets),
            accuracies=self.accuracies[:, kept],
            scores={method: s[:, :, kept] for method, s in self.scores.items()},
            where=self.where[:, kept],
        )

    def beside(self, scores: Mapping[str, np.ndarray]) -> "Outcomes":
        """The same with further methods' scores."""
        return dataclasses.replace(self, scores={**self.scores, **scores})

    def undefined(self, method: str) -> int:
        """How many scores of the transfers to evaluate are not finite, over all probe sets."""
        return int((~np.isfinite(self.scores[method]) & self.where).sum())


def collect(
    accuracies: Mapping[Transfer, float], scores: Mapping[str, Sequence[Mapping[Transfer, float]]]
) -> Outcomes:
    """Arrays of mappings.

    Args:
      accuracies: of every transfer; those that are not finite count as not there.
      scores: method -> the scores of each probe set.

    Returns:
      Outcomes in the order of appearance. The transfers to evaluate have an accuracy and, if there
      are methods, a score of any of them, though it be NaN.

    Raises:
      ValueError: a score has no accuracy.
    """
    models = tuple(dict.fromkeys((t[0], t[1]) for t in accuracies))
    targets = tuple(dict.fromkeys(t[2] for t in accuracies))
    place = {t: (models.index((t[0], t[1])), targets.index(t[2])) for t in accuracies}
    found = np.full((len(models), len(targets)), np.nan)
    for transfer, value in accuracies.items():
        found[place[transfer]] = value
    arrays, scored = {}, np.zeros(found.shape, bool)
    for method, runs in scores.items():
        arrays[method] = np.full((len(runs), *found.shape), np.nan)
        for run, of_run in zip(arrays[method], runs, strict=True):
            for transfer, value in of_run.items():
                if transfer not in place:
                    raise InputError(f"there is a score but no accuracy for {'/'.join(transfer)}")
                run[place[transfer]] = value
                scored[place[transfer]] = True
    where = np.isfinite(found) & (scored if scores else True)
    return Outcomes(models, targets, found, arrays, where)


def by_target(outcomes: Outcomes, method: str, measure: Measure) -> np.ndarray:
    """A measure of every probe set and target, (r, t)."""
    scores = np.moveaxis(outcomes.scores[method], 1, 2)
    found: np.ndarray = measure.function(scores, outcomes.accuracies.T, outcomes.where.T)
    return found


def standardised(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """z-scores over the models of each target, (m, t).

    NaN where there is no model, and in targets of which all models are equal or one is not finite.
    """
    kept = np.where(where, values, 0.0)
    count = where.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviations = np.where(where, kept - kept.sum(0) / count, 0.0)
        z = deviations / np.sqrt((deviations**2).sum(0) / count)
    return np.asarray(np.where(where, z, np.nan))
