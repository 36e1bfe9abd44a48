"""The commands that write weights: finetune and convert."""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxparc import printing


def add(commands: "argparse._SubParsersAction[Any]") -> None:
    """Adds the commands, each with the function that runs it."""
    _add_finetune(commands)
    _add_convert(commands)


def _add_finetune(commands: "argparse._SubParsersAction[Any]") -> None:
    tune = commands.add_parser(
        "finetune",
        help="fine-tune a model of a bank: what the ranking advised",
        description="Fine-tune all weights of one model of a bank to a target.",
    )
    tune.add_argument("bank", metavar="BANK", help="bank.toml")
    tune.add_argument("name", metavar="NAME", help="of a model in it")
    tune.add_argument("target", metavar="TARGET", help="of data list, or folder:PATH, csv:, npz:")
    for flag, kind, default, what in (
        ("steps", int, 1000, "batches"),
        ("batch_size", int, 64, "of all devices together"),
        ("learning_rate", float, 0.01, "after the warm-up"),
        ("seed", int, 0, "of head, order and crops"),
    ):
        metavar = "N" if kind is int else "X"
        tune.add_argument(
            f"--{flag}", type=kind, default=default, metavar=metavar, help=f"{what} [{default}]"
        )
    tune.add_argument(
        "--data_dir", help="TFDS data folder; TFDS_DATA_DIR or ~/tensorflow_datasets if not given"
    )
    tune.add_argument(
        "--out", type=Path, metavar="FILE", help="weights [finetuned/NAME-TARGET-HASH.safetensors]"
    )
    tune.set_defaults(run=_finetune)


def _finetune(args: argparse.Namespace) -> None:
    import jax
    from rich.console import Console
    from rich.progress import Progress

    from jaxparc import datasets, interrupts
    from jaxparc.bank import features as bank_features
    from jaxparc.bank import toml_file as bank_file

    entries = {entry.name: entry for entry in bank_file.read(args.bank)}
    if args.name not in entries:
        known = ", ".join(map(bank_file.said_name, entries.values()))
        raise ValueError(f"{args.bank} has no model {args.name!r}; it has {known}")
    entry = entries[args.name]
    if entry.refused is not None:
        raise ValueError(f"{args.bank}: model {bank_file.said_name(entry)}: {entry.refused}")
    target = datasets.short_name(args.target)
    for flag in ("steps", "batch_size", "learning_rate"):
        if not getattr(args, flag) > 0:
            raise ValueError(f"--{flag} is {getattr(args, flag)}; expected a number above 0")
    if args.seed < 0:
        raise ValueError(f"--seed is {args.seed}; expected at least 0")
    if args.batch_size % jax.local_device_count():
        devices = jax.local_device_count()
        raise ValueError(f"--batch_size {args.batch_size} does not divide over {devices} devices")
    told = {flag: getattr(args, flag) for flag in ("steps", "batch_size", "learning_rate", "seed")}
    try:
        made_of = [told, bank_features.seen_by(entry), _version(args.target, args.data_dir)]
    except OSError as error:
        raise RuntimeError(f"{error.filename or entry.weights}: {error.strerror}") from error
    out = args.out or Path("finetuned") / f"{args.name}-{target}-{_hash(made_of)}.safetensors"
    _require_writable(out)
    # Whatever is interrupted goes on from here, if it is the same training.
    states = out.with_name(f".{out.name}.partial")
    partial, done = states / _hash([made_of, bank_features.package()], 16), 0

    failure: RuntimeError | None = None
    kept = ""

    def keep(loaded: Any) -> None:
        nonlocal failure, kept
        try:
            _save(loaded, out)
            kept = f"the weights are written to {out}"
        except RuntimeError as error:
            failure, kept = error, str(error)

    def watch(steps: Any) -> None:
        nonlocal done
        done = steps.first + steps.metrics["loss"].shape[1]
        bar.update(task, completed=done)

    console = Console(stderr=True)
    with _alone_at(out, states, partial):
        try:
            with Progress(console=console, disable=not console.is_terminal) as bar:
                task = bar.add_task(f"{args.name} to {target}", total=args.steps)
                tuned = bank_file.finetune(
                    entry,
                    args.target,
                    **told,
                    data_dir=args.data_dir,
                    watch=watch,
                    partial=partial,
                    keep=keep,
                )
        except OSError as error:
            if interrupts.came():
                raise KeyboardInterrupt(
                    f"{done} of {args.steps} steps were done and cannot be kept: {error.strerror}"
                ) from error
            raise RuntimeError(f"{error.filename or out}: {error.strerror}") from error
        except KeyboardInterrupt:
            how = "are kept, and the same command goes on" if partial.exists() else "were done"
            raise KeyboardInterrupt(kept or f"{done} of {args.steps} steps {how}") from None
        line = f"{args.name} on {target}: {tuned.accuracy:.2f} % of the test images"
        print(printing.shown(line))
        if tuned.at_chance:
            print(
                f"that is at chance level: {tuned.largest:.1f} % of them are of the largest class; "
                "another --learning_rate or more --steps may help"
            )
        if failure is not None:
            raise failure
    print(printing.shown(f"written to {out}"))


