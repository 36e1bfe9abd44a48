"""`python -m experiments.speed all`: every table within a limited time, and the goals.

The rates of the machine are measured first, then the cases of all tables, the most important ones
first. Tables are written after each of their rows, and the goals after each case, into one folder.
A case that could not end in time, by the duration of the last similar one, is left out and listed;
one that fails is listed with its error, and the others go on.
"""

import argparse
import importlib
import itertools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NoReturn

from experiments.speed import ceilings, goals, measured
from experiments.speed.measured import Budget, Case, Record, Section
from jaxparc import printing

SECTIONS = ("bank", "train", "extract", "input")


def run(
    out: Path,
    *,
    minutes: float,
    only: Sequence[str] = SECTIONS,
    priorities: Collection[int] | None = None,
    quick: bool = False,
    ran: str = "python -m experiments.speed all",
) -> list[Record]:
    """Measure tables, and write OUT/NAME.md and OUT/NAME.json of each, and OUT/goals.md.

    Args:
        out: the folder.
        minutes: no case is started that cannot end within them.
        only: names in `SECTIONS`, whose order is kept.
        priorities: of the cases to measure; by default all.
        quick: whether to measure sizes that take seconds on a CPU.
        ran: the command line, to record.

    Returns:
        The record of every table, that of the machine's rates first.

    Raises:
        OSError: a table cannot be written.
    """
    budget = Budget(60 * minutes)
    rates = Record(_section("ceilings", quick), out / "ceilings", ran)
    for case in rates.section.cases:
        rates.measure(case, budget)
    about = {"ceilings": ceilings.best(rates.rows)}
    records = {
        name: Record(_section(name, quick), out / name, ran, about)
        for name in SECTIONS
        if name in only
    }
    by_priority = sorted(
        (
            (name, case)
            for name, record in records.items()
            for case in record.section.cases
            if priorities is None or case.priority in priorities
        ),
        key=lambda item: item[1].priority,
    )
    for name, group in itertools.groupby(by_priority, lambda item: item[0]):
        for _, case in group:
            records[name].measure(case, budget)
            goals.write(out)
        records[name].section.free()
    return [rates, *records.values()]


def _section(name: str, quick: bool) -> Section:
    """Return a section; if its module cannot be imported, one whose only case says why."""
    try:
        module = importlib.import_module(f"experiments.speed.{name}")
        section: Section = module.section(module.TINY if quick else module.default())
    except Exception as error:
        return _failing(name, error)
    return section


def _failing(name: str, error: Exception) -> Section:
    def fail() -> NoReturn:
        raise error

    return Section(
        name=name,
        packages=(),
        sizes=None,
        cases=[Case("all", name, fail)],
        header=("nothing is measured",),
        cells=lambda row: (str(row),),
        title=name,
    )


def add(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    command.add_argument("--quick", action="store_true", help="sizes that take seconds on a CPU")
    command.add_argument(
        "--minutes", type=float, default=9.0, help="start nothing that ends later [9]"
    )
    command.add_argument("--out", type=Path, metavar="DIR", required=True, help="write tables here")
    command.add_argument("--only", nargs="+", choices=SECTIONS, metavar="NAME", default=SECTIONS)
    command.add_argument(
        "--priorities",
        type=int,
        nargs="+",
        metavar="N",
        help="measure cases of these priorities: 0 for those that goals need most, up to 3 [all]",
    )
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    records = run(
        args.out,
        minutes=args.minutes,
        only=args.only,
        priorities=args.priorities,
        quick=args.quick,
        ran=args.ran,
    )
    for record in records:
        record.show()
    measured.show(goals.HEADER, goals.write(args.out), "goals on an accelerator")
    failed = [f"{record.section.name}: {name}" for record in records for name in record.failed]
    if failed:
        count = printing.count(len(failed), "case")
        raise SystemExit(f"{count} failed: {printing.some(failed)}")
