"""Tables for the terminal."""

from rich.table import Table
from rich.text import Text

from jaxparc.printing import shown
from jaxparc.report.results import (
    Results,
    accuracy_rows,
    every,
    number,
    over,
    selector_rows,
    unavailable,
)


def accuracy_table(results: Results) -> Table:
    """Return the accuracies: a row per pretrained model, a column per target."""
    title = Text(shown(f"{results.name}: accuracy after fine-tuning (%)"), style="italic")
    table = Table("architecture", "source", title=title)
    caption = ["– own source; bold: best of its target", unavailable(results)]
    table.caption = shown("; ".join(filter(None, caption)))
    for target in every("target", results):
        table.add_column(Text(shown(target)), justify="right")
    for architecture, rows in accuracy_rows(results).items():
        table.add_section()
        for index, (source, cells) in enumerate(rows.items()):
            texts = [Text(shown(text), style="bold" if shade == 1 else "") for text, shade in cells]
            table.add_row(Text("" if index else shown(architecture)), Text(shown(source)), *texts)
    return table


def selector_table(results: Results) -> Table:
    """Return Mean PC, without and with "+ layers", PC per target, and time: a row per method.

    The standard deviation of PC per target is only on the page, so that the table fits 100 columns.
    """
    head, rows = selector_rows(results, lambda pc: number(pc.mean))
    table = Table(title=Text(shown(f"{results.name}: selectors"), style="italic"))
    caption = ", ".join(filter(None, ["Pearson correlation x 100", over(results)]))
    table.caption = Text(shown(caption), style="dim italic")
    for index, name in enumerate(head):
        table.add_column(Text(shown(name)), justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    return table
