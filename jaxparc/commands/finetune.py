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
from jaxparc.bank import features, sources, toml_file
from jaxparc.bank.toml_file import Entry
from jaxparc.commands import saving
from jaxparc.errors import InputError, OperationError
from jaxparc.units.options import flag_of


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

    An interrupted training resumes when the function is called again with the same arguments.

    Args:
        bank: an address of models, as `sources.read` takes it.
        name: name of a model in it.
        target: a data set, as `datasets.load` takes it.
        steps: as `toml_file.finetune` takes it.
        batch_size: as `toml_file.finetune` takes it.
        learning_rate: as `toml_file.finetune` takes it.
        seed: as `toml_file.finetune` takes it.
        data_dir: as `datasets.load` takes it.
        out: the .safetensors file to write; None for a name that is unique to this training.

    Raises:
        InputError: an argument or the bank is wrong, or the weights do not fit the network.
        OperationError: the weights cannot be read or written, or another process is writing them.
        DatasetError: the target cannot be read.
        DivergedError: the loss became infinite or NaN.
    """
    options = {
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    entry = _entry(bank, name)
    short_name = datasets.short_name(target)
    datasets.require_classes(target, "fine-tuning")
    _check(options)
    try:
        inputs = [options, features.extraction_settings(entry), _version(target, data_dir)]
    except OSError as error:
        raise OperationError(f"{error.filename or entry.weights}: {error.strerror}") from error
    out = out or Path("finetuned") / f"{name}-{short_name}-{_hash(inputs)}.safetensors"
    saving.require_writable(out)
    # An interrupted training with the same inputs resumes from this state.
    states = out.with_name(f".{out.name}.partial")
    partial, done = states / _hash([inputs, features.package()], 16), 0

    failure: OperationError | None = None
    kept = ""

    def keep(loaded: Any) -> None:
        nonlocal failure, kept
        try:
            saving.save(loaded, out)
            kept = f"the weights were written to {out}"
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
                    f"{done} of {steps} steps were done and cannot be saved: {error.strerror}"
                ) from error
            raise OperationError(f"{error.filename or out}: {error.strerror}") from error
        except KeyboardInterrupt:
            how = "are saved, and the same command resumes" if partial.exists() else "were done"
            raise KeyboardInterrupt(kept or f"{done} of {steps} steps {how}") from None
        line = f"{name} on {short_name}: {tuned.accuracy:.2f} % of the test images"
        print(printing.shown(line))
        if tuned.at_chance:
            print(
                f"this is at chance level: {tuned.largest:.1f} % of them are in the largest class; "
                "another --learning-rate or more --steps may help"
            )
        if failure is not None:
            raise failure
    print(printing.shown(f"written to {out}"))


def _entry(bank: str, name: str) -> Entry:
    """Return a model of a bank.

    Raises:
        InputError: the bank has no such model, or the model cannot be used.
    """
    entries = {entry.name: entry for entry in sources.read([bank])}
    if name not in entries:
        known = ", ".join(map(toml_file.printable_name, entries.values()))
        raise InputError(f"{bank} has no model {name!r}; it has {known}")
    entry = entries[name]
    if entry.refused is not None:
        raise InputError(f"{bank}: model {toml_file.printable_name(entry)}: {entry.refused}")
    return entry


def _check(options: dict[str, Any]) -> None:
    """Check the numerical options of the command line.

    Raises:
        InputError: an option is out of range.
    """
    for name in ("steps", "batch_size", "learning_rate"):
        if not options[name] > 0:
            raise InputError(f"{flag_of(name)} is {options[name]}; expected a number above 0")
    if options["seed"] < 0:
        raise InputError(f"--seed is {options['seed']}; expected at least 0")
    devices = jax.local_device_count()
    if options["batch_size"] % devices:
        raise InputError(
            f"--batch-size is {options['batch_size']}; expected a multiple of {devices} devices"
        )


def _hash(content: Any, digits: int = 6) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:digits]


def _version(target: str, data_dir: str | None) -> list[str]:
    """Return an identifier of a target and of its images."""
    spec = datasets.spec_of(target, data_dir=data_dir)
    return [spec.name, spec.version, str(datasets.folder_of(target, data_dir=data_dir))]


@contextlib.contextmanager
def _alone_at(out: Path, states: Path, partial: Path) -> Iterator[None]:
    """Exclude other processes that would write the same file.

    Args:
        out: the file.
        states: folder of the states of unfinished trainings for it, removed if the block succeeds
            or leaves no state.
        partial: the state of this training.

    Raises:
        OperationError: another process is writing the file.
    """
    created, done = not out.parent.exists(), False
    busy = f"another process is training weights for {out}; wait for it, or give another --out"
    with locks.alone(states, busy):
        try:
            yield
            done = True
        finally:
            if done or not partial.exists():
                shutil.rmtree(states, ignore_errors=True)
                if created and not done:
                    with contextlib.suppress(OSError):  # not empty any more
                        out.parent.rmdir()
