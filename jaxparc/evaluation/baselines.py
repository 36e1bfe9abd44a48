"""Scores that look at no target image: what a selector has to beat."""

import warnings
from collections.abc import Mapping

import numpy as np

from jaxparc.evaluation.outcomes import Outcomes, standardised

# Methods made of the accuracies on the other targets.
OF_OTHERS = ("others_mean", "best_source")


def others_mean(outcomes: Outcomes) -> np.ndarray:
    """The mean z-score of a model's accuracies on the other targets, (1, m, t).

    What one knows of a bank that was fine-tuned before: no selector that knows less about the new
    target should win against it, and many do not. NaN of a model that no other target has.
    """
    return _of_others(standardised(outcomes.accuracies, outcomes.where))


def best_source(outcomes: Outcomes) -> np.ndarray:
    """The mean, over its architectures and the other targets, of a source's z-scores, (1, m, t)."""
    z = standardised(outcomes.accuracies, outcomes.where)
    found = np.full(z.shape, np.nan)
    for source in {source for _, source in outcomes.models}:
        rows = [i for i, model in enumerate(outcomes.models) if model[1] == source]
        found[rows] = _mean(z[rows], axis=0)
    return _of_others(found)


def depth(outcomes: Outcomes, layers: Mapping[str, float]) -> np.ndarray:
    """The number of layers of each model's architecture, (1, m, t).

    Raises:
      KeyError: an architecture is not in `layers`.
    """
    column = np.array([float(layers[architecture]) for architecture, _ in outcomes.models])
    return np.broadcast_to(column[:, None], (1, *outcomes.where.shape))


def capacity(
    outcomes: Outcomes, layers: Mapping[str, float], images: Mapping[str, float]
) -> np.ndarray:
    """The heuristic of eq. 4: layers, and the logarithm of the images of both sets, (1, m, t).

    Raises:
      KeyError: an architecture is not in `layers`, or a source or target not in `images`.
    """
    source = np.array([float(images[source]) for _, source in outcomes.models])
    target = np.array([float(images[target]) for target in outcomes.targets])
    return depth(outcomes, layers) + np.log(source[:, None] + target)


def _of_others(values: np.ndarray) -> np.ndarray:
    """Of every target, the mean of each row's other columns; (1, m, t)."""
    columns = [_mean(np.delete(values, j, axis=1), axis=1) for j in range(values.shape[1])]
    return np.stack(columns, axis=1)[None]


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    with warnings.catch_warnings():  # of nothing: NaN
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axis))
