"""How well scores predict accuracy after fine-tuning.

Here, Mean PC as the paper has it. `measures` are further numbers, `outcomes` the arrays that they
are taken of, `resampling` their intervals and tests, `baselines` what a selector has to beat,
`controls` what it knows beyond that, and `summary` all of it for every method.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxparc.errors import InputError
from jaxparc.evaluation.measures import MEASURES as MEASURES


class Transfer(NamedTuple):
    """One fine-tuning: a pretrained model is an architecture and the source it was trained on."""

    architecture: str
    source: str
    target: str


SCRATCH = "scratch"  # stands where a source would: random initialisation

# What a correlation runs over -> what stays fixed in each.
VARYING: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "source and architecture": ("target",),
        "architecture": ("source", "target"),
        "source": ("architecture", "target"),
        "target": ("architecture", "source"),
    }
)


def mean_pc(
    scores: Mapping[Transfer, float],
    accuracies: Mapping[Transfer, float],
    varying: str = "source and architecture",
) -> float:
    """Mean Pearson correlation of scores and accuracies (the paper, eq. 2 and 5).

    Args:
        scores: of the transfers to evaluate; each must have an accuracy.
        accuracies: after full fine-tuning, any unit.
        varying: a key of `VARYING`. Everything else is held fixed, and the mean is over the fixed
            combinations.

    Returns:
        In [-100, 100]. NaN if any correlation is undefined: a score is NaN, or one combination has
        fewer than two transfers, or all its scores or all its accuracies are equal.

    Raises:
        ValueError: `varying` is unknown, or a score has no accuracy.
    """
    if varying not in VARYING:
        raise InputError(f"unknown varying {varying!r}; known: {', '.join(VARYING)}")
    groups: dict[tuple[str, ...], list[Transfer]] = {}
    for transfer in scores:
        if transfer not in accuracies:
            raise InputError(f"there is a score but no accuracy for {'/'.join(transfer)}")
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
