"""The command finetune: fine-tune one model of a bank, or the best of a ranking."""

import contextlib
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from jaxparc import datasets, files, finetuned, interrupts, locks, printing
from jaxparc.bank import features, sources, toml_file, tuned, tuned_page, tuning
from jaxparc.bank.entry import Entry
from jaxparc.bank.tuned import Tuned
from jaxparc.bank.tuning import Settings
from jaxparc.commands import LEARNING_RATES, saving
from jaxparc.commands.training_progress import TrainingProgress
from jaxparc.errors import InputError, OperationError, is_out_of_memory
from jaxparc.finetuned import Finetuned
from jaxparc.training.halving import Tried
from jaxparc.units.options import flag_of

_RESUMES = ", and the same command resumes"


def finetune(
    bank: str,
    name: str | None,
    target: str | None,
    *,
    top: int | None = None,
    steps: int = 1000,
    batch_size: int = 64,
    learning_rate: float | None = None,
    seed: int = 0,
    data_dir: str | None = None,
    out: Path | None = None,
) -> None:
    """Fine-tune all weights of models; write them and print their accuracy.

    An interrupted command goes on where it was when it is called again with the same arguments.

    Args:
        bank: an address of models, as `sources.read` takes it; with `top`, a folder that `rank`
            wrote.
        name: name of a model in it; None with `top`.
        target: a data set, as `datasets.load` takes it; None with `top`, for that of the ranking.
        top: number of models of the ranking, the best first; None for one model of a bank.
        steps: see `tuning.Settings`.
        batch_size: see `tuning.Settings`.
        learning_rate: the peak learning rate; None for the best of `LEARNING_RATES`.
        seed: see `tuning.Settings`.
        data_dir: see `tuning.Settings`; with `top`, None for that of the ranking.
        out: the .safetensors file to write; None for a name that is unique to this training. With
            `top`, the folder of the files; None for `finetuned` in the ranking's folder.

    Raises:
        InputError: an argument, the bank or the ranking is wrong, or the weights do not fit the
            network.
        OperationError: the weights cannot be read or written, another process is writing them, or,
            with `top`, a model failed (the others are still fine-tuned).
        DatasetError: the target cannot be read.
        DivergedError: the loss became infinite or NaN.
    """
    rates = LEARNING_RATES if learning_rate is None else (learning_rate,)
    if top is None:
        assert name is not None
        assert target is not None
        entry = _entry(bank, name)
        settings = Settings(target, steps, batch_size, rates, seed, data_dir)
        _check(settings)
        path, _ = _finetune_model(entry, settings, out)
        print(printing.shown(f"written to {path}"))
        return
    if top < 1:
        raise InputError(f"--top is {top}; expected at least 1")
    folder = Path(bank)
    ranking = tuned.read_ranking(folder)
    data_dir = data_dir or ranking.data_dir
    settings = Settings(ranking.target, steps, batch_size, rates, seed, data_dir)
    _check(settings)
    _finetune_top(folder, ranking, top, settings, out or folder / "finetuned")


