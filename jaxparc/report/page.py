"""Write the results as a self-contained HTML page, without scripts or network access."""

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxparc import files
from jaxparc.evaluation import baselines
from jaxparc.printing import count, html
from jaxparc.report import markup, plots, sheets
from jaxparc.report.conclusion import conclusion
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
    unavailable,
)
from jaxparc.report.sheets import Sheet

FEW = 5  # targets from which on the page does not say that they are few


def write_page(
    results: Results, path: Path, sections: Mapping[str, Sequence[Sheet]] | None = None
) -> None:
    """Write the page to `path`, replacing an earlier one once the new one is complete.

    Args:
        results: the results.
        path: the file to write.
        sections: heading -> further tables, which follow those of the results.

    Raises:
        InputError: a score has no accuracy.
        OSError: the file cannot be written.
    """
    files.write_text(path, _page(results, sections or {}))


# The functions below return HTML and escape names.


def _page(results: Results, sections: Mapping[str, Sequence[Sheet]]) -> str:
    settings = [
        [key, ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)]
        for key, value in results.settings.items()
    ]
    further = "".join(
        f"<h2>{html(heading)}</h2>{_tables(found)}\n"
        for heading, found in sections.items()
        if found
    )
    title = _title(results)
    best, *rest = conclusion(results)
    body = f"""<h1>{html(title)}</h1>
<p class="answer">{html(best)}</p>
{f"<p>{html(' '.join(rest))}</p>" if rest else ""}
{_chart(results)}
<p>{html(_compared(results))}</p>
{_methods(results)}
{_worth(results)}{further}<h2>Accuracy after fine-tuning</h2>{_heat_map(results)}
<h2>Scores against accuracies</h2>{_scatter(results)}
{_losses(results)}{_time(results)}
<h2>Settings and versions</h2>
{markup.table("Settings", ["setting", "value"], settings, css="")}
{markup.table("Versions", ["package", "version"], list(results.versions.items()), css="")}
"""
    return markup.page(title, body)


def _title(results: Results) -> str:
    """Return what was compared, as plain text."""
    models = count(len({t[:2] for t in results.accuracies}), "pretrained model")
    targets = count(len(every("target", results)), "target")
    if not (methods := plain(results)):
        return f"{results.name}: {models} on {targets}"
    return f"{results.name}: {count(len(methods), 'method')} to rank {models} for {targets}"


def _compared(results: Results) -> str:
    transfers = count(len(results.accuracies), "transfer")
    text = f"{transfers}, each a model fine-tuned on a target: do scores predict their accuracies?"
    lost = unavailable(results)
    told = [text, lost and f"{lost}."]
    if results.scores and (sets := probe_sets(results)):
        told.append(f"For each target, every method scored the models on {sets}.")
    return " ".join(filter(None, told))


def _chart(results: Results) -> str:
    if results.summary is None:
        return ""
    return f"<figure>{plots.intervals(results.summary, 'pearson', results.title)}</figure>"


def _methods(results: Results) -> str:
    """Return the table of methods, and what its columns and numbers are."""
    if not results.scores:
        return ""
    head, rows = selector_rows(results)
    told = []
    if any("±" in cell for row in rows for cell in row):
        told.append(
            "The number after ± is the standard deviation over probe sets; it says nothing about "
            "other models or targets."
        )
    if "+ layers" in head:
        told.append(
            "“+ layers” is the Mean PC after adding the relative depth of each network to its "
            "standardised score."
        )
    if results.milliseconds:
        told.append("Times are in ms and exclude feature extraction.")
    if len(every("target", results)) < FEW:
        told.append("So few targets are a demonstration, not evidence.")
    return f"""<h2>Methods</h2><p>PC is the Pearson correlation, times 100, between a method’s
scores and the accuracies after full fine-tuning of one target’s models: 100 is perfect, 0 is no
linear relation, a negative value is a reversed order. Mean PC is its mean over targets.
{html(" ".join(told))}</p>
{markup.table(", ".join(filter(None, ["PC by target", over(results)])), head, rows)}"""