def _hash(told: Any, digits: int = 6) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:digits]


def _version(target: str, data_dir: str | None) -> list[str]:
    """What tells a target from others, and from itself with other images."""
    from jaxparc import datasets

    spec = datasets.spec_of(target, data_dir=data_dir)
    return [spec.name, spec.version, str(datasets.folder_of(target, data_dir=data_dir))]


@contextlib.contextmanager
def _alone_at(out: Path, states: Path, partial: Path) -> Iterator[None]:
    """Keeps a second training that writes the same file out. What it needs in the folder of states
    is cleared away once the block succeeds, or if it leaves none.
    """
    from jaxparc import files

    made, done = not out.parent.exists(), False
    with files.alone(states, f"another process trains what goes to {out}"):
        try:
            yield
            done = True
        finally:
            if done or not partial.exists():
                shutil.rmtree(states, ignore_errors=True)
                if made and not done:
                    with contextlib.suppress(OSError):  # there is more in it by now
                        out.parent.rmdir()


def _require_writable(path: Path) -> None:
    """Refuses, before anything is computed, where no file can be written.

    Raises:
        RuntimeError: it cannot.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "no regular file"
            raise RuntimeError(f"cannot write {path}: it is {kind}")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        trial = folder / f".{path.name}.{os.getpid()}.incomplete"
        try:
            trial.write_bytes(bytes(4096))
        finally:
            trial.unlink(missing_ok=True)
    except OSError as error:
        raise RuntimeError(f"cannot write {path}: {error.strerror}") from error


def _save(loaded: Any, path: Path) -> None:
    """Writes weights or, where that fails after all, elsewhere, and says where.

    Raises:
        RuntimeError: they are not at `path`.
    """
    failure = _tried(loaded, path)
    if failure is None:
        return
    tried = []
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        other = folder / f"{path.stem[:100]}-{os.getpid()}{path.suffix}"
        if _tried(loaded, other) is None:
            raise RuntimeError(f"cannot write {path}: {failure}; the weights are in {other}")
        tried.append(str(folder))
    raise RuntimeError(f"cannot write {path}: {failure}; nor in {' or '.join(tried)}")


def _tried(loaded: Any, path: Path) -> str | None:
    """Writes weights; why that failed, None if it did not."""
    from safetensors import SafetensorError

    from jaxparc.weights import native

    try:
        native.save(loaded, path)
    except SafetensorError as error:  # with the system's error in its text
        code = re.search(r"os error (\d+)", str(error))
        return os.strerror(int(code[1])) if code else str(error)
    except OSError as error:
        return error.strerror
    return None


def _add_convert(commands: "argparse._SubParsersAction[Any]") -> None:
    convert = commands.add_parser(
        "convert",
        help="weights of any format to a safetensors file of this library's own names",
        description="Read weights as they were published, and write them for jaxparc.weights.load.",
    )
    convert.add_argument("source", metavar="SRC", help="PyTorch's, safetensors, npz, Keras's, ...")
    convert.add_argument("destination", type=Path, metavar="DST", help="a .safetensors file")
    convert.add_argument("--architecture", metavar="NAME", help="told by the names if not given")
    convert.add_argument("--scheme", metavar="NAME", help="whose names they are; found by default")
    convert.add_argument("--variant", metavar="NAME", help="which of several networks they are of")
    convert.add_argument("--weights-key", metavar="KEY", help="which of several weights in SRC")
    convert.add_argument(
        "--ignore", nargs="+", default=(), metavar="PATTERN", help="names that are left out"
    )
    convert.add_argument("--channels", choices=("rgb", "bgr"), help="of the images; by the scheme")
    convert.add_argument(
        "--stride-in-1x1",
        action=argparse.BooleanOptionalAction,
        help="of ResNets' bottlenecks; by the scheme",
    )
    convert.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    from jaxparc import weights
    from jaxparc.weights import loading

    if args.destination.suffix != ".safetensors":
        raise ValueError(f"{args.destination} does not end in .safetensors")
    _require_writable(args.destination)
    try:
        loaded = weights.load(args.architecture, args.source, **loading.options_of(args))
        _save(loaded, args.destination)
    except OSError as error:
        raise RuntimeError(f"{error.filename or args.source}: {error.strerror}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{args.destination} is not written") from None
    classes = loaded.module.num_classes
    name = loaded.spec.name
    lines = [f"{args.source}: {name}, {loaded.scheme}'s names, {classes} classes"]
    if not args.architecture and loaded.scheme != "jaxparc":
        lines.append(f"  note: taken for {name} by its names; --architecture says otherwise")
    lines += [f"  note: {note}" for note in loaded.notes]
    counters = [name for name in loaded.left_out if name.endswith("num_batches_tracked")]
    lines += [f"  left out: {name}" for name in loaded.left_out if name not in counters]
    if counters:
        lines.append(f"  left out: {printing.count(len(counters), 'name')} *num_batches_tracked")
    for line in (*lines, f"written to {args.destination}"):
        print(printing.shown(line))
