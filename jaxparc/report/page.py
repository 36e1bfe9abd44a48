"""Write the results as a self-contained HTML page, without scripts or network access."""

import datetime
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from jaxparc import files
from jaxparc.evaluation import baselines
from jaxparc.printing import count, html
from jaxparc.report import plots, sheets
from jaxparc.report.results import (
    Results,
    accuracy_rows,
    correlations,
    every,
    model_name,
    number,
    over,
    plain,
    probe_sets,
    selector_rows,
    spread_of,
)


def write_page(results: Results, path: Path) -> None:
    """Write the page to `path`, replacing an earlier one once the new one is complete.

    Raises:
        InputError: a score has no accuracy.
        OSError: the file cannot be written.
    """
    files.write_text(path, _page(results))


# The functions below return HTML and escape names.
_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c1c1c;--dim:#595959;--line:#ddd}
@media (prefers-color-scheme:dark){:root{--bg:#161616;--fg:#e8e8e8;--dim:#a8a8a8;--line:#3a3a3a}}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
main{max-width:70rem;margin:auto;padding:1rem} p{max-width:46rem}
h1,h2,h3{line-height:1.2;overflow-wrap:anywhere;break-after:avoid} h2{margin-top:2.5rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums} strong{font-weight:800}
.scroll{overflow-x:auto;margin:.5rem 0} caption{text-align:left;color:var(--dim);break-after:avoid}
th,td{padding:.25em .6em;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
.n{text-align:right;white-space:nowrap} th.n:first-child{text-align:left;min-width:9rem}
tbody th:first-child{min-width:8rem}
.heat{background:rgb(0 114 178/var(--alpha));print-color-adjust:exact} tbody th{font-weight:400}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:1rem}
figure{margin:0;max-width:30rem;break-inside:avoid} figcaption{font-weight:600}
figure svg{width:100%;height:auto} .grid{stroke:var(--line)} text{fill:var(--dim);font-size:12px}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;padding:0;margin:.4rem 0;list-style:none}
.legend svg{width:1em;height:1em;vertical-align:-.1em;margin-right:.3em} summary{cursor:pointer}
details{margin:.4rem 0} .mark{stroke:var(--bg);stroke-width:.8}
.chance{fill:var(--line);opacity:.6}
@media print{body{font-size:11px} .scroll{overflow:visible}
table{font-size:8.5px} th,td{padding:.2em .4em} tr{break-inside:avoid}}
@media (max-width:40rem){table{font-size:.75rem} th,td{padding:.2em}} figure table{font-size:.75rem}
"""


def _page(results: Results) -> str:
    name, accuracies, sets = html(results.name), results.accuracies, probe_sets(results)
    if "probe_images" in results.settings:
        sets += f" of {results.settings['probe_images']} images each"
    time = "; time in ms" if results.milliseconds else ""
    settings = [
        [key, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)]
        for key, value in results.settings.items()
    ]
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}: which pretrained model?</title><style>{_STYLE}</style></head>
<body><main><h1>{name}</h1>
<p>{count(len({t[:2] for t in accuracies}), "pretrained model")},
{count(len(every("target", results)), "target")},
{count(len(accuracies), "transfer")} fine-tuned; for each target, every method scored the models on
{html(sets)}. How well do the scores predict the accuracies?</p>
<h2>Methods</h2><p>PC is the Pearson correlation, times 100, between a method’s scores and the
accuracies after full fine-tuning of one target’s models: 100 is perfect, 0 is no linear relation,
a negative value is a reversed order. Mean PC is its mean over targets. The number after ± is the
spread over probe sets; it says nothing about other models or targets. A benchmark with few, small
targets is a demonstration, not evidence.</p>
<p>A target’s column has its PC. “+ layers” is the Mean PC after adding the relative depth of each
network to its standardised score. {time and "Times exclude feature extraction."}</p>
{_table(f"PC, {over(results)}{time}", *selector_rows(results))}
{_worth(results)}<h2>Accuracy after fine-tuning</h2>{_heat_map(results)}
<h2>Scores against accuracies</h2>{_scatter(results)}
{_losses(results)}{_time(results)}
<h2>Settings and versions</h2>
{_table("Settings", ["setting", "value"], settings, css="")}
{_table("Versions", ["package", "version"], list(results.versions.items()), css="")}
</main></body></html>
"""


def _worth(results: Results) -> str:
    """Return intervals, further measures, and scores without depth and general quality."""
    if (summary := results.summary) is None:
        return ""
    found = [sheets.intervals(summary, "pearson", results.title)]
    found += [
        sheets.measures(summary, results.title),
        sheets.beyond(summary, results.title, baselines.OF_OTHERS),
    ]
    tables = "".join(
        _table(sheet.title, sheet.head, sheet.rows)
        + "".join(f"<p>{html(note)}</p>" for note in sheet.notes)
        for sheet in found
    )
    return f"""<h2>What the numbers are worth</h2>
<p>Another bank, other targets or other probe images would have given other numbers; the intervals
say how different. Baselines that use no image of the target are listed among the methods: a
selector that does not beat them is not worth its forward passes. Shaded: 95 % of random orders of
the models.</p>
<figure>{plots.intervals(summary, "pearson", results.title)}</figure>{tables}"""


def _losses(results: Results) -> str:
    """Return a figure per target with the training losses of its models."""
    if not results.losses:
        return ""
    figures = ""
    for target in every("target", results):
        losses = {t: of for t, of in results.losses.items() if t.target == target and len(of)}
        figures += f"""<figure><figcaption>{html(target)}</figcaption>
{plots.curves(results, losses)}</figure>
"""
    return f"""<h2>Loss while fine-tuning</h2><p>On the training images, for the chosen learning
rates. Point at a line for its name. Colour is the architecture; dashed is from scratch:</p>
{_legend(every("architecture", results), plots.COLOURS, plots.SHAPES[:1])}
<div class="plots">{figures}</div>"""


def _time(results: Results) -> str:
    if not results.stage_seconds:
        return ""
    seconds = {**results.stage_seconds, "all": sum(results.stage_seconds.values())}
    stages = [[key, str(datetime.timedelta(seconds=round(s)))] for key, s in seconds.items()]
    caption = "Time of each stage, summed over its units"
    return f"<h2>Time</h2>{_table(caption, ['stage', 'h:mm:ss'], stages)}"


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], css: str = "n") -> str:
    """Return a table; the columns after the first have the class `css`."""
    columns = [f'<th scope="col" class="{css}">{html(name)}</th>' for name in head]
    body = [
        f'<th scope="row">{html(row[0])}</th>'
        + "".join(f'<td class="{css}">{html(cell)}</td>' for cell in row[1:])
        for row in rows
    ]
    return _framed(caption, columns, body)


