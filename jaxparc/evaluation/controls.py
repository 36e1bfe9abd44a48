"""Scores after removing, or adding, the effects of depth and of general model quality."""

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
    """Return standardised scores plus relative depth (the paper, eq. 6), (r, m, t).

    Args:
        outcomes: the scores, and the transfers to evaluate.
        method: a key of `outcomes.scores`.
        layers: architecture -> number of layers.
        pooled: standardise over all targets and probe sets at once, as the authors did for their
            published numbers. Otherwise each target and probe set is standardised separately, as
            in the equation.
        ell_max: number of layers with relative depth 1.

    Returns:
        (r, m, t) float64; NaN where a score is undefined or all scores standardised with it are
        equal.

    Raises:
        KeyError: an architecture is not in `layers`.
    """
    scores = outcomes.scores[method]
    defined = np.where(outcomes.where & np.isfinite(scores), scores, np.nan)
    axes = (0, 1, 2) if pooled else 1
    count = np.isfinite(defined).sum(axes, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.nansum(defined, axes, keepdims=True) / count
        deviation = np.sqrt(np.nansum((defined - mean) ** 2, axes, keepdims=True) / count)
        z = np.where(deviation > 0, (defined - mean) / deviation, np.nan)
    depth = np.array([float(layers[architecture]) for architecture, _ in outcomes.models])
    return np.asarray(z + (depth / ell_max)[:, None])


def within_architectures(outcomes: Outcomes, method: str, measure: Measure) -> np.ndarray:
    """Return a measure within each architecture, averaged over architectures, (r, t).

    For Pearson's correlation, the mean over targets is the paper's Mean PC with varying sources
    (eq. 5). Architectures with fewer than two models for a target are left out. The result is NaN
    if the measure is undefined for any of the others.
    """
    found = []
    for architecture in dict.fromkeys(a for a, _ in outcomes.models):
        of_it = np.array([a == architecture for a, _ in outcomes.models])
        some = dataclasses.replace(outcomes, where=outcomes.where & of_it[:, None])
        values = by_target(some, method, measure)
        found.append(np.where(some.where.sum(0) > 1, values, np.inf))  # NaN stays undefined
    stacked = np.stack(found)
    counted = stacked != np.inf
    total, count = np.where(counted, stacked, 0.0).sum(0), counted.sum(0)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def without_model_effects(outcomes: Outcomes, method: str, measure: Measure) -> np.ndarray:
    """Return a measure after removing each model's mean over targets, (r, t).

    Scores and accuracies are standardised within each target, then each model's mean over targets
    is subtracted from both. A selector that ranks models the same way for all targets retains no
    correlation; the rest measures whether a selector knows which model suits which target.
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
