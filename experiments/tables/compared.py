"""Tables that compare methods and baselines: measures with intervals, and Pearson by probe set."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxparc.evaluation import outcomes, resampling
from jaxparc.evaluation.measures import MEASURES
from jaxparc.evaluation.outcomes import Outcomes
from jaxparc.evaluation.resampling import Interval
from jaxparc.report.results import number
from jaxparc.report.sheets import Sheet

COLUMNS = ("pearson", "weighted_tau", "regret1")  # the table is sorted by the first
RANDOM = "a random order"
_TIMES = (
    " Milliseconds are per model, scored by this method alone, without feature extraction, in "
    "a call that compiles nothing."
)


def part(found: Outcomes, method: str, without: Mapping[str, Sequence[str]]) -> Outcomes:
    """Return the outcomes of one method, without the models that it does not score.

    Args:
        found: all outcomes.
        method: a key of `found.scores`.
        without: method -> names of models that it does not score.
    """
    left = without.get(method, ())
    models = [model for model in found.models if model[0] not in left]
    one = dataclasses.replace(found, scores={method: found.scores[method]})
    return one.only(models=models)


def measured(
    found: Outcomes, without: Mapping[str, Sequence[str]], resamples: int, seed: int = 0
) -> dict[str, dict[str, Interval]]:
    """Return method -> measure of `COLUMNS` -> value and interval, best method first.

    Args:
        found: the outcomes, baselines included.
        without: method -> names of models that it does not score.
        resamples: number of resamples of models, targets and probe sets.
        seed: seed of the resamples.
    """
    rows = {}
    for method in found.scores:
        one = part(found, method, without)
        draws = resampling.draw(one, resamples, seed)
        rows[method] = {
            name: resampling.compare(one, MEASURES[name], draws)[0][method] for name in COLUMNS
        }

    def place(method: str) -> tuple[bool, float]:
        value = rows[method][COLUMNS[0]].value
        return math.isnan(value), -value

    return {method: rows[method] for method in sorted(rows, key=place)}


def comparison(
    found: Outcomes,
    title: Callable[[str], str],
    *,
    heading: str,
    without: Mapping[str, Sequence[str]],
    milliseconds: Mapping[str, float],
    resamples: int,
) -> Sheet:
    """Return a table with a row per method: every measure of `COLUMNS` with its interval, and time.

    Args:
        found: the outcomes, baselines included.
        title: method -> title.
        heading: title of the table.
        without: method -> names of models that it does not score.
        milliseconds: method -> milliseconds per model, without feature extraction; empty for none.
        resamples: number of resamples of every interval.
    """

    def time(method: str) -> list[str]:
        cell = f"{milliseconds[method]:.1f}" if method in milliseconds else ""
        return [cell] if milliseconds else []

    rows = []
    for method, cells in measured(found, without, resamples).items():
        named = f" (without {', '.join(without[method])})" if without.get(method) else ""
        rows.append((f"{title(method)}{named}", *_cells(cells), *time(method)))
    chance = {name: resampling.chance(found, MEASURES[name], resamples) for name in COLUMNS}
    rows.append((RANDOM, *_cells(chance), *time(RANDOM)))
    head = [cell for name in COLUMNS for cell in (MEASURES[name].title, "95 %")]
    notes = [
        "Means over targets and their probe sets. PC (Pearson correlation) and weighted tau are "
        "times 100; regret@1 is in points of accuracy, smaller is better. Intervals of "
        f"{resamples:,} resamples of models, targets and probe sets; that of a random order, the "
        "same for all targets, holds 95 % of orders." + _TIMES * bool(milliseconds),
        *undefined(found, title, without),
    ]
    return Sheet(
        heading,
        ("method", *head, *(["ms/model"] if milliseconds else [])),
        tuple(rows),
        tuple(notes),
    )


def by_probe_set(
    found: Outcomes,
    title: Callable[[str], str],
    *,
    heading: str,
    without: Mapping[str, Sequence[str]],
    sets: Mapping[str, tuple[str, int]],
    order: Sequence[str],
) -> Sheet:
    """Return a table of Pearson's correlation, times 100, per method and probe set.

    Args:
        found: the outcomes, baselines included.
        title: method -> title.
        heading: title of the table.
        without: method -> names of models that it does not score.
        sets: name of a probe set -> its target and its place among those of the target.
        order: the methods, in the order of the rows.
    """
    rows = []
    for method in order:
        values = outcomes.by_target(part(found, method, without), method, MEASURES["pearson"])
        cells = (
            values[k % len(values), found.targets.index(target)] for target, k in sets.values()
        )
        rows.append((title(method), *(number(100 * float(value)) for value in cells)))
    return Sheet(heading, ("method", *sets), tuple(rows))


def undefined(
    found: Outcomes, title: Callable[[str], str], without: Mapping[str, Sequence[str]]
) -> list[str]:
    """Return a sentence for every method with undefined scores, which names the models."""
    notes = []
    for method in found.scores:
        one = part(found, method, without)
        missing = (~np.isfinite(one.scores[method]) & one.where).any((0, 2))
        if missing.any():
            names = ("/".join(filter(None, one.models[i])) for i in np.flatnonzero(missing))
            notes.append(f"{title(method)} is undefined for {', '.join(names)}.")
    return notes


def _cells(intervals: Mapping[str, Interval]) -> list[str]:
    cells = []
    for name in COLUMNS:
        scale, found = MEASURES[name].scale, intervals[name]
        cells.append(number(scale * found.value))
        band = f"{scale * found.low:z.1f} to {scale * found.high:z.1f}"
        cells.append("–" if math.isnan(found.low) else band)
    return cells
