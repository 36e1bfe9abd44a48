"""Plots of the page as SVG, with escaped names."""

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from jaxparc.evaluation import SCRATCH, Transfer
from jaxparc.evaluation.measures import MEASURES
from jaxparc.evaluation.summary import Summary
from jaxparc.printing import count, html
from jaxparc.report.results import Results, Spread, every, model_name

# The palette of Okabe and Ito, which colour-blind readers can distinguish, and the colour of text.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "currentColor")
# Marks of about the same area, centred on the origin.
SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",  # circle
    "M-4.5-4.5h9v9h-9z",  # square
    "M0-6L5.6 4H-5.6z",  # triangle
    "M0-6.5L6.5 0 0 6.5-6.5 0z",  # diamond
    "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",  # plus
    "M0 6L5.6-4H-5.6z",  # triangle, upside down
    "M0-2.8L3.2-6 6-3.2 2.8 0 6 3.2 3.2 6 0 2.8-3.2 6-6 3.2-2.8 0-6-3.2-3.2-6z",  # cross
    "M-5.5-6h11L1.5 0 5.5 6h-11L-1.5 0z",  # hourglass
)


def scatter(results: Results, scores: Mapping[Transfer, Spread], x_name: str, y_name: str) -> str:
    """Return a plot of scores against accuracies: a mark per model, with its name as tooltip."""
    bars = {t: 0.0 if math.isnan(score.std) else score.std for t, score in scores.items()}
    ends = [score.mean + sign * bars[t] for t, score in scores.items() for sign in (-1, 1)]
    place_x, x_ticks = axis(ends, LEFT, RIGHT)
    place_y, y_ticks = axis([results.accuracies[t] for t in scores], BOTTOM, TOP)
    parts = []
    for t, score in scores.items():
        colour = COLOURS[every("architecture", results).index(t.architecture) % len(COLOURS)]
        shape = SHAPES[every("source", results).index(t.source) % len(SHAPES)]
        x, y = place_x(score.mean), place_y(results.accuracies[t])
        low, high = place_x(score.mean - bars[t]), place_x(score.mean + bars[t])
        name = f"{model_name(t)}: score {score.text('.4g', '.2g')}"
        parts.append(
            f"<g><title>{html(name)}, accuracy {results.accuracies[t]:.1f}%</title>"
            f'<path stroke="{colour}" d="M{low:.1f} {y:.1f}H{high:.1f}"/>'
            f'<path class="mark" fill="{colour}" stroke="{colour}" d="{shape}" '
            f'transform="translate({x:.1f} {y:.1f})"/></g>'
        )
    about = f"Scatter plot of {count(len(scores), 'model')}"
    return framed(about, parts, (x_name, x_ticks), (y_name, y_ticks))


