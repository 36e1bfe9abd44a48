"""What a score knows beyond depth and a model's general quality."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxparc.evaluation.measures import Measure
from jaxparc.evaluation.outcomes import Outcomes, by_target, standardised


def plus_layers(
    outcomes: Outcomes,
    method: str,
    layers: Mapping[str, float],
    *,
    pooled: bool,
    ell_max: float = 50,
) -> np.ndarray:
    """Standardised scores plus relative depth (the paper, eq. 6), (r, m, t).

    Args:
      outcomes: the scores, and which transfers count.
      method: one of its methods.
      layers: of each architecture.
      pooled: whether the mean and the deviation are over all targets and probe sets, as the authors
        computed the numbers that they published, and not of each, as the equation has it.
      ell_max: the depth that counts 1.

    Returns:
      NaN where a score is not finite, and where all that it is standardised with are equal.

    Raises:
      KeyError: an architecture is not in `layers`.
    """
    scores = outcomes.scores[method]
    there = np.where(outcomes.where & np.isfinite(scores), scores, np.nan)
    axes = (0, 1, 2) if pooled else 1
    count = np.isfinite(there).sum(axes, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(there, axes, keepdims=True) / count
        deviation = np.sqrt(np.nansum((there - mean) ** 2, axes, keepdims=True) / count)
        z = np.where(deviation > 0, (there - mean) / deviation, np.nan)
    depth = np.array([float(layers[architecture]) for architecture, _ in outcomes.models])
    return np.asarray(z + (depth / ell_max)[:, None])


def within_architectures(outcomes: Outcomes, method: str, measure: Measure) -> np.ndarray:
    """A measure over the models of one architecture, averaged over architectures, (r, t).

    With Pearson's correlation and averaged over targets, it is the paper's Mean PC of varying
    sources (eq. 5). An architecture that has fewer than two models for a target is left out.
    """
    found = []
    for architecture in dict.fromkeys(a for a, _ in outcomes.models):
        of_it = np.array([a == architecture for a, _ in outcomes.models])
        some = dataclasses.replace(outcomes, where=outcomes.where & of_it[:, None])
        values = by_target(some, method, measure)
        found.append(np.where(some.where.sum(0) > 1, values, np.inf))  # a NaN is undefined
    stacked = np.stack(found)
    counted = stacked != np.inf
    total, count = np.where(counted, stacked, 0.0).sum(0), counted.sum(0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def without_model_effects(outcomes: Outcomes, method: str, measure: Measure) -> np.ndarray:
    """A measure of what is left once every model's own mean is taken away, (r, t).

    Scores and accuracies are standardised within each target, and each model's mean over its
    targets is subtracted from both: a selector that ranks models alike for all targets has nothing
    left. What remains is whether it knows which model suits which target.
    """

    def left(values: np.ndarray) -> np.ndarray:
        z = standardised(values, outcomes.where)
        count = np.maximum(outcomes.where.sum(1, keepdims=True), 1)
        mean = np.where(outcomes.where, z, 0.0).sum(1, keepdims=True) / count
        return np.asarray(z - mean)

    scores = np.stack([left(run) for run in outcomes.scores[method]])
    changed = dataclasses.replace(
        outcomes, accuracies=left(outcomes.accuracies), scores={method: scores}
    )
    return by_target(changed, method, measure)
