"""What a benchmark found: tables for the terminal, and one HTML page that needs nothing else.

PC is the Pearson correlation, times 100, of the scores and accuracies of one target's models; Mean
PC is its mean over targets. Spreads are sample standard deviations over probe sets, and are left
out where there is only one. An undefined number is printed as such, never as 0.
"""

import dataclasses
import datetime
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table
from rich.text import Text

from jaxparc import evaluation, files
from jaxparc.evaluation import SCRATCH, Transfer
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


class Spread(NamedTuple):
    """Mean and standard deviation over probe sets."""

    mean: float
    std: float

    def text(self, mean: str = "z.1f", std: str = ".1f") -> str:
        """Such as "71.2 ± 3.1", or "71.2" where one probe set leaves no deviation."""
        spread = "" if math.isnan(self.std) else f" ± {self.std:{std}}"
        return _number(self.mean, mean) + spread


def correlations(results: Results, label: str) -> tuple[Spread, dict[str, Spread]]:
    """Mean PC of a method, and its PC of each target: the numbers of every table and plot.

    Raises:
        ValueError: a score has no accuracy.
    """
    runs = results.scores[label]

    def pc(runs: Sequence[Mapping[Transfer, float]]) -> Spread:
        with np.errstate(all="ignore"):  # infinite scores: undefined, as the tables say
            return _spread([evaluation.mean_pc(run, results.accuracies) for run in runs])

    counted = [{t: run[t] for t in run if t.target not in results.extra} for run in runs]
    return pc(counted), {
        target: pc([{t: run[t] for t in run if t.target == target} for run in runs])
        for target in _every("target", results)
    }


def accuracy_table(results: Results) -> Table:
    """Accuracy of each transfer: a row for each pretrained model, a column for each target."""
    title = Text(f"{results.name}: accuracy after fine-tuning (%)", style="italic")
    table = Table("architecture", "source", title=title)
    table.caption = "– own source; bold: best of its target"
    for target in _every("target", results):
        table.add_column(Text(target), justify="right")
    for architecture, rows in _accuracy_rows(results).items():
        table.add_section()
        for index, (source, cells) in enumerate(rows.items()):
            texts = [Text(text, style="bold" if shade == 1 else "") for text, shade in cells]
            table.add_row(Text("" if index else architecture), Text(source), *texts)
    return table


