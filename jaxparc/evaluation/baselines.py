"""Scores that use no target image: the baselines that a selector has to beat."""

import warnings
from collections.abc import Mapping

import numpy as np

from jaxparc.evaluation.outcomes import Outcomes, standardised

# The methods that are computed from the accuracies on the other targets.
OF_OTHERS = ("others_mean", "best_source")


def others_mean(outcomes: Outcomes) -> np.ndarray:
    """Return the mean z-score of a model's accuracies on the other targets, (1, m, t).

    This baseline is available if the bank has been fine-tuned to other targets before; many
    selectors do not beat it. It is NaN for a model without an accuracy on any other target.
    """
    return _of_others(standardised(outcomes.accuracies, outcomes.where))


def best_source(outcomes: Outcomes) -> np.ndarray:
    """Return the mean z-score of a source over its architectures and other targets, (1, m, t)."""
    z = standardised(outcomes.accuracies, outcomes.where)
    found = np.full(z.shape, np.nan)
    for source in {source for _, source in outcomes.models}:
        rows = [i for i, model in enumerate(outcomes.models) if model[1] == source]
        found[rows] = _mean(z[rows], axis=0)
    return _of_others(found)


def depth(outcomes: Outcomes, layers: Mapping[str, float]) -> np.ndarray:
    """Return the number of layers of each model's architecture, (1, m, t).

    Raises:
        KeyError: an architecture is not in `layers`.
    """
    column = np.array([float(layers[architecture]) for architecture, _ in outcomes.models])
    return np.broadcast_to(column[:, None], (1, *outcomes.where.shape))


def capacity(
    outcomes: Outcomes, layers: Mapping[str, float], images: Mapping[str, float]
) -> np.ndarray:
    """Return the heuristic of eq. 4, (1, m, t): layers + log(source images + target images).

    Raises:
        KeyError: an architecture is not in `layers`, or a source or target is not in `images`.
    """
    source = np.array([float(images[source]) for _, source in outcomes.models])
    target = np.array([float(images[target]) for target in outcomes.targets])
    return depth(outcomes, layers) + np.log(source[:, None] + target)


def _of_others(values: np.ndarray) -> np.ndarray:
    """Return, for every entry of (m, t), the mean of the row's other entries, (1, m, t)."""
    columns = [_mean(np.delete(values, j, axis=1), axis=1) for j in range(values.shape[1])]
    return np.stack(columns, axis=1)[None]


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    with warnings.catch_warnings():  # the mean of no value is NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axis))