def curves(losses: Mapping[Transfer, Sequence[float]], architectures: Sequence[str]) -> str:
    """Return a plot of training losses against steps: a line per model, its name as tooltip.

    A line has at most 50 points, each the mean of successive steps.

    Args:
        losses: transfer -> the loss of every step.
        architectures: their architectures, and perhaps others, in the order of the colours.
    """
    lines = {}
    for t, of_steps in losses.items():
        every_ = -(-len(of_steps) // 50) or 1
        chunks = [of_steps[i : i + every_] for i in range(0, len(of_steps), every_)]
        middle = np.cumsum([0, *map(len, chunks)])[:-1] + np.array(list(map(len, chunks))) / 2
        lines[t] = list(zip(middle.tolist(), (float(np.mean(c)) for c in chunks), strict=True))
    place_x, x_ticks = axis([0, max(map(len, losses.values()), default=1)], LEFT, RIGHT)
    place_y, y_ticks = axis([0, *(y for line in lines.values() for _, y in line)], BOTTOM, TOP)
    parts = []
    for t, line in lines.items():
        colour = COLOURS[architectures.index(t.architecture) % len(COLOURS)]
        path = "L".join(f"{place_x(x):.1f} {place_y(y):.1f}" for x, y in line)
        dashes = ' stroke-dasharray="4 3"' if t.source == SCRATCH else ""
        parts.append(
            f"<g><title>{html(model_name(t))}: {line[-1][1]:.3g} at the end</title>"
            f'<path fill="none" stroke="{colour}" stroke-width="1.5"{dashes} d="M{path}"/></g>'
        )
    about = f"Curves of {count(len(lines), 'training run')}"
    return framed(about, parts, ("step", x_ticks), ("loss", y_ticks))


NAME = 22  # characters in a line of a method's name, in `intervals`

# Edges of a plot with axes, in pixels.
LEFT, RIGHT, TOP, BOTTOM = 48, 348, 10, 246
Axis: TypeAlias = tuple[str, list[tuple[float, str]]]


def framed(about: str, parts: Sequence[str], across: Axis, up: Axis) -> str:
    """Return parts drawn on a grid with axes; an axis is a name, and pixels and texts of ticks."""
    grid = [
        f'<path class="grid" d="M{x:.1f} {TOP}V{BOTTOM}"/>'
        f'<text x="{x:.1f}" y="{BOTTOM + 16}">{text}</text>'
        for x, text in across[1]
    ] + [
        f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        for y, text in up[1]
    ]
    x_name, y_name = html(across[0]), html(up[0])
    return f"""<svg role="img" viewBox="0 0 360 286" text-anchor="middle"
aria-label="{about}: {y_name} against {x_name}">
{"".join([*grid, *parts])}
<text x="{(LEFT + RIGHT) / 2}" y="{BOTTOM + 34}">{x_name}</text>
<text transform="translate(12 {(TOP + BOTTOM) / 2}) rotate(-90)">{y_name}</text></svg>"""


def axis(
    values: Sequence[float], start: float, stop: float
) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """Return the map from values to pixels, and the pixels and texts of ticks at round numbers."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low <= 1e-9 * abs(high):
        low, high = low - (0.1 * abs(low) or 1.0), high + (0.1 * abs(high) or 1.0)
    power = 10.0 ** math.floor(math.log10((high - low) / 5))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= (high - low) / 5.001)
    ticks = step * np.arange(math.floor(low / step), math.ceil(high / step) + 1)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))

    def place(value: float) -> float:
        return float(start + (stop - start) * (value - ticks[0]) / (ticks[-1] - ticks[0]))

    return place, [(place(tick), f"{tick:z,.{decimals}f}") for tick in ticks]


def log_axis(
    values: Sequence[float], start: float, stop: float
) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """Return what `axis` returns, on a logarithmic scale of values above 0; ticks are 1, 2, 5."""
    low, high = min(values), max(values)
    marks = [
        m * 10.0**power
        for power in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
        for m in (1, 2, 5)
    ]
    first = max(mark for mark in marks if mark < low)
    last = next((mark for mark in marks if mark > high), 2 * marks[-1])
    span = math.log(last / first)

    def place(value: float) -> float:
        return start + (stop - start) * math.log(value / first) / span

    ticks = [mark for mark in marks if first <= mark <= last]
    if len(ticks) > 7:  # decades alone
        ticks = [mark for mark in ticks if math.log10(mark).is_integer()]
    return place, [(place(tick), f"{tick:,.10g}") for tick in ticks]


def intervals(summary: Summary, measure: str, title: Callable[[str], str]) -> str:
    """Return a plot of methods with 95 % intervals, drawn over the band of random orders."""
    known = MEASURES[measure]
    cells = {m: c for m, c in summary.cells[measure].items() if not math.isnan(c.interval.value)}
    band = summary.chance[measure]
    ends = [known.scale * x for c in (*(c.interval for c in cells.values()), band) for x in c[1:3]]
    names = {method: textwrap.wrap(title(method), NAME) or [""] for method in cells}
    left = 12 + 7 * max((len(line) for lines in names.values() for line in lines), default=0)
    right, row = left + 260, 30
    place, ticks = axis([x for x in ends if not math.isnan(x)], left, right)
    bottom = row * len(cells) + 8
    low, high = (place(known.scale * x) for x in band[1:3])
    shade = f'x="{low:.1f}" y="0" width="{high - low:.1f}" height="{bottom}"'
    parts = [f'<rect class="chance" {shade}><title>95 % of random orders</title></rect>']
    for x, text in ticks:
        parts.append(f'<path class="grid" d="M{x:.1f} 0V{bottom}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}">{text}</text>')
    for i, (method, cell) in enumerate(cells.items()):
        y = row * i + row // 2 + 4
        value, start, stop = (known.scale * x for x in cell.interval[:3])
        lines = names[method]
        label = "".join(
            f'<text x="{left - 12}" y="{y + 4 + 13 * (k - (len(lines) - 1) / 2):.1f}" '
            f'text-anchor="end">{html(line)}</text>'
            for k, line in enumerate(lines)
        )
        bar = f"M{place(start):.1f} {y}H{place(stop):.1f}"
        parts.append(
            f"<g><title>{html(title(method))}: {value:z.1f}, {start:z.1f} to {stop:z.1f}</title>"
            f'{label}<path stroke="{COLOURS[0]}" stroke-width="2" d="{bar}"/>'
            f'<circle fill="{COLOURS[0]}" r="4.5" cx="{place(value):.1f}" cy="{y}"/></g>'
        )
    about = f"{html(known.title)}, mean over targets"
    return f"""<svg role="img" viewBox="0 0 {right + 20} {bottom + 38}" text-anchor="middle"
aria-label="{about}, of {count(len(cells), "method")} with 95 % intervals">
{"".join(parts)}
<text x="{(left + right) / 2}" y="{bottom + 34}">{about}; grey: random orders</text></svg>"""