def _finetune_top(
    folder: Path, ranking: tuned.RankedFolder, top: int, settings: Settings, out: Path
) -> None:
    """Fine-tune the best models of a ranking, and write the results into its folder.

    Raises:
        InputError: the bank cannot be read, or lacks a model.
        OperationError: a model failed, or a file cannot be written.
    """
    entries = _entries(folder, ranking, top)
    for path in (out / "weights.safetensors", folder / tuned.RESULTS):
        saving.require_writable(path)
    if len(entries) < top:
        models = printing.count(len(entries), "model")
        print(f"note: {folder} ranks {models}; --top is {top}", file=sys.stderr)
    done: list[Tuned] = []
    problems = []
    for number, (ranked, entry) in enumerate(zip(ranking.models, entries, strict=False), 1):
        print(
            printing.shown(f"model {number} of {len(entries)}: {ranked.name}, rank {ranked.rank}")
        )
        try:
            path, facts = _finetune_model(entry, settings, None, out)
        except KeyboardInterrupt as interrupt:
            far = str(interrupt).removesuffix(_RESUMES) or "not started"
            models = printing.count(len(entries), "model")
            raise KeyboardInterrupt(
                f"{number - 1} of {models} are done, and {ranked.name}: {far}; the same command "
                "goes on"
            ) from None
        except Exception as error:
            if is_out_of_memory(error):
                reason = "out of memory; a smaller --batch-size may help"
            elif isinstance(error, InputError | OperationError):
                reason = printing.line(error)
            else:
                raise
            print(printing.shown(f"{ranked.name} failed: {reason}"), file=sys.stderr)
            problems.append(ranked.name)
            continue
        done.append(Tuned(ranked, path, facts))
        _write(folder, done, settings)
    if done:
        print()
        print(printing.shown(tuned.verdict(done)))
        print()
        Console(soft_wrap=True).print(tuned.sheet(done).rich())
        for one in done:
            print(printing.shown(f"{one.name}: {one.file}"))
        places = f"{folder / tuned.RESULTS}, and to the page {folder / 'index.html'}"
        print(printing.shown(f"written to {places}"))
    if problems:
        which = f"{printing.count(len(problems), 'model')} failed: {', '.join(problems)}"
        raise OperationError(which)


def _entries(folder: Path, ranking: tuned.RankedFolder, top: int) -> list[Entry]:
    """Return the models of a bank that rank best.

    Raises:
        InputError: the bank cannot be read, or lacks a model.
    """
    try:
        entries = {entry.name: entry for entry in sources.read(ranking.addresses)}
    except InputError as error:
        raise InputError(
            f"{error}; paths in {folder / tuned.RANKING} are relative to the folder in which "
            "`jaxparc rank` was run"
        ) from None
    chosen = ranking.models[:top]
    if gone := [model.name for model in chosen if model.name not in entries]:
        raise InputError(
            f"{', '.join(ranking.addresses)}: {printing.some(gone)} of {folder / tuned.RANKING} "
            "no longer there; run `jaxparc rank` again"
        )
    return [entries[model.name] for model in chosen]


def _write(folder: Path, done: list[Tuned], settings: Settings) -> None:
    """Write finetuned.json, and the section of the page.

    Raises:
        OperationError: a file cannot be written.
    """
    try:
        files.write_text(folder / tuned.RESULTS, tuned.json_text(done, settings.target))
        tuned_page.write(folder / "index.html", done, tuning.class_names(settings))
    except OSError as error:
        raise OperationError(
            f"cannot write {error.filename or folder}: {error.strerror}"
        ) from error


