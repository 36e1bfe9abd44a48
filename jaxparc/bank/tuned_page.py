"""The section of a ranking's page on fine-tuning: was the advice right?"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxparc import datasets, files, printing
from jaxparc.bank import tuned, tuning
from jaxparc.bank.ranked import Ranked
from jaxparc.bank.tuned import Tuned
from jaxparc.bank.tuning import OfClass
from jaxparc.errors import InputError
from jaxparc.printing import count, html
from jaxparc.report import markup

FEW = 20  # maximum number of classes for a whole confusion matrix
WORST = 10  # classes that are shown at once
PAIRS = 15  # confused pairs that are shown

_BEGIN, _END = "<!-- fine-tuning -->", "<!-- /fine-tuning -->"
_STYLE = """<style>.confusion td{text-align:center;min-width:2em}
.confusion th{font-weight:400;max-width:9rem;overflow-wrap:anywhere}
.confusion .diagonal{outline:1px solid var(--dim);outline-offset:-1px}</style>"""


def write(page: Path, models: Sequence[Tuned], classes: Sequence[str]) -> None:
    """Write the section into a page, in place of an earlier one; without a page, into a new one.

    Args:
        page: the file.
        models: the fine-tuned models, in the order of the ranking; at least one.
        classes: names of the classes, by index.

    Raises:
        OSError: the page cannot be written.
    """
    _insert(page, _section(models, classes))


def restore(folder: Path, ranking: Ranked) -> list[str]:
    """Write the section into the new page of a ranking, if it has models that were fine-tuned.

    Args:
        folder: the folder of finetuned.json and of the page.
        ranking: the new ranking, whose ranks are shown in place of the earlier ones.

    Returns:
        Notes, one line each, on what is left out: models that this ranking has no rank for, and a
        file of another target or that cannot be read.

    Raises:
        OSError: the page cannot be written.
    """
    path = folder / tuned.RESULTS
    try:
        target, models = tuned.read_results(folder)
    except InputError as error:
        return [str(error)]
    now = ranking.settings.get("target")
    if now is not None and not _is_same(target, str(now)):
        return [f"{path} is of models fine-tuned on {target}; it is left out of the page"]
    ranked = {
        row.name: tuned.Ranked(row.name, row.rank, row.tied)
        for row in ranking.rows
        if row.rank is not None
    }
    kept = [dataclasses.replace(m, ranked=ranked[m.name]) for m in models if m.name in ranked]
    kept.sort(key=lambda one: one.ranked.rank)
    gone = [one.name for one in models if one.name not in ranked]
    notes = []
    if gone:
        what = f"{printing.some(gone)} of {path} left out of the page"
        notes = [f"{what}: this ranking has no rank for {'it' if len(gone) == 1 else 'them'}"]
    if kept:
        try:
            section = _section(kept, kept[0].facts["classes"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}"
            return [f"{path} cannot be read ({reason}); run `jaxparc finetune` again"]
        _insert(folder / "index.html", section)
    return notes


def _is_same(one: str, other: str) -> bool:
    """Return whether two addresses of data sets are of the same files."""
    try:
        return one == other or datasets.folder_of(one) == datasets.folder_of(other)
    except InputError:  # it was moved
        return False


def _insert(page: Path, section: str) -> None:
    section = f"{_BEGIN}{section}{_END}"
    try:
        text = page.read_text(encoding="utf-8")
    except (FileNotFoundError, UnicodeDecodeError):
        text = ""
    text = re.sub(f"{_BEGIN}.*{_END}", "", text, flags=re.DOTALL)
    # What was asked of the ranking, and with which versions, stays at the end of its page.
    if place := re.search("<h2[^>]*>Settings|</main>", text):
        text = f"{text[: place.start()]}{section}{text[place.start() :]}"
    else:
        text = markup.page("Fine-tuned models", section)
    files.write_text(page, text)


def _section(models: Sequence[Tuned], classes: Sequence[str]) -> str:
    sheet = tuned.sheet(models)
    files_of = [f"{one.name}: {one.file}" for one in models]
    notes = "<br>".join(html(note) for note in (*sheet.notes, *files_of))
    best = tuned.best_of(models)
    return f"""{_STYLE}<h2 id="fine-tuning">Was the advice right?</h2>
<p><strong>{html(tuned.verdict(models))}</strong></p>
{markup.table(sheet.title, sheet.head, sheet.rows)}
<p style="overflow-wrap:anywhere">{notes}</p>
{_classes(best, classes) if "predictions" in best.facts else ""}"""


def _classes(best: Tuned, classes: Sequence[str]) -> str:
    """Return the accuracy of a model by class, and what it confuses."""
    labels, predictions = (np.array(best.facts[key]) for key in ("labels", "predictions"))
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (labels, predictions), 1)
    confused = (_matrix if len(classes) <= FEW else _pairs)(confusion, classes)
    return f"""<h3>{html(best.name)} by class</h3>
{_accuracies(tuning.by_class(labels == predictions, labels, classes))}
<h3>What {html(best.name)} confuses</h3>
{confused}"""


def _accuracies(found: Sequence[OfClass]) -> str:
    """Return the accuracy of each class, the lowest first; of many classes, the rest folded."""
    cells = [list(one.cells()) for one in sorted(found, key=lambda one: one.percent)]
    head = ["class", "right %", "95 % interval", "test images"]
    if len(cells) <= FEW:
        return markup.table("Accuracy by class, the lowest first", head, cells)
    lowest = f"The {WORST} classes with the lowest accuracy"
    rest = markup.table("The other classes", head, cells[WORST:])
    return (
        f"{markup.table(lowest, head, cells[:WORST])}<details><summary>"
        f"{count(len(cells) - WORST, 'other class', 'other classes')}</summary>{rest}</details>"
    )


def _matrix(confusion: np.ndarray, classes: Sequence[str]) -> str:
    """Return the confusion matrix; a row is a true class, shaded by its shares."""
    heads = ['<th scope="col">true class</th>']
    heads += [f'<th scope="col">{html(name)}</th>' for name in classes]
    rows = []
    for index, name in enumerate(classes):
        total = max(int(confusion[index].sum()), 1)
        cells = []
        for other, number in enumerate(confusion[index]):
            css = "heat diagonal" if other == index else "heat"
            title = f"{html(name)} predicted as {html(classes[other])}: {number:,}"
            cells.append(
                f'<td class="{css}" style="--alpha:{0.75 * number / total:.2f}" title="{title}">'
                f"{f'{number:,}' if number else ''}</td>"
            )
        rows.append(f'<th scope="row">{html(name)}</th>{"".join(cells)}')
    caption = "Test images by true class (rows) and predicted class (columns)"
    return markup.framed(caption, heads, rows).replace("<table>", '<table class="confusion">', 1)


def _pairs(confusion: np.ndarray, classes: Sequence[str]) -> str:
    """Return the pairs of classes that are confused most often."""
    wrong = confusion * (1 - np.eye(len(classes), dtype=int))
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    rows = []
    for place in order:
        true, predicted = np.unravel_index(place, wrong.shape)
        if number := int(wrong[true, predicted]):
            share = 100 * number / int(confusion[true].sum())
            pair = f"{classes[true]} → {classes[predicted]}"
            rows.append([pair, f"{number:,}", f"{share:.0f}"])
    if not rows:
        return "<p>Nothing: all test images are classified correctly.</p>"
    head = ["true → predicted", "images", "% of the class"]
    return markup.table("The pairs of classes that are confused most often", head, rows)
