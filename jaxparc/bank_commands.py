"""The commands that take a bank file or weights: extract, rank, finetune and convert."""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

Command = Callable[[argparse.Namespace], None]


def add(commands: "argparse._SubParsersAction[Any]", score: Command) -> None:
    """Adds the commands, each with the function that runs it.

    Args:
        commands: of the command line.
        score: runs the command `score`, with which `rank` ends.
    """
    _add_rank(commands, score)
    _add_finetune(commands)
    _add_convert(commands)


def _add_rank(commands: "argparse._SubParsersAction[Any]", score: Command) -> None:
    bank = argparse.ArgumentParser(add_help=False)
    bank.add_argument("bank", metavar="BANK", help="bank.toml: models, and where their weights are")
    bank.add_argument("target", metavar="TARGET", help="of data list, or folder:PATH, csv:, npz:")
    bank.add_argument("--images", type=int, default=500, metavar="N", help="to look at [500]")
    bank.add_argument("--seed", type=int, default=0, metavar="N", help="of their choice [0]")
    bank.add_argument("--batch_size", type=int, default=32, metavar="N", help="of all devices [32]")
    bank.add_argument(
        "--data_dir", help="TFDS data folder; TFDS_DATA_DIR or ~/tensorflow_datasets if not given"
    )
    bank.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of features [features/BANK-TARGET]"
    )
    extract = commands.add_parser(
        "extract",
        parents=[bank],
        help="let every model of a bank look at a target",
        description="Write the features that every model of a bank has of a target's images.",
    )
    extract.set_defaults(run=_extract)
    rank = commands.add_parser(
        "rank",
        parents=[bank],
        help="rank the models of a bank for a target: extract and score",
        description="Rank pretrained models by how good they will be after fine-tuning.",
    )
    rank.add_argument("--methods", nargs="+", metavar="NAME", help="the first one ranks [parc_f32]")
    rank.set_defaults(run=functools.partial(_rank, score))


def _extract(args: argparse.Namespace) -> None:
    import time

    from rich.console import Console

    from jaxparc import bank_file, datasets

    entries = bank_file.read(args.bank)
    name = datasets.short_name(args.target)
    args.out = args.out or Path("features") / f"{Path(args.bank).stem}-{name}"
    console, failed, started = Console(), [], time.monotonic()
    with console.status("") as status:

        def starts(entry: bank_file.Entry) -> None:
            status.update(f"{entry.name} looks at {name}")

        looks = bank_file.extract(
            entries,
            args.target,
            args.out,
            images=args.images,
            seed=args.seed,
            batch_size=args.batch_size,
            data_dir=args.data_dir,
            starts=starts,
        )
        try:
            for number, look in enumerate(looks, start=1):
                seconds, started = time.monotonic() - started, time.monotonic()
                outcome = "was there" if look.kept else f"{seconds:.1f} s"
                if look.error is not None:
                    failed.append(look.entry.name)
                    outcome = f"FAILED: {look.error}"
                line = f"{number}/{len(entries)} {look.entry.name}: {outcome}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)
        except OSError as error:
            raise RuntimeError(f"cannot write {args.out}: {error.strerror}") from error
    args.failed = failed
    if args.run is _extract:
        print(f"features are in {args.out}: python -m jaxparc score {args.out}")
        _say_failed(args)


def _say_failed(args: argparse.Namespace) -> None:
    if args.failed:
        raise RuntimeError(f"{len(args.failed)} models failed: {', '.join(args.failed)}")


def _rank(score: Command, args: argparse.Namespace) -> None:
    from jaxparc import bank_file, datasets

    _extract(args)
    of_bank = {entry.name for entry in bank_file.read(args.bank)}
    there = {path.stem for path in args.out.glob("*.npz")}
    if others := there - of_bank:
        raise ValueError(f"{args.out} holds features of others: {', '.join(sorted(others))}")
    if there:
        spec = datasets.spec_of(args.target, data_dir=args.data_dir)
        args.folder, args.labels, args.reference, args.probs = args.out, None, None, False
        args.models, args.num_classes = args.out / "models.csv", spec.num_classes
        args.target_images = spec.sizes["train"]
        score(args)
    _say_failed(args)


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
        "--out", type=Path, metavar="FILE", help="weights [finetuned/NAME-TARGET.safetensors]"
    )
    tune.set_defaults(run=_finetune)


def _finetune(args: argparse.Namespace) -> None:
    import jax
    from rich.console import Console
    from rich.progress import Progress

    from jaxparc import bank_file, datasets
    from jaxparc.weights import native

    entries = {entry.name: entry for entry in bank_file.read(args.bank)}
    if args.name not in entries:
        raise ValueError(f"{args.bank} has no model {args.name!r}; it has {', '.join(entries)}")
    target = datasets.short_name(args.target)
    for flag in ("steps", "batch_size", "learning_rate"):
        if not getattr(args, flag) > 0:
            raise ValueError(f"--{flag} is {getattr(args, flag)}; expected a number above 0")
    if args.batch_size % jax.local_device_count():
        devices = jax.local_device_count()
        raise ValueError(f"--batch_size {args.batch_size} does not divide over {devices} devices")
    out = args.out or Path("finetuned") / f"{args.name}-{target}.safetensors"
    console = Console(stderr=True)
    try:
        with Progress(console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task(f"{args.name} to {target}", total=args.steps * args.batch_size)
            tuned = bank_file.finetune(
                entries[args.name],
                args.target,
                steps=args.steps,
                batch_size=args.batch_size,
                learning_rate=args.learning_rate,
                seed=args.seed,
                data_dir=args.data_dir,
                on_images=lambda count: bar.advance(task, count),
            )
        native.save(tuned.loaded, out)
    except OSError as error:
        raise RuntimeError(f"{error.filename or out}: {error.strerror}") from error
    print(f"{args.name} on {target}: {tuned.accuracy:.2f} % of the test images")
    print(f"written to {out}")


def _add_convert(commands: "argparse._SubParsersAction[Any]") -> None:
    convert = commands.add_parser(
        "convert",
        help="weights of any format to a safetensors file of this library's own names",
        description="Read weights as they were published, and write them for jaxparc.models.load.",
    )
    convert.add_argument("source", metavar="SRC", help="PyTorch's, safetensors, npz, Keras's, ...")
    convert.add_argument("destination", type=Path, metavar="DST", help="a .safetensors file")
    convert.add_argument("--architecture", metavar="NAME", help="told by the names if not given")
    convert.add_argument("--scheme", metavar="NAME", help="whose names they are; found by default")
    convert.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> None:
    from jaxparc import models
    from jaxparc.weights import loading, native

    if args.destination.suffix != ".safetensors":
        raise ValueError(f"{args.destination} does not end in .safetensors")
    try:
        name = args.architecture or loading.guess(args.source)
        loaded = models.load(name, args.source, scheme=args.scheme)
        native.save(loaded, args.destination)
    except OSError as error:
        where = error.filename or args.destination
        raise RuntimeError(f"{where}: {error.strerror}") from error
    classes = loaded.module.num_classes
    print(f"{args.source}: {name}, {loaded.scheme}'s names, {classes} classes")
    for left_out in loaded.left_out:
        print(f"  left out: {left_out}")
    print(f"written to {args.destination}")
