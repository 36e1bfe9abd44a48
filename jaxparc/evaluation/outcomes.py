"""Scores and accuracies as arrays of models by targets; scores have probe sets as first axis."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxparc.errors import InputError
from jaxparc.evaluation import Transfer
from jaxparc.evaluation.measures import Measure

Model = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Outcomes:
    """The scores of every method and the accuracies after fine-tuning.

    Attributes:
        models: m (architecture, source) pairs; source is "" for models that only have a name.
        targets: t names.
        accuracies: (m, t) float64 in any unit; NaN if unavailable, for example for a model's own
            source.
        scores: method -> (r, m, t) float64, r probe sets; larger is better, NaN if undefined.
        where: (m, t) bool, the transfers to evaluate, all of which have an accuracy. If one of them
            has an undefined score, every number that depends on it is undefined (NaN).
    """

    models: tuple[Model, ...]
    targets: tuple[str, ...]
    accuracies: np.ndarray
    scores: Mapping[str, np.ndarray]
    where: np.ndarray

    def only(
        self, targets: Sequence[str] | None = None, models: Sequence[Model] | None = None
    ) -> "Outcomes":
        """Return the outcomes of some targets and models, all by default, in the order given.

        Raises:
            InputError: a target or model is unknown.
        """
        targets = self.targets if targets is None else targets
        models = self.models if models is None else models
        rows, columns = np.ix_(
            _indices("model", models, self.models), _indices("target", targets, self.targets)
        )
        return Outcomes(
            tuple(models),
            tuple(targets),
            self.accuracies[rows, columns],
            {method: s[:, rows, columns] for method, s in self.scores.items()},
            self.where[rows, columns],
        )

    def beside(self, scores: Mapping[str, np.ndarray]) -> "Outcomes":
        """Return the outcomes with the scores of further methods, each (r, m, t)."""
        return dataclasses.replace(self, scores={**self.scores, **scores})

    def undefined(self, method: str) -> int:
        """Count the undefined scores of the transfers to evaluate, over all probe sets."""
        return int((~np.isfinite(self.scores[method]) & self.where).sum())

    def by_transfer(self, values: np.ndarray) -> dict[Transfer, float]:
        """Return (m, t) values as a mapping from the transfers to evaluate."""
        return {
            Transfer(self.models[i][0], self.models[i][1], self.targets[j]): float(values[i, j])
            for i, j in zip(*np.nonzero(self.where), strict=True)
        }


def _indices(kind: str, chosen: Sequence[object], known: Sequence[object]) -> list[int]:
    if unknown := [name for name in chosen if name not in known]:
        raise InputError(f"unknown {kind} {unknown[0]!r}; known: {', '.join(map(str, known))}")
    return [known.index(name) for name in chosen]


def collect(
    accuracies: Mapping[Transfer, float], scores: Mapping[str, Sequence[Mapping[Transfer, float]]]
) -> Outcomes:
    """Convert mappings to `Outcomes`, with models and targets in order of first appearance.

    Args:
        accuracies: transfer -> accuracy; a value that is not finite counts as unavailable.
        scores: method -> the scores of each probe set.

    Returns:
        Outcomes. The transfers to evaluate are those with an accuracy and, if there are methods, a
        score by at least one of them, possibly undefined. Absent scores are NaN.

    Raises:
        InputError: a score has no accuracy.
    """
    models = tuple(dict.fromkeys((t[0], t[1]) for t in accuracies))
    targets = tuple(dict.fromkeys(t[2] for t in accuracies))
    rows, columns = ({name: i for i, name in enumerate(names)} for names in (models, targets))
    index = {t: (rows[t[:2]], columns[t[2]]) for t in accuracies}
    found = np.full((len(models), len(targets)), np.nan)
    for transfer, value in accuracies.items():
        found[index[transfer]] = value
    arrays, scored = {}, np.zeros(found.shape, bool)
    for method, runs in scores.items():
        arrays[method] = np.full((len(runs), *found.shape), np.nan)
        for run, of_run in zip(arrays[method], runs, strict=True):
            for transfer, value in of_run.items():
                if transfer not in index:
                    raise InputError(f"no accuracy for {'/'.join(transfer)}, which has a score")
                run[index[transfer]] = value
                scored[index[transfer]] = True
    where = np.isfinite(found) & (scored if scores else True)
    return Outcomes(models, targets, found, arrays, where)


def by_target(outcomes: Outcomes, method: str, measure: Measure) -> np.ndarray:
    """Return a measure per probe set and target, (r, t) float64; NaN where undefined."""
    scores = np.moveaxis(outcomes.scores[method], 1, 2)
    found: np.ndarray = measure.function(scores, outcomes.accuracies.T, outcomes.where.T)
    return found


def standardised(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return z-scores over the models of each target, (m, t).

    Args:
        values: (m, t).
        where: (m, t) bool, the entries that count.

    Returns:
        (m, t) float64; NaN outside `where`, and for a whole target if its values are all equal or
        any of them is not finite.
    """
    kept = np.where(where, values, 0.0)
    count = where.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        deviations = np.where(where, kept - kept.sum(0) / count, 0.0)
        z = deviations / np.sqrt((deviations**2).sum(0) / count)
    return np.asarray(np.where(where, z, np.nan))