def selector_table(results: Results) -> Table:
    """Mean PC, without and with "+ layers", PC of each target, and time, in the order given.

    The spread of the targets' PC is on the page alone, so that the table fits 100 columns.
    """
    head, rows = _selector_rows(results, lambda pc: _number(pc.mean))
    table = Table(title=Text(f"{results.name}: selectors", style="italic"))
    table.caption = f"Pearson correlation x 100, {_over(results)}"
    for index, name in enumerate(head):
        table.add_column(Text(name), justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def write_page(results: Results, path: Path) -> None:
    """Write the page to the file `path`, replacing an earlier one only once it is complete."""
    files.write_text(path, _page(results))


def _accuracy_rows(results: Results) -> dict[str, dict[str, list[tuple[str, float | None]]]]:
    """Architecture -> source or scratch -> for each target a text and a shade.

    A shade goes from 0, the target's worst accuracy, to 1, its best; None without a number.
    """
    targets = _every("target", results)
    scratch = {Transfer(a, SCRATCH, target): x for (a, target), x in results.scratch.items()}
    accuracies = {**results.accuracies, **scratch}

    def cell(transfer: Transfer) -> tuple[str, float | None]:
        if transfer not in accuracies:
            return ("–" if transfer.source == transfer.target else "missing"), None
        x = accuracies[transfer]
        if not math.isfinite(x):
            return _number(x), None
        column = [x for t, x in accuracies.items() if t.target == transfer.target]
        low, *_, high = sorted([x, *filter(math.isfinite, column)])
        return _number(x), (x - low) / (high - low) if high > low else 1.0

    rows: dict[str, dict[str, list[tuple[str, float | None]]]] = {}
    for architecture in _every("architecture", results):
        for source in [*_every("source", results), SCRATCH]:
            transfers = [Transfer(architecture, source, target) for target in targets]
            if any(t in accuracies for t in transfers):  # otherwise there is no such model
                rows.setdefault(architecture, {})[source] = [cell(t) for t in transfers]
    return rows


def _selector_rows(
    results: Results, of_target: Callable[[Spread], str] = Spread.text
) -> tuple[list[str], list[list[str]]]:
    rows = []
    plain = _plain(results)
    layered = len(plain) < len(results.scores)
    for label in plain:
        mean_pc, pcs = correlations(results, label)
        row = [method(label).title, mean_pc.text()]
        if layered:
            both = f"{label}+l"
            row.append(correlations(results, both)[0].text() if both in results.scores else "–")
        ms = results.milliseconds.get(label, math.nan)
        time = "not measured" if math.isnan(ms) else "< 0.01" if ms < 0.01 else f"{ms:,.2f}"
        rows.append([*row, *map(of_target, pcs.values()), time])
    head = ["method", "Mean PC", *(["+ layers"] if layered else []), *_every("target", results)]
    return [*head, "ms/transfer"], rows


def _plain(results: Results) -> list[str]:
    """The methods, those with "+ layers" only if they are not there without."""
    return [x for x in results.scores if not (x.endswith("+l") and x[:-2] in results.scores)]


def _every(part: str, results: Results) -> list[str]:
    """The architectures, sources or targets, in the results' order or that of appearance."""
    names = dict.fromkeys(getattr(transfer, part) for transfer in results.accuracies)
    place = {name: i for i, name in enumerate(dict.fromkeys(results.order))}
    return sorted(names, key=lambda name: place.get(name, len(place)))


def _probe_sets(results: Results) -> str:
    counts = sorted({len(runs) for runs in results.scores.values()} or {0})
    number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    return "1 probe set" if number == "1" else f"{number} probe sets"


def _over(results: Results) -> str:
    sets = _probe_sets(results)
    over = f"of {sets}" if sets == "1 probe set" else f"mean ± standard deviation over {sets}"
    return over + (f"; Mean PC without {', '.join(results.extra)}" if results.extra else "")


def _spread(values: Sequence[float]) -> Spread:
    with np.errstate(invalid="ignore"):  # infinite values
        mean = float(np.mean(values)) if len(values) else math.nan
        return Spread(mean, float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


def _number(value: float, digits: str = "z.1f") -> str:
    return UNDEFINED if math.isnan(value) else f"{value:{digits}}"


# The page: from here on functions return HTML, and escape the names that they are given.
# Okabe and Ito's colours, which colour-blind readers can tell apart; the last is that of text.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "currentColor")
# Marks of about one area, centred on the origin.
_SHAPES = (
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",  # circle
    "M-4.5-4.5h9v9h-9z",  # square
    "M0-6L5.6 4H-5.6z",  # triangle
    "M0-6.5L6.5 0 0 6.5-6.5 0z",  # diamond
    "M-2-6h4v4h4v4h-4v4h-4v-4h-4v-4h4z",  # plus
    "M0 6L5.6-4H-5.6z",  # triangle, upside down
    "M0-2.8L3.2-6 6-3.2 2.8 0 6 3.2 3.2 6 0 2.8-3.2 6-6 3.2-2.8 0-6-3.2-3.2-6z",  # cross
    "M-5.5-6h11L1.5 0 5.5 6h-11L-1.5 0z",  # hourglass
)
_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c1c1c;--dim:#595959;--line:#ddd}
@media (prefers-color-scheme:dark){:root{--bg:#161616;--fg:#e8e8e8;--dim:#a8a8a8;--line:#3a3a3a}}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
main{max-width:70rem;margin:auto;padding:1rem} p{max-width:46rem}
h1,h2,h3{line-height:1.2;overflow-wrap:anywhere;break-after:avoid} h2{margin-top:2.5rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums} strong{font-weight:800}
.scroll{overflow-x:auto;margin:.5rem 0} caption{text-align:left;color:var(--dim)}
th,td{padding:.25em .6em;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
.n{text-align:right;white-space:nowrap} th.n:first-child{text-align:left}
.heat{background:rgb(0 114 178/var(--alpha));print-color-adjust:exact} tbody th{font-weight:400}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem}
figure{margin:0;max-width:30rem;break-inside:avoid} figcaption{font-weight:600}
figure svg{width:100%;height:auto} .grid{stroke:var(--line)} text{fill:var(--dim);font-size:12px}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0;margin:.4rem 0;list-style:none}
.legend svg{width:1em;height:1em;vertical-align:-.1em;margin-right:.3em} summary{cursor:pointer}
details{margin:.4rem 0} .mark{stroke:var(--bg);stroke-width:.8} @media print{body{font-size:11px}}
@media (max-width:40rem){table{font-size:.75rem} th,td{padding:.2em}} figure table{font-size:.75rem}
"""


def _page(results: Results) -> str:
    name, accuracies, sets = escape(results.name), results.accuracies, _probe_sets(results)
    if "probe_images" in results.settings:
        sets += f" of {results.settings['probe_images']} images each"
    seconds = {**results.stage_seconds, "all": sum(results.stage_seconds.values())}
    stages = [[key, str(datetime.timedelta(seconds=round(s)))] for key, s in seconds.items()]
    settings = [
        [key, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)]
        for key, value in results.settings.items()
    ]
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: which pretrained model?</title><style>{_STYLE}</style></head>
<body><main><h1>{name}</h1>
<p>{len({t[:2] for t in accuracies})} pretrained models, {len(_every("target", results))} targets,
{len(accuracies)} transfers fine-tuned, and for each target {escape(sets)} on which every method
scored the models. How well do the scores predict the accuracies?</p>
<h2>Methods</h2><p>PC is the Pearson correlation, times 100, between a method’s scores and the
accuracies after full fine-tuning of one target’s models: 100 is perfect, 0 is no linear relation,
below 0 is the wrong way round. Mean PC is its mean over targets. The number after ± says how much
the choice of probe images matters, and nothing about other models or targets. On a benchmark of
few, small targets this is a demonstration, not evidence.</p>
<p>A target’s column holds its PC. “+ layers” is the Mean PC once the relative depth of each network
is added to its standardised score. The time leaves out the extraction of features.</p>
{_table(f"PC, {_over(results)}; time in ms", *_selector_rows(results))}
<h2>Accuracy after fine-tuning</h2>{_heat_map(results)}
<h2>Scores against accuracies</h2>{_scatter(results)}
<h2>Time</h2>
{_table("Time of each stage, summed over its units", ["stage", "h:mm:ss"], stages)}
<h2>Settings and versions</h2>
{_table("Settings", ["setting", "value"], settings, css="")}
{_table("Versions", ["package", "version"], list(results.versions.items()), css="")}
</main></body></html>
"""


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], css: str = "n") -> str:
    """A table; the columns after the first are of the class `css`."""
    columns = [f'<th scope="col" class="{css}">{escape(name)}</th>' for name in head]
    body = [
        f'<th scope="row">{escape(row[0])}</th>'
        + "".join(f'<td class="{css}">{escape(cell)}</td>' for cell in row[1:])
        for row in rows
    ]
    return _framed(caption, columns, body)


def _framed(caption: str, columns: Iterable[str], rows: Iterable[str]) -> str:
    # What scrolls on a narrow screen must be reachable from the keyboard.
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f"""<div class="scroll" tabindex="0"><table><caption>{escape(caption)}</caption>
<thead><tr>{"".join(columns)}</tr></thead>
<tbody>{body}</tbody></table></div>"""


def _heat_map(results: Results) -> str:
    columns = ['<th scope="col">architecture</th><th scope="col">source</th>']
    columns += [f'<th scope="col" class="n">{escape(t)}</th>' for t in _every("target", results)]
    body = []
    for architecture, rows in _accuracy_rows(results).items():
        first = f'<th scope="rowgroup" rowspan="{len(rows)}">{escape(architecture)}</th>'
        for source, cells in rows.items():
            body.append(f'{first}<th scope="row">{escape(source)}</th>')
            first = ""
            for text, shade in cells:
                alpha = 0 if shade is None else 0.04 + 0.5 * shade
                bold = f"<strong>{text}</strong>" if shade == 1 else text
                body[-1] += f'<td class="n heat" style="--alpha:{alpha:.2f}">{bold}</td>'
    scratch = "Scratch is training from random initialisation, which no method scores."
    return f"""<p>The stronger the blue, the better within its target; the best is bold. – stands
where target and source are the same. {scratch if results.scratch else ""}</p>
{_framed("Accuracy (%)", columns, body)}"""


def _scatter(results: Results) -> str:
    if not results.scores:
        return "<p>There are no scores.</p>"
    mean_pc = {label: correlations(results, label)[0] for label in _plain(results)}
    heads = {
        k: f"{escape(method(k).title)}: Mean PC {spread.text()}" for k, spread in mean_pc.items()
    }
    best = max(mean_pc, key=lambda k: np.nan_to_num(mean_pc[k].mean, nan=-math.inf))
    others = "".join(
        f"<details><summary>{head}</summary>\n{_plots(results, label)}</details>\n"
        for label, head in heads.items()
        if label != best
    )
    return f"""<p>A mark is a model: its score, mean ± standard deviation (the bar) over probe sets,
and its accuracy after fine-tuning. Point at a mark for its name and numbers. Colour is the
architecture, shape the source:</p>
{_legend(_every("architecture", results), _COLOURS, _SHAPES[:1])}
{_legend(_every("source", results), ["currentColor"], _SHAPES)}
<h3>{heads[best]}</h3>
<p>Shown first for its Mean PC; picking it after seeing the accuracies flatters it.</p>
{_plots(results, best)}
{others and f"<h3>The other methods</h3>{others}"}"""


def _legend(names: Sequence[str], colours: Sequence[str], shapes: Sequence[str]) -> str:
    keys = ""
    for i, name in enumerate(names):
        mark = f'<path d="{shapes[i % len(shapes)]}" fill="{colours[i % len(colours)]}"/>'
        keys += f'<li><svg viewBox="-7 -7 14 14">{mark}</svg>{escape(name)}</li>'
    return f'<ul class="legend" aria-label="legend">{keys}</ul>'


def _plots(results: Results, label: str) -> str:
    """A figure for each target: scores against accuracies, and the numbers as a table."""
    title, figures = method(label).title, ""
    for target, pc in correlations(results, label)[1].items():
        transfers = [t for t in results.accuracies if t.target == target]
        runs = results.scores[label]
        scores = {t: _spread([run.get(t, math.nan) for run in runs]) for t in transfers}
        # From the highest score down, as one would try the models; undefined ones come last.
        scores = dict(sorted(scores.items(), key=lambda i: (math.isnan(i[1].mean), -i[1].mean)))
        rows = [
            [f"{t.architecture}, {t.source}", s.text(".4g", ".2g"), _number(results.accuracies[t])]
            for t, s in scores.items()
        ]
        drawn = {t: s for t, s in scores.items() if math.isfinite(s.mean + results.accuracies[t])}
        lost = len(scores) - len(drawn)
        figures += f"""<figure><figcaption>{escape(target)}: PC {pc.text()}</figcaption>
{_svg(results, drawn, f"{title} score", f"accuracy on {target} (%)")}
{f"<p>Not drawn, as undefined: {lost} of {len(scores)}.</p>" if lost else ""}
<details><summary>Numbers</summary>
{_table(f"{title}, highest score first", ["model", "score", "accuracy (%)"], rows)}
</details></figure>
"""
    return f'<div class="plots">{figures}</div>'


def _svg(results: Results, scores: Mapping[Transfer, Spread], x_name: str, y_name: str) -> str:
    left, right, top, bottom = 48, 348, 10, 246
    bars = {t: 0.0 if math.isnan(score.std) else score.std for t, score in scores.items()}
    ends = [score.mean + sign * bars[t] for t, score in scores.items() for sign in (-1, 1)]
    place_x, x_ticks = _axis(ends, left, right)
    place_y, y_ticks = _axis([results.accuracies[t] for t in scores], bottom, top)
    parts = [
        f'<path class="grid" d="M{x:.1f} {top}V{bottom}"/>'
        f'<text x="{x:.1f}" y="{bottom + 16}">{text}</text>'
        for x, text in x_ticks
    ] + [
        f'<path class="grid" d="M{left} {y:.1f}H{right}"/>'
        f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        for y, text in y_ticks
    ]
    for t, score in scores.items():
        colour = _COLOURS[_every("architecture", results).index(t.architecture) % len(_COLOURS)]
        shape = _SHAPES[_every("source", results).index(t.source) % len(_SHAPES)]
        x, y = place_x(score.mean), place_y(results.accuracies[t])
        low, high = place_x(score.mean - bars[t]), place_x(score.mean + bars[t])
        name = f"{t.architecture}, {t.source}: score {score.text('.4g', '.2g')}"
        parts.append(
            f"<g><title>{escape(name)}, accuracy {results.accuracies[t]:.1f}%</title>"
            f'<path stroke="{colour}" d="M{low:.1f} {y:.1f}H{high:.1f}"/><path class="mark" '
            f'fill="{colour}" d="{shape}" transform="translate({x:.1f} {y:.1f})"/></g>'
        )
    x_name, y_name = escape(x_name), escape(y_name)
    return f"""<svg role="img" viewBox="0 0 360 286" text-anchor="middle"
aria-label="Scatter plot of {len(scores)} models: {y_name} against {x_name}">
{"".join(parts)}
<text x="{(left + right) / 2}" y="{bottom + 34}">{x_name}</text>
<text transform="translate(12 {(top + bottom) / 2}) rotate(-90)">{y_name}</text></svg>"""


def _axis(
    values: Sequence[float], start: float, stop: float
) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """Where values go between two pixels, and the pixels and texts of round numbers around them."""
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
