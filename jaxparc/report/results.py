"""The results of a benchmark, and the cells of the tables that show them.

PC is the Pearson correlation, times 100, of the scores and accuracies of one target's models; Mean
PC is its mean over targets. Spreads are sample standard deviations over probe sets, and are omitted
for a single probe set. An undefined number is printed as `UNDEFINED`, never as 0.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxparc import evaluation
from jaxparc.evaluation import SCRATCH, Transfer
from jaxparc.evaluation.summary import Summary
from jaxparc.printing import count, some
from jaxparc.selectors import method

UNDEFINED = "undefined (NaN)"


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of a benchmark.

    Attributes:
        name: name of the benchmark.
        accuracies: accuracies after full fine-tuning, in percent.
        scratch: (architecture, target) -> accuracy from random initialisation, in percent; may be
            empty.
        scores: method label, such as "parc_f32+l" -> the scores on each probe set.
        milliseconds: method label -> milliseconds per transfer, without feature extraction.
        stage_seconds: stage -> seconds.
        settings: name -> value, printed unchanged; "probe_images", if present, is the size of a
            probe set.
        versions: package, Python or device -> version.
        extra: targets that are shown but not part of Mean PC.
        order: names of architectures, sources and targets in display order.
        titles: method label -> title, for methods that are not in this library.
        summary: intervals, baselines and further measures; None if there are no scores.
        losses: transfer -> training loss of every step; random initialisations have the source
            `SCRATCH`; may be empty.
        unavailable: transfers without an accuracy, such as those whose runs all diverged.
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
    unavailable: Sequence[Transfer] = ()

    def title(self, label: str) -> str:
        """Return the title of a method."""
        return self.titles.get(label) or method(label).title


class Spread(NamedTuple):
    """Mean and standard deviation over probe sets."""

    mean: float
    std: float

    def text(self, mean: str = "z.1f", std: str = ".1f") -> str:
        """Return text such as "71.2 ± 3.1", or "71.2" for a single probe set."""
        spread = "" if math.isnan(self.std) else f" ± {self.std:{std}}"
        return number(self.mean, mean) + spread


def correlations(results: Results, label: str) -> tuple[Spread, dict[str, Spread]]:
    """Return the Mean PC of a method and its PC per target, for all tables and plots.

    Raises:
        InputError: a score has no accuracy.
    """
    runs = results.scores[label]

    def pc(runs: Sequence[Mapping[Transfer, float]]) -> Spread:
        with np.errstate(all="ignore"):  # infinite scores are undefined
            return spread_of([evaluation.mean_pc(run, results.accuracies) for run in runs])

    counted = [{t: run[t] for t in run if t.target not in results.extra} for run in runs]
    return pc(counted), {
        target: pc([{t: run[t] for t in run if t.target == target} for run in runs])
        for target in every("target", results)
    }


def accuracy_rows(results: Results) -> dict[str, dict[str, list[tuple[str, float | None]]]]:
    """Return architecture -> source or scratch -> the text and shade of each target's cell.

    A shade is in [0, 1], from the target's worst accuracy to its best; None if the cell has no
    number.
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
            if any(t in accuracies for t in transfers):  # otherwise the bank has no such model
                rows.setdefault(architecture, {})[source] = [cell(t) for t in transfers]
    return rows


def selector_rows(
    results: Results, of_target: Callable[[Spread], str] = Spread.text
) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the table of methods."""
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
    """Return architecture and source, or the name alone if there is no source."""
    return ", ".join(part for part in transfer[:2] if part)


def unavailable(results: Results) -> str:
    """Return a sentence that counts and names the transfers without an accuracy; "" for none."""
    if not (lost := results.unavailable):
        return ""
    names = [f"{' '.join(filter(None, t[:2]))} to {t.target}" for t in lost]
    return f"{count(len(lost), 'transfer')} without an accuracy: {some(names, 3)}"


def plain(results: Results) -> list[str]:
    """Return the methods, without the "+ layers" variants of other methods."""
    return [x for x in results.scores if not (x.endswith("+l") and x[:-2] in results.scores)]


def every(part: str, results: Results, transfers: Iterable[Transfer] | None = None) -> list[str]:
    """Return the architectures, sources or targets, in display order, then by appearance.

    Args:
        part: the field of a transfer.
        results: the results.
        transfers: those whose parts to list; by default, those with an accuracy.
    """
    transfers = results.accuracies if transfers is None else transfers
    names = dict.fromkeys(getattr(transfer, part) for transfer in transfers)
    place = {name: i for i, name in enumerate(dict.fromkeys(results.order))}
    return sorted(names, key=lambda name: place.get(name, len(place)))


def probe_sets(results: Results) -> str:
    """Return the number of probe sets, and of their images where it is known, in words.

    The result is "" for one set of unknown size, as of scores that were not computed from images.
    """
    counts = sorted({len(runs) for runs in results.scores.values()} or {0})
    images = results.settings.get("probe_images")
    if counts[-1] <= 1 and images is None:
        return ""
    text = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    sets = "1 probe set" if text == "1" else f"{text} probe sets"
    each = "" if images is None else f" of {images} images{'' if text == '1' else ' each'}"
    return f"{sets}{each}"


def over(results: Results) -> str:
    """Return a description of the probe sets and targets that a table averages over."""
    parts = []
    if any(len(runs) > 1 for runs in results.scores.values()):
        parts.append(f"mean ± standard deviation over {probe_sets(results)}")
    elif sets := probe_sets(results):
        parts.append(f"of {sets}")
    if results.extra:
        parts.append(f"Mean PC without {', '.join(results.extra)}")
    return "; ".join(parts)


def spread_of(values: Sequence[float]) -> Spread:
    """Return mean and sample standard deviation, NaN where undefined."""
    with np.errstate(invalid="ignore"):  # infinite values
        mean = float(np.mean(values)) if len(values) else math.nan
        return Spread(mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


def number(value: float, digits: str = "z.1f") -> str:
    """Return a number as tables print it."""
    return UNDEFINED if math.isnan(value) else f"{value:{digits}}"
