"""Units of work, run: resumed, shown, recorded; one failure does not stop the rest.

What is done is kept. A unit that fails is recorded in failures/ and the others go on; an error that
would fail them all (disk full, no permission) ends the run.
"""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxparc import files, printing
from jaxparc.errors import OperationError
from jaxparc.units.executors import EXECUTORS
from jaxparc.units.options import LOCAL, Execution
from jaxparc.units.progress import Progress, say
from jaxparc.units.unit import FatalError, Unit, is_done

NAMES = "NAMES"  # in the value of `Unit.lacks`, stands for its keys


def of_shard(units: Sequence[Unit], shard: tuple[int, int]) -> list[Unit]:
    """Return the i-th of n parts of the units, groups kept whole.

    Args:
        units: all of them; their order decides which part they are in.
        shard: (i, n), i from 1.
    """
    i, n = shard
    groups = [unit.group or unit.name for unit in units]
    turn = {group: k for k, group in enumerate(dict.fromkeys(groups))}
    return [unit for unit, group in zip(units, groups, strict=True) if turn[group] % n == i - 1]


def run_units(
    title: str,
    units: Sequence[Unit],
    folder: Path,
    *,
    execution: Execution = LOCAL,
    listing: Callable[[], Sequence[Unit]] | None = None,
    noun: str = "unit",
) -> dict[str, str]:
    """Make the units that are not done yet, with live progress.

    Args:
        title: of this set of units: shown, and the name of the record of failures.
        units: in this order.
        folder: failures are recorded in its failures/, which is removed when there are none.
        execution: how; with a shard, of its part of the units alone.
        listing: lists the same units in another process, which finds one by its name; it must be
            picklable. Without it, units are made in this process whatever the executor.
        noun: what a unit is called in messages.

    Returns:
        Name of each unit that failed -> the error, in one line.

    Raises:
        OperationError: nothing can be written, or units lack something and that is not allowed.
        KeyboardInterrupt: interrupted; the message says how many units are done.
    """
    units = of_shard(units, execution.shard)
    i, n = execution.shard
    record = folder / "failures" / f"{title}{'' if n == 1 else f'-{i}of{n}'}.json"
    failures: list[dict[str, str]] = []
    started = time.monotonic()
    with Progress(title, len(units)) as progress:
        kept, todo = 0, []
        try:
            for unit in units:
                progress.start(f"checking {unit.name}")
                if is_done(unit):
                    kept += 1
                    progress.keep()
                else:
                    todo.append(unit)
            if left_out := [unit for unit in todo if unit.lacks]:
                if not execution.allow_missing:
                    raise OperationError(f"{title}: {missing(left_out, noun)}")
                todo = [unit for unit in todo if not unit.lacks]
                progress.leave_out(len(left_out))
                say(f"{title}: {len(left_out)} skipped, as they lack data or weights")
            total, there = kept + len(todo), kept
            record.unlink(missing_ok=True)
            execute = EXECUTORS[execution.executor if listing else "local"]
            for made in execute(todo, listing, progress, execution.num_gpus):
                progress.finish(made.name, made.seconds, made.error, made.notes)
                if made.error is None:
                    kept += 1
                    continue
                failures.append(
                    {"unit": made.name, "error": made.error, "traceback": made.traceback}
                )
                files.write_text(record, json.dumps(failures, indent=1) + "\n")
        except FatalError as error:
            raise OperationError(f"{title}: {error}; {_kept(kept, total, noun)}") from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_kept(kept, len(units), noun)) from None
    if failures:
        say(f"{title}: {len(failures)} of {printing.count(total, noun)} failed; see {record}")
    seconds = time.monotonic() - started
    say(f"{title}: {kept - there} made in {seconds:.1f} s, {there} already done")
    return {failure["unit"]: failure["error"] for failure in failures}


def _kept(kept: int, total: int, noun: str) -> str:
    return f"{kept} of {printing.count(total, noun)} are done and kept"


def missing(units: Sequence[Unit], noun: str = "unit") -> str:
    """Say what units lack, grouped by the command that provides it."""
    ways: dict[str, dict[str, None]] = {}
    for unit in units:
        for what, way in unit.lacks.items():
            ways.setdefault(way, {})[what] = None
    lines = [f"  {way.replace(NAMES, ' '.join(whats))}" for way, whats in ways.items()]
    need = "needs" if len(units) == 1 else "need"
    count = printing.count(len(units), noun)
    return f"{count} {need} what is not on this machine:\n" + "\n".join(lines)