def _framed(caption: str, columns: Iterable[str], rows: Iterable[str]) -> str:
    # A table that scrolls on a narrow screen must be focusable by keyboard.
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    return f"""<div class="scroll" tabindex="0"><table><caption>{html(caption)}</caption>
<thead><tr>{"".join(columns)}</tr></thead>
<tbody>{body}</tbody></table></div>"""


def _heat_map(results: Results) -> str:
    columns = ['<th scope="col">architecture</th><th scope="col">source</th>']
    columns += [f'<th scope="col" class="n">{html(t)}</th>' for t in every("target", results)]
    body = []
    for architecture, rows in accuracy_rows(results).items():
        first = f'<th scope="rowgroup" rowspan="{len(rows)}">{html(architecture)}</th>'
        for source, cells in rows.items():
            body.append(f'{first}<th scope="row">{html(source)}</th>')
            first = ""
            for text, shade in cells:
                alpha = 0 if shade is None else 0.04 + 0.5 * shade
                bold = f"<strong>{text}</strong>" if shade == 1 else text
                body[-1] += f'<td class="n heat" style="--alpha:{alpha:.2f}">{bold}</td>'
    scratch = "Scratch is training from random initialisation, which is not scored."
    return f"""<p>The stronger the blue, the better within its target; the best is bold. – marks
equal source and target. {scratch if results.scratch else ""}</p>
{_framed("Accuracy (%)", columns, body)}"""


def _scatter(results: Results) -> str:
    if not results.scores:
        return "<p>There are no scores.</p>"
    mean_pc = {label: correlations(results, label)[0] for label in plain(results)}
    heads = {
        k: f"{html(results.title(k))}: Mean PC {spread.text()}" for k, spread in mean_pc.items()
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
{_legend(every("architecture", results), plots.COLOURS, plots.SHAPES[:1])}
{_legend(every("source", results), ["currentColor"], plots.SHAPES)}
<h3>{heads[best]}</h3>
<p>Shown first for its Mean PC; choosing it after seeing the accuracies favours it.</p>
{_plots(results, best)}
{others and f"<h3>The other methods</h3>{others}"}"""


def _legend(names: Sequence[str], colours: Sequence[str], shapes: Sequence[str]) -> str:
    keys = ""
    for i, name in enumerate(names):
        mark = f'<path d="{shapes[i % len(shapes)]}" fill="{colours[i % len(colours)]}"/>'
        keys += f'<li><svg viewBox="-7 -7 14 14">{mark}</svg>{html(name)}</li>'
    return f'<ul class="legend" aria-label="legend">{keys}</ul>'


def _plots(results: Results, label: str) -> str:
    """Return a figure per target: scores against accuracies, and the numbers as a table."""
    title, figures = results.title(label), ""
    for target, pc in correlations(results, label)[1].items():
        transfers = [t for t in results.accuracies if t.target == target]
        runs = results.scores[label]
        scores = {t: spread_of([run.get(t, math.nan) for run in runs]) for t in transfers}
        # By descending score, the order in which one would try the models; undefined ones last.
        scores = dict(sorted(scores.items(), key=lambda i: (math.isnan(i[1].mean), -i[1].mean)))
        rows = [
            [model_name(t), s.text(".4g", ".2g"), number(results.accuracies[t])]
            for t, s in scores.items()
        ]
        drawn = {t: s for t, s in scores.items() if math.isfinite(s.mean + results.accuracies[t])}
        lost = len(scores) - len(drawn)
        figures += f"""<figure><figcaption>{html(target)}: PC {pc.text()}</figcaption>
{plots.scatter(results, drawn, f"{title} score", f"accuracy on {target} (%)")}
{f"<p>Undefined and not drawn: {lost} of {len(scores)}.</p>" if lost else ""}
<details><summary>Numbers</summary>
{_table(f"{title}, highest score first", ["model", "score", "accuracy (%)"], rows)}
</details></figure>
"""
    return f'<div class="plots">{figures}</div>'
