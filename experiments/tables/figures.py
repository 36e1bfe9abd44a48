"""Draw figures with matplotlib, as SVG and PNG files."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxparc import files, printing, selectors
from jaxparc.evaluation.measures import MEASURES
from jaxparc.evaluation.summary import Summary
from jaxparc.report.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKS = "osD^vP*X"
_GREY = "0.4"  # replaces "currentColor", the last of COLOURS


class Point(NamedTuple):
    """One method at one value of a sweep, on one probe set.

    Attributes:
        value: number of images or of dimensions (0 for no PCA), or index of an architecture.
        method: label without the dimension.
        run: number of the probe set.
        mean_pc: Mean PC in [-100, 100]; NaN if undefined.
        milliseconds: milliseconds per transfer, without feature extraction, in a call that
            compiles nothing.
    """

    value: int
    method: str
    run: int
    mean_pc: float
    milliseconds: float


def probe_size(points: Sequence[Point], path: Path) -> None:
    """Draw figure 1: relative Mean PC, and time, against the number of probe images."""
    figure, (left, right) = _panels(2)
    values = sorted({p.value for p in points})
    for method, style in _styles(points).items():
        means = np.array([_mean(points, method, v) for v in values])
        with np.errstate(invalid="ignore", divide="ignore"):  # the divisor may be 0 or NaN
            left.plot(values, 100 * means[:, 0] / means[-1, 0], **style)
        right.plot(values, means[:, 1], **style)
    left.set(xlabel="probe images", ylabel=f"Mean PC, % of that with {values[-1]}")
    right.set(xlabel="probe images", ylabel="ms per transfer", yscale="log")
    left.legend(fontsize="small")
    save(figure, path)


def pca(points: Sequence[Point], path: Path) -> None:
    """Draw figure 2: Mean PC against PCA dimensions (a), and without PCA and with f = 32 (b)."""
    figure, (left, right) = _panels(2)
    values = sorted({p.value for p in points} - {0})
    styles = _styles(points)
    for method, style in styles.items():
        left.plot(values, [_mean(points, method, v)[0] for v in values], **style)
    left.set(xlabel="PCA dimensions", ylabel="Mean PC", xscale="log")
    left.set_xticks(values, list(map(str, values)))
    left.minorticks_off()
    left.legend(fontsize="small")
    places = np.arange(len(styles))
    for j, (value, label) in enumerate(((0, "without PCA"), (32, "f = 32"))):
        heights = [_mean(points, method, value)[0] for method in styles]
        right.bar(places + 0.4 * j - 0.2, heights, 0.4, label=label, color=COLOURS[j])
    right.set(ylabel="Mean PC")
    right.set_xticks(places, [style["label"] for style in styles.values()], rotation=30)
    right.legend(fontsize="small")
    save(figure, path)


def intervals(summary: Summary, title: Callable[[str], str], path: Path) -> None:
    """Draw every method's Mean PC with its 95 % interval, and the band of random orders."""
    figure, (panel,) = _panels(1)
    cells = summary.cells["pearson"]
    band = summary.chance["pearson"]
    panel.axvspan(100 * band.low, 100 * band.high, color="0.9", label="95 % of random orders")
    for i, cell in enumerate(cells.values()):
        value, low, high = (100 * x for x in cell.interval[:3])
        if not math.isnan(value):
            panel.plot([low, high], [-i, -i], color=COLOURS[0])
            panel.plot([value], [-i], "o", color=COLOURS[0])
    panel.set(xlabel="Mean PC and its 95 % interval")
    panel.set_yticks(-np.arange(len(cells)), [_as_is(title(m)) for m in cells])
    panel.legend(fontsize="small")
    save(figure, path)


def scatter(summary: Summary, method: str, title: Callable[[str], str], path: Path) -> None:
    """Draw accuracies against a method's scores, the mean over probe sets, for every target."""
    outcomes = summary.outcomes
    figure, panels = _panels(len(outcomes.targets), height=3.2)
    scores = outcomes.scores[method].mean(0)
    names = list(dict.fromkeys(architecture for architecture, _ in outcomes.models))
    for j, (target, panel) in enumerate(zip(outcomes.targets, panels, strict=True)):
        for i, name in enumerate(names):
            rows = [k for k, (a, _) in enumerate(outcomes.models) if a == name]
            rows = [k for k in rows if outcomes.where[k, j]]
            colour = (*COLOURS[:-1], _GREY)[i % len(COLOURS)]
            style = {"marker": _MARKS[i % len(_MARKS)], "color": colour, "label": _as_is(name)}
            panel.scatter(scores[rows, j], outcomes.accuracies[rows, j], s=20, **style)
        pc = MEASURES["pearson"].scale * summary.cells["pearson"][method].targets[j]
        panel.set(title=f"{_as_is(target)}: PC {pc:.1f}")
        panel.set(xlabel=_as_is(title(method)), ylabel="accuracy (%)")
    if len(names) <= 12:
        panels[0].legend(fontsize="small")
    save(figure, path)


def accuracies(summary: Summary, path: Path) -> None:
    """Draw a heat map of accuracies, models by targets; darker is better within a target."""
    outcomes = summary.outcomes
    m, t = outcomes.accuracies.shape
    figure, (panel,) = _panels(1, height=1.5 + 0.2 * m)
    values = np.where(outcomes.where, outcomes.accuracies, np.nan)
    low, high = (f(values, axis=0) for f in (np.nanmin, np.nanmax))
    shades = (values - low) / np.where(high > low, high - low, 1)
    panel.imshow(shades, aspect="auto", cmap="Blues", vmin=0, vmax=1.6)  # light enough for the text
    for i, j in np.argwhere(outcomes.where):
        panel.text(j, i, f"{values[i, j]:.1f}", ha="center", va="center", fontsize="x-small")
    names = [_as_is(", ".join(filter(None, model))) for model in outcomes.models]
    panel.set_yticks(np.arange(m), names, fontsize="x-small")
    panel.set_xticks(np.arange(t), list(map(_as_is, outcomes.targets)), rotation=30)
    panel.set(title="accuracy (%)")
    save(figure, path)


def save(figure: "Figure", path: Path) -> None:
    """Write PATH.svg and PATH.png, each atomically."""
    for suffix in ("svg", "png"):
        with files.replacing(path.with_name(f"{path.name}.{suffix}")) as temporary:
            figure.savefig(temporary, format=suffix)


def _panels(count: int, height: float = 4.0) -> tuple["Figure", list[Any]]:
    """Return a figure with panels, at most three in a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 3)
    rows = -(-count // columns)
    size = (5 * columns if count > 1 else 7, height * rows)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels[count:]:
        panel.set_axis_off()
    return figure, panels[:count]


def _styles(points: Sequence[Point]) -> Mapping[str, dict[str, Any]]:
    return {
        method: {
            "marker": _MARKS[i % len(_MARKS)],
            "label": selectors.method(method).title,
            "color": f"C{i}",
        }
        for i, method in enumerate(dict.fromkeys(p.method for p in points))
    }


def _mean(points: Sequence[Point], method: str, value: int) -> tuple[float, float]:
    """Return Mean PC and milliseconds averaged over probe sets; NaN if there is no point."""
    chosen = [p for p in points if (p.method, p.value) == (method, value)]
    if not chosen:
        return math.nan, math.nan
    mean_pc, milliseconds = np.mean([[p.mean_pc, p.milliseconds] for p in chosen], axis=0)
    return float(mean_pc), float(milliseconds)


def _as_is(name: str) -> str:
    """Return a name escaped for matplotlib, without control characters or mathtext."""
    return printing.visible(name).replace("$", r"\$")
