"""Run units of work: skip those that are done, show progress, and record failures.

Finished units are kept. A unit that fails is recorded in failures/ and the others continue; an
error that would make every unit fail (disk full, no permission) ends the run.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxparc import files, printing
from jaxparc.errors import OperationError
from jaxparc.units.executors import EXECUTORS
from jaxparc.units.options import LOCAL, Execution
from jaxparc.units.progress import Progress, say
from jaxparc.units.unit import FatalError, Made, Unit, is_done

NAMES = "NAMES"  # placeholder, in a value of `Unit.lacks`, for the keys with that value


def of_shard(units: Sequence[Unit], shard: tuple[int, int]) -> list[Unit]:
    """Return the i-th of n parts of the units, without splitting groups.

    Args:
        units: all units; their order determines which part they belong to.
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
    until: float = math.inf,
    watch: Callable[[Made], None] = lambda made: None,
) -> dict[str, str]:
    """Make the units that are not done yet, with live progress.

    Args:
        title: title of this set of units, shown and used to name the record of failures.
        units: the units, in order of execution.
        folder: failures are recorded in failures/TITLE.json in this folder; an earlier record is
            removed first.
        execution: how to run the units; with a shard, only its part of the units is run.
        listing: lists the same units in another process, where they are found by name; it must be
            picklable. Without it, units are made in this process, whatever the executor.
        noun: word for a unit in messages.
        until: time of `time.monotonic` after which no further unit is started; those that are left
            are made by a later call.
        watch: called with the outcome of each unit that succeeded; one that is already done took 0
            seconds.

    Returns:
        Name of each unit that failed -> the error, in one line.

    Raises:
        OperationError: nothing can be written, or units lack prerequisites and `allow_missing` is
            false.
        KeyboardInterrupt: the run was interrupted; the message has the number of finished units.
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
                    watch(Made(unit.name, 0.0))
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
            with contextlib.closing(
                execute(todo, listing, progress, execution.num_gpus)
            ) as outcomes:
                while time.monotonic() < until and (made := next(outcomes, None)):
                    progress.finish(made.name, made.seconds, made.error, made.notes)
                    if made.error is None:
                        kept += 1
                        watch(made)
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


def recorded_failures(folder: Path, title: str, shards: int) -> dict[str, str]:
    """Return the failures that all shards have recorded: name of each unit -> the error.

    Args:
        folder: as `run_units` takes it.
        title: as `run_units` takes it.
        shards: n, the number of shards; records of other divisions are not read, as they may be of
            another time.
    """
    found = {}
    for path in sorted((folder / "failures").glob(f"{title}-*of{shards}.json")):
        for failure in json.loads(path.read_text(encoding="utf-8")):
            found[failure["unit"]] = failure["error"]
    return found


def _kept(kept: int, total: int, noun: str) -> str:
    return f"{kept} of {printing.count(total, noun)} are done and kept"


def missing(units: Sequence[Unit], noun: str = "unit") -> str:
    """Return a message that lists what units lack, grouped by the command that provides it."""
    ways: dict[str, dict[str, None]] = {}
    for unit in units:
        for what, way in unit.lacks.items():
            ways.setdefault(way, {})[what] = None
    lines = [f"  {way.replace(NAMES, ' '.join(whats))}" for way, whats in ways.items()]
    need = "needs" if len(units) == 1 else "need"
    count = printing.count(len(units), noun)
    return f"{count} {need} files that are not on this machine:\n" + "\n".join(lines)
