"""Measure how well scores predict the accuracy after fine-tuning.

This module has Mean PC as the paper defines it. `outcomes` holds scores and accuracies as arrays,
`measures` has measures of agreement between them, `resampling` intervals and tests, `baselines` the
scores that a selector has to beat, `controls` scores after removing the effects of depth and of
general model quality, and `summary` all of these for every method.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxparc.errors import InputError
from jaxparc.evaluation.measures import MEASURES as MEASURES


class Transfer(NamedTuple):
    """One fine-tuning run: a pretrained model (architecture, source) and its target."""

    architecture: str
    source: str
    target: str


SCRATCH = "scratch"  # the source of a random initialisation

VARYING: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "source and architecture": ("target",),
        "architecture": ("source", "target"),
        "source": ("architecture", "target"),
        "target": ("architecture", "source"),
    }
)
"""The parts of a transfer that vary within a correlation -> the parts that are fixed."""


def mean_pc(
    scores: Mapping[Transfer, float],
    accuracies: Mapping[Transfer, float],
    varying: str = "source and architecture",
) -> float:
    """Return the mean Pearson correlation of scores and accuracies (the paper, eq. 2 and 5).

    Args:
        scores: of the transfers to evaluate; larger is better, NaN if undefined.
        accuracies: after full fine-tuning, in any unit; of at least the transfers in `scores`.
        varying: a key of `VARYING`. Everything else is fixed within a correlation, and the mean is
            over the fixed combinations.

    Returns:
        In [-100, 100]. NaN if there is no score or any correlation is undefined: a score or an
        accuracy is NaN, there are fewer than two transfers, or all of its scores or all of its
        accuracies are equal.

    Raises:
        InputError: `varying` is unknown, or a score has no accuracy.

    Examples:
        >>> a, b, c = (Transfer("resnet50", source, "pets") for source in ("dogs", "cars", "birds"))
        >>> round(mean_pc({a: 12.0, b: 4.0, c: 9.0}, {a: 91.0, b: 85.0, c: 86.0}), 1)
        87.2
    """
    if varying not in VARYING:
        raise InputError(f"unknown varying {varying!r}; known: {', '.join(VARYING)}")
    groups: dict[tuple[str, ...], list[Transfer]] = {}
    for transfer in scores:
        if transfer not in accuracies:
            raise InputError(f"no accuracy for {'/'.join(transfer)}, which has a score")
        fixed = tuple(getattr(transfer, part) for part in VARYING[varying])
        groups.setdefault(fixed, []).append(transfer)
    if not groups:
        return float("nan")
    return 100.0 * float(
        np.mean(
            [_pearson([scores[t] for t in g], [accuracies[t] for t in g]) for g in groups.values()]
        )
    )


def _pearson(a: list[float], b: list[float]) -> float:
    if len(set(a)) < 2 or len(set(b)) < 2:
        return float("nan")
    x = np.asarray(a, np.float64) - np.mean(a)
    y = np.asarray(b, np.float64) - np.mean(b)
    return float(np.clip(np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y)), -1.0, 1.0))