def _finetune_model(
    entry: Entry, settings: Settings, out: Path | None, folder: Path = Path("finetuned")
) -> tuple[Path, dict[str, Any]]:
    """Fine-tune a model, or what is left of it; write its weights and print its accuracy.

    Args:
        entry: the model.
        settings: how.
        out: the file to write; None for a name in `folder`.
        folder: the folder.

    Returns:
        The file, and what it records.

    Raises:
        InputError: the weights do not fit the network, or the target has too few images.
        OperationError: the weights cannot be read or written, or another process is writing them.
        DatasetError: the target cannot be read.
        DivergedError: the loss became infinite or NaN.
    """
    short_name = datasets.short_name(settings.target)
    try:
        made_of = tuning.identity(entry, settings)
    except OSError as error:
        raise OperationError(f"{error.filename or entry.weights}: {error.strerror}") from error
    out = out or folder / f"{entry.name}-{short_name}-{made_of[:6]}.safetensors"
    saving.require_writable(out)
    known = _known(out, made_of)
    title = f"{entry.name} on {short_name}"
    if known is not None and "accuracy" in known:
        print(printing.shown(f"{title}: already fine-tuned"))
        _print_accuracy(title, known)
        _print_linear_probe(known)
        return out, known
    # An interrupted training with the same inputs resumes from this state.
    states = out.with_name(f".{out.name}.partial")
    partial = states / files.digest([made_of, features.package()])[:16]
    kept = f"the weights were written to {out}" if known else ""
    failure: OperationError | None = None

    def keep(model: Finetuned) -> None:
        nonlocal failure, kept
        try:
            saving.save(model.loaded, out, model.header())
            kept = f"the weights were written to {out}"
        except OperationError as error:
            failure, kept = error, str(error)

    progress = TrainingProgress(f"{entry.name} to {short_name}", settings.total_steps)

    def report(tried: Tried) -> None:
        progress.reach(tried.learning_rate, tried.steps)
        how = "diverged" if tried.validation is None else f"{tried.validation:.2f} %"
        progress.say(
            f"{entry.name} to {short_name}: learning rate {tried.learning_rate:g} after "
            f"{tried.steps} of {settings.steps} steps: {how}"
            + ("" if tried.validation is None else " of the validation images")
        )

    with _alone_at(out, states, partial):
        try:
            if known is None:
                with progress:
                    model = tuning.train(
                        entry,
                        settings,
                        made_of=made_of,
                        watch=progress.watch,
                        report=report,
                        partial=partial,
                    )
                keep(model)
            else:
                model = finetuned.load_finetuned(out)
            model = tuning.evaluate(model, settings)
            _print_accuracy(title, model.facts())
            model = model.with_facts(linear_probe=tuning.probe(entry, settings))
            _print_linear_probe(model.facts())
            if failure is None:
                keep(model)
        except OSError as error:
            if interrupts.came():
                raise KeyboardInterrupt(
                    f"{progress.done} of {settings.total_steps} steps were done and cannot be "
                    f"saved: {error.strerror}"
                ) from error
            raise OperationError(f"{error.filename or out}: {error.strerror}") from error
        except KeyboardInterrupt:
            how = f"are saved{_RESUMES}" if partial.exists() else "were done"
            raise KeyboardInterrupt(
                kept or f"{progress.done} of {settings.total_steps} steps {how}"
            ) from None
        if failure is not None:
            raise failure
    return out, model.facts()


def _known(out: Path, made_of: str) -> dict[str, Any] | None:
    """Return what an existing file of the same training records; None if there is none."""
    try:
        facts = finetuned.read_facts(out)
    except (OSError, InputError):  # missing or damaged; it is trained again
        return None
    return facts if facts is not None and facts.get("made_of") == made_of else None


def _print_accuracy(title: str, facts: Mapping[str, Any]) -> None:
    low, high = facts["interval"]
    what = "labels" if facts["multi_label"] else "test images"
    print(
        printing.shown(
            f"{title}: {facts['accuracy']:.2f} % of the {what}, 95 % interval {low:.1f} to "
            f"{high:.1f}"
        )
    )
    for note in tuned.notes_of(facts):
        print(note)
    if low <= facts["chance"]:
        print("this is at chance level; another --learning-rate or more --steps may help")


def _print_linear_probe(facts: Mapping[str, Any]) -> None:
    if (probe := facts["linear_probe"]) is not None:
        found = "undefined" if probe["accuracy"] is None else f"{probe['accuracy']:.2f} %"
        print(
            "a linear probe reaches "
            f"{found} (logistic regression on the features before fine-tuning, of "
            f"{probe['images']:,} training images)"
        )
        if probe["accuracy"] is not None and probe["accuracy"] > facts["interval"][1]:
            print(
                "this is better than fine-tuning; more --steps or another --learning-rate may help"
            )


def _check(settings: Settings) -> None:
    """Check the settings of the command line.

    Raises:
        InputError: one is out of range, or as for `tuning.check`.
        DatasetError: the target cannot be read.
    """
    given = {
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "learning_rate": min(settings.rates),
    }
    for name, value in given.items():
        if not value > 0:
            raise InputError(f"{flag_of(name)} is {value}; expected a number above 0")
    if settings.seed < 0:
        raise InputError(f"--seed is {settings.seed}; expected at least 0")
    devices = jax.local_device_count()
    if settings.batch_size % devices:
        raise InputError(
            f"--batch-size is {settings.batch_size}; expected a multiple of {devices} devices"
        )
    tuning.check(settings)


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
