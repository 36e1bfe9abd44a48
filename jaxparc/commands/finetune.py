"""The command finetune: fine-tune one model of a bank."""

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import Progress

from jaxparc import datasets, interrupts, locks, printing
from jaxparc.bank import features, toml_file
from jaxparc.bank.toml_file import Entry
from jaxparc.commands import saving
from jaxparc.errors import InputError, OperationError


def finetune(
    bank: str,
    name: str,
    target: str,
    *,
    steps: int = 1000,
    batch_size: int = 64,
    learning_rate: float = 0.01,
    seed: int = 0,
    data_dir: str | None = None,
    out: Path | None = None,
) -> None:
    """Fine-tune all weights of one model of a bank; write them and print their accuracy.

    An interrupted training continues when it is called again with the same arguments.

    Args:
        bank: path of a bank.toml.
        name: of a model in it.
        target: a data set, as `datasets.load` takes it.
        steps: as `toml_file.finetune` takes them.
        batch_size: likewise.
        learning_rate: likewise.
        seed: likewise.
        data_dir: as `datasets.load` takes it.
        out: a .safetensors file; None for one whose name no other training has.

    Raises:
        InputError: an argument or the bank is wrong, or the weights do not fit.
        OperationError: the weights cannot be read or written, or another process trains them.
        DatasetError: the target cannot be read.
        DivergedError: the loss is not finite.
    """
    options = {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    entry = _entry(bank, name)
    short_name = datasets.short_name(target)
    _check(options)
    try:
        made_of = [options, features.seen_by(entry), _version(target, data_dir)]
    except OSError as error:
        raise OperationError(f"{error.filename or entry.weights}: {error.strerror}") from error
    out = out or Path("finetuned") / f"{name}-{short_name}-{_hash(made_of)}.safetensors"
    saving.require_writable(out)
    # An interrupted training continues from here, if it is the same one.
    states = out.with_name(f".{out.name}.partial")
    partial, done = states / _hash([made_of, features.package()], 16), 0

    failure: OperationError | None = None
    kept = ""

    def keep(loaded: Any) -> None:
        nonlocal failure, kept
        try:
            saving.save(loaded, out)
            kept = f"the weights are written to {out}"
        except OperationError as error:
            failure, kept = error, str(error)

    def watch(trained: Any) -> None:
        nonlocal done
        done = trained.first + trained.metrics["loss"].shape[1]
        bar.update(task, completed=done)

    console = Console(stderr=True)
    with _alone_at(out, states, partial):
        try:
            with Progress(console=console, disable=not console.is_terminal) as bar:
                task = bar.add_task(f"{name} to {short_name}", total=steps)
                tuned = toml_file.finetune(
                    entry,
                    target,
                    steps=steps,
                    batch_size=batch_size,
                    learning_rate=learning_rate,
                    seed=seed,
                    data_dir=data_dir,
                    watch=watch,
                    partial=partial,
                    keep=keep,
                )
        except OSError as error:
            if interrupts.came():
                raise KeyboardInterrupt(
                    f"{done} of {steps} steps were done and cannot be kept: {error.strerror}"
                ) from error
            raise OperationError(f"{error.filename or out}: {error.strerror}") from error
        except KeyboardInterrupt:
            how = "are kept, and the same command goes on" if partial.exists() else "were done"
            raise KeyboardInterrupt(kept or f"{done} of {steps} steps {how}") from None
        line = f"{name} on {short_name}: {tuned.accuracy:.2f} % of the test images"
        print(printing.shown(line))
        if tuned.at_chance:
            print(
                f"that is at chance level: {tuned.largest:.1f} % of them are of the largest class; "
                "another --learning_rate or more --steps may help"
            )
        if failure is not None:
            raise failure
    print(printing.shown(f"written to {out}"))


def _entry(bank: str, name: str) -> Entry:
    """Return a model of a bank.

    Raises:
        InputError: there is no such model, or it cannot be used.
    """
    entries = {entry.name: entry for entry in toml_file.read(bank)}
    if name not in entries:
        known = ", ".join(map(toml_file.said_name, entries.values()))
        raise InputError(f"{bank} has no model {name!r}; it has {known}")
    entry = entries[name]
    if entry.refused is not None:
        raise InputError(f"{bank}: model {toml_file.said_name(entry)}: {entry.refused}")
    return entry


def _check(options: dict[str, Any]) -> None:
    """Check the numbers of a command line.

    Raises:
        InputError: one is out of range.
    """
    for flag in ("steps", "batch_size", "learning_rate"):
        if not options[flag] > 0:
            raise InputError(f"--{flag} is {options[flag]}; expected a number above 0")
    if options["seed"] < 0:
        raise InputError(f"--seed is {options['seed']}; expected at least 0")
    devices = jax.local_device_count()
    if options["batch_size"] % devices:
        raise InputError(
            f"--batch_size {options['batch_size']} does not divide over {devices} devices"
        )


def _hash(content: Any, digits: int = 6) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:digits]


def _version(target: str, data_dir: str | None) -> list[str]:
    """Return what distinguishes a target from others, and from itself with other images."""
    spec = datasets.spec_of(target, data_dir=data_dir)
    return [spec.name, spec.version, str(datasets.folder_of(target, data_dir=data_dir))]


@contextlib.contextmanager
def _alone_at(out: Path, states: Path, partial: Path) -> Iterator[None]:
    """Keep a second training that writes the same file out.

    Args:
        out: the file.
        states: folder of unfinished trainings of it, removed when the block succeeds or leaves no
            state.
        partial: the state of this one.

    Raises:
        OperationError: another process trains it.
    """
    made, done = not out.parent.exists(), False
    busy = f"another process trains what goes to {out}; wait for it, or give another --out"
    with locks.alone(states, busy):
        try:
            yield
            done = True
        finally:
            if done or not partial.exists():
                shutil.rmtree(states, ignore_errors=True)
                if made and not done:
                    with contextlib.suppress(OSError):  # there is more in it by now
                        out.parent.rmdir()