def _worth(results: Results) -> str:
    """Return intervals, further measures, and scores without depth and general quality."""
    if (summary := results.summary) is None:
        return ""
    found = [sheets.intervals(summary, "pearson", results.title)]
    found += [
        sheets.measures(summary, results.title),
        sheets.beyond(summary, results.title, baselines.OF_OTHERS),
    ]
    return f"""<h2>What the numbers are worth</h2>
<p>Another bank, other targets or other probe images would have given other numbers; the intervals
say how different. Baselines that use no image of the target are listed among the methods: a
selector that does not beat them is not worth its forward passes.</p>{_tables(found)}"""


def _tables(found: Sequence[Sheet]) -> str:
    """Return tables, each with its notes below."""
    return "".join(
        markup.table(sheet.title, sheet.head, sheet.rows)
        + "".join(f"<p>{html(note)}</p>" for note in sheet.notes)
        for sheet in found
    )


def _losses(results: Results) -> str:
    """Return a figure per target with the training losses of its models."""
    if not results.losses:
        return ""
    # A network may have been trained from scratch though none of its transfers has an accuracy.
    trained = (*results.accuracies, *results.losses)
    architectures, figures = every("architecture", results, trained), ""
    for target in every("target", results, trained):
        losses = {t: of for t, of in results.losses.items() if t.target == target and len(of)}
        figures += f"""<figure><figcaption>{html(target)}</figcaption>
{plots.curves(losses, architectures)}</figure>
"""
    return f"""<h2>Loss while fine-tuning</h2><p>On the training images, for the chosen learning
rates. Point at a line for its name. Colour is the architecture; dashed is from scratch:</p>
{_legend(architectures, plots.COLOURS, plots.SHAPES[:1])}
<div class="plots">{figures}</div>"""


def _time(results: Results) -> str:
    if not results.stage_seconds:
        return ""
    seconds = {**results.stage_seconds, "all": sum(results.stage_seconds.values())}
    stages = [[key, str(datetime.timedelta(seconds=round(s)))] for key, s in seconds.items()]
    caption = "Time of each stage, summed over its units"
    return f"<h2>Time</h2>{markup.table(caption, ['stage', 'h:mm:ss'], stages)}"


def _heat_map(results: Results) -> str:
    columns = ['<th scope="col">model</th>']
    columns += [f'<th scope="col" class="n">{html(t)}</th>' for t in every("target", results)]
    body = []
    for architecture, rows in accuracy_rows(results).items():
        for source, cells in rows.items():
            name = ", ".join(filter(None, [architecture, source]))
            body.append(f'<th scope="row">{html(name)}</th>')
            for text, shade in cells:
                alpha = 0 if shade is None else 0.04 + 0.5 * shade
                bold = f"<strong>{text}</strong>" if shade == 1 else text
                body[-1] += f'<td class="n heat" style="--alpha:{alpha:.2f}">{bold}</td>'
    scratch = "Scratch is training from random initialisation, which is not scored."
    return f"""<p>The stronger the blue, the better within its target; the best is bold. – marks
equal source and target. {scratch if results.scratch else ""}</p>
{markup.framed("Accuracy (%)", columns, body)}"""


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
    sources = [source for source in every("source", results) if source]
    bars = any(len(runs) > 1 for runs in results.scores.values())
    return f"""<p>A mark is a model: its score{
        ", mean ± standard deviation (the bar) over probe sets," if bars else ""
    } and its accuracy after fine-tuning. Point at a mark for its name and numbers.
Colour is the architecture{", shape the source" if sources else ""}:</p>
{_legend(every("architecture", results), plots.COLOURS, plots.SHAPES[:1])}
{_legend(sources, ["currentColor"], plots.SHAPES) if sources else ""}
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
{markup.table(f"{title}, highest score first", ["model", "score", "accuracy (%)"], rows)}
</details></figure>
"""
    return f'<div class="plots">{figures}</div>'
