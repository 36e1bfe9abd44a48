"""The command data: list or prepare data sets."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxparc import datasets, printing


def print_list(data_dir: str | None = None) -> None:
    """Print a table of the known data sets.

    Args:
        data_dir: as `datasets.load` takes it.
    """
    table = Table(
        caption=f"data folder: {escape(printing.shown(str(datasets.root_of(data_dir))))}\n"
        "user images: folder:PATH, csv:FILE or npz:FILE in place of a name"
    )
    table.add_column("name", no_wrap=True)
    for column in ("classes", "train", "test"):
        table.add_column(column, justify="right")
    table.add_column("here")
    table.add_column("images, licence, needs", overflow="fold")
    for name, spec in datasets.DATASETS.items():
        notes = [spec.description, f"licence: {spec.licence}"]
        if spec.needs_tensorflow:
            notes.append("to prepare it (not to read it): jaxparc[prepare]")
        if spec.manual:
            notes.append(f"manual step: {spec.manual}")
        table.add_row(
            printing.lines("\n".join((name, *(f"= {alias}" for alias in spec.aliases)))),
            f"{spec.num_classes:,}",
            f"{spec.sizes['train']:,}",
            f"{spec.sizes['test']:,}",
            "yes" if datasets.is_prepared(name, data_dir=data_dir) else "no",
            escape(printing.lines("\n".join(notes))),
        )
    Console().print(table)


def prepare(names: Sequence[str], data_dir: str | None = None) -> None:
    """Prepare data sets, and print where they are and what they contain.

    Args:
        names: data sets, as `datasets.load` takes them.
        data_dir: as `datasets.load` takes it.

    Raises:
        InputError: a name is unknown.
        DatasetError: a data set cannot be prepared.
    """
    for name in names:  # misspelt names are refused before any work
        datasets.short_name(name)
    for number, name in enumerate(names):
        try:
            print(printing.shown(f"{name}: {datasets.prepare(name, data_dir=data_dir)}"))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{number} of {len(names)} are prepared") from None
        print(printing.shown(f"{name}: {datasets.summary(name, data_dir=data_dir)}"))
