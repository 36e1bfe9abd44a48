"""What a benchmark found, as the cells of tables.

PC is the Pearson correlation, times 100, of the scores and accuracies of one target's models; Mean
PC is its mean over targets. Spreads are sample standard deviations over probe sets, and are left
out where there is only one. An undefined number is printed as such, never as 0.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxparc import evaluation
from jaxparc.evaluation import SCRATCH, Transfer
from jaxparc.evaluation.summary import Summary
from jaxparc.selectors import method

UNDEFINED = "undefined (NaN)"


@dataclasses.dataclass(frozen=True)
class Results:
    """What the stages of a benchmark left behind.

    Attributes:
        name: of the benchmark.
        accuracies: percent, after full fine-tuning.
        scratch: (architecture, target) -> percent, from random initialisation; may be empty.
        scores: method label, such as "parc_f32+l" -> the scores of each probe set.
        milliseconds: method label -> per transfer, the extraction of features apart.
        stage_seconds: stage -> seconds.
        settings: shown as they are; "probe_images", if there, is the size of a probe set.
        versions: package, Python or device -> version.
        extra: targets that are shown and left out of Mean PC.
        order: names of architectures, sources and targets, as they are to be listed.
        titles: method label -> what it is called, of methods that are not this library's.
        summary: intervals, baselines and further measures; None if there are none.
        losses: of every training step, of transfers and (as a source) of scratch; may be empty.
    """

    name: str
    accuracies: Mapping[Transfer, float]
    scratch: Mapping[tuple[str, str], float]
    scores: Mapping[str, Sequence[Mapping[Transfer, float]]]
    milliseconds: Mapping[str, float]
    stage_seconds: Mapping[str, float]
    settings: Mapping[str, object]
    versions: Mapping[str, str]
    extra: Sequence[str] = ()
    order: Sequence[str] = ()
    titles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    summary: Summary | None = None
    losses: Mapping[Transfer, Sequence[float]] = dataclasses.field(default_factory=dict)

    def title(self, label: str) -> str:
        """What a method is called."""
        return self.titles.get(label) or method(label).title


class Spread(NamedTuple):
    """Mean and standard deviation over probe sets."""

    mean: float
    std: float

    def text(self, mean: str = "z.1f", std: str = ".1f") -> str:
        """Such as "71.2 ± 3.1", or "71.2" where one probe set leaves no deviation."""
        spread = "" if math.isnan(self.std) else f" ± {self.std:{std}}"
        return number(self.mean, mean) + spread


def correlations(results: Results, label: str) -> tuple[Spread, dict[str, Spread]]:
    """Mean PC of a method, and its PC of each target: the numbers of every table and plot.

    Raises:
        ValueError: a score has no accuracy.
    """
    runs = results.scores[label]

    def pc(runs: Sequence[Mapping[Transfer, float]]) -> Spread:
        with np.errstate(all="ignore"):  # infinite scores: undefined, as the tables say
            return spread_of([evaluation.mean_pc(run, results.accuracies) for run in runs])

    counted = [{t: run[t] for t in run if t.target not in results.extra} for run in runs]
    return pc(counted), {
        target: pc([{t: run[t] for t in run if t.target == target} for run in runs])
        for target in every("target", results)
    }


def accuracy_rows(results: Results) -> dict[str, dict[str, list[tuple[str, float | None]]]]:
    """Architecture -> source or scratch -> for each target a text and a shade.

    A shade goes from 0, the target's worst accuracy, to 1, its best; None without a number.
    """
    targets = every("target", results)
    scratch = {Transfer(a, SCRATCH, target): x for (a, target), x in results.scratch.items()}
    accuracies = {**results.accuracies, **scratch}

    def cell(transfer: Transfer) -> tuple[str, float | None]:
        if transfer not in accuracies:
            return ("–" if transfer.source == transfer.target else "missing"), None
        x = accuracies[transfer]
        if not math.isfinite(x):
            return number(x), None
        column = [x for t, x in accuracies.items() if t.target == transfer.target]
        low, *_, high = sorted([x, *filter(math.isfinite, column)])
        return number(x), (x - low) / (high - low) if high > low else 1.0

    rows: dict[str, dict[str, list[tuple[str, float | None]]]] = {}
    for architecture in every("architecture", results):
        for source in [*every("source", results), SCRATCH]:
            transfers = [Transfer(architecture, source, target) for target in targets]
            if any(t in accuracies for t in transfers):  # otherwise there is no such model
                rows.setdefault(architecture, {})[source] = [cell(t) for t in transfers]
    return rows


def selector_rows(
    results: Results, of_target: Callable[[Spread], str] = Spread.text
) -> tuple[list[str], list[list[str]]]:
    """The head and the rows of the table of methods, a row for each."""
    rows = []
    labels = plain(results)
    layered = len(labels) < len(results.scores)
    for label in labels:
        mean_pc, pcs = correlations(results, label)
        row = [results.title(label), mean_pc.text()]
        if layered:
            both = f"{label}+l"
            row.append(correlations(results, both)[0].text() if both in results.scores else "–")
        ms = results.milliseconds.get(label, math.nan)
        time = "not measured" if math.isnan(ms) else "< 0.01" if ms < 0.01 else f"{ms:,.2f}"
        rows.append(
            [*row, *map(of_target, pcs.values()), *([time] if results.milliseconds else [])]
        )
    head = ["method", "Mean PC", *(["+ layers"] if layered else []), *every("target", results)]
    return [*head, *(["ms/transfer"] if results.milliseconds else [])], rows


def model_name(transfer: Transfer) -> str:
    """Architecture and source, or the name that is all there is."""
    return ", ".join(part for part in transfer[:2] if part)


def plain(results: Results) -> list[str]:
    """The methods, those with "+ layers" only if they are not there without."""
    return [x for x in results.scores if not (x.endswith("+l") and x[:-2] in results.scores)]


def every(part: str, results: Results) -> list[str]:
    """The architectures, sources or targets, in the results' order or that of appearance."""
    names = dict.fromkeys(getattr(transfer, part) for transfer in results.accuracies)
    place = {name: i for i, name in enumerate(dict.fromkeys(results.order))}
    return sorted(names, key=lambda name: place.get(name, len(place)))


def probe_sets(results: Results) -> str:
    """How many there are, in words."""
    counts = sorted({len(runs) for runs in results.scores.values()} or {0})
    text = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return "1 probe set" if text == "1" else f"{text} probe sets"


def over(results: Results) -> str:
    """What a number is the mean of, in words."""
    sets = probe_sets(results)
    text = f"of {sets}" if sets == "1 probe set" else f"mean ± standard deviation over {sets}"
    return text + (f"; Mean PC without {', '.join(results.extra)}" if results.extra else "")


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    with np.errstate(invalid="ignore"):  # infinite values
        mean = float(np.mean(values)) if len(values) else math.nan
        return Spread(mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


def number(value: float, digits: str = "z.1f") -> str:
    """A number as a table prints it."""
    return UNDEFINED if math.isnan(value) else f"{value:{digits}}"
