"""The commands that let the models of a bank look at a target: extract and rank."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxparc import printing
from jaxparc.commands import ranking as scoring


def add(commands: "argparse._SubParsersAction[Any]") -> None:
    """Adds the commands, each with the function that runs it."""
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
        "--out", type=Path, metavar="DIR", help="folder of features [features/BANK-TARGET-HASH]"
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
    scoring.add_options(rank)
    rank.set_defaults(run=_rank)


def _opened(args: argparse.Namespace) -> tuple[list[Any], Any]:
    """The models, and the images that they look at; chooses the folder if none is given."""
    from jaxparc.bank import features as bank_features
    from jaxparc.bank import toml_file as bank_file

    for flag, least in (("images", 1), ("batch_size", 1), ("seed", 0)):
        if getattr(args, flag) < least:
            raise ValueError(f"--{flag} is {getattr(args, flag)}; expected at least {least}")
    entries = bank_file.read(args.bank)
    probe = bank_features.probe_images(args.target, args.images, args.seed, args.data_dir)
    args.out = args.out or bank_features.folder_for(args.bank, probe)
    return entries, probe


def _extract(args: argparse.Namespace) -> None:
    from jaxparc.bank import features as bank_features

    entries, probe = _opened(args)
    _print_classes(args, probe)
    with bank_features.alone_in(args.out, probe, entries):
        looks = _look(args, entries, probe)
    command = f"python -m jaxparc score {shlex.quote(str(args.out))}"
    print(printing.shown(f"features are in {args.out}: {command}"))
    if failed := _failed(looks):
        raise RuntimeError(failed)


def _print_classes(args: argparse.Namespace, probe: Any) -> None:
    from jaxparc import datasets

    classes = datasets.summary(args.target, data_dir=args.data_dir)
    print(printing.shown(f"{probe.target}: {classes}"))


def _look(args: argparse.Namespace, entries: Sequence[Any], probe: Any) -> list[Any]:
    """Lets every model look, with a line on each as it is done."""
    import time

    from rich.console import Console

    from jaxparc.bank import features as bank_features
    from jaxparc.bank import toml_file as bank_file

    console, started = Console(), time.monotonic()
    looks: list[bank_features.Look] = []
    with console.status("") as status:

        def starts(entry: bank_file.Entry) -> None:
            status.update(f"{entry.name} looks at {probe.target}")

        try:
            for look in bank_features.extract(
                entries, probe, args.out, batch_size=args.batch_size, starts=starts
            ):
                looks.append(look)
                seconds, started = time.monotonic() - started, time.monotonic()
                outcome = "was there" if look.kept else f"{seconds:.1f} s"
                if look.error is not None:
                    outcome = f"FAILED: {look.error}"
                outcome = "; ".join((outcome, *look.notes))
                line = f"{len(looks)}/{len(entries)} {bank_file.said_name(look.entry)}: {outcome}"
                line = printing.shown(line)
                console.print(line, highlight=False, markup=False, soft_wrap=True)
        except OSError as error:
            raise RuntimeError(
                f"cannot write {args.out}: {error.strerror}; {_kept(looks, entries)}"
            ) from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{_kept(looks, entries)} in {args.out}") from None
    return looks


def _kept(looks: Sequence[Any], entries: Sequence[Any]) -> str:
    done = sum(look.error is None for look in looks)
    return f"{done} of {len(entries)} models are done and kept"


def _failed(looks: Sequence[Any]) -> str:
    """Which models failed, on one line; empty if none."""
    from jaxparc.bank import toml_file as bank_file

    failed = [bank_file.said_name(look.entry) for look in looks if look.error is not None]
    return f"{printing.count(len(failed), 'model')} failed: {', '.join(failed)}" if failed else ""


# Where `rank` has what a method needs.
_FROM = {
    "probs": "models whose weights have a head",
    "reference": "--reference FILE",
    "source_images": "the key source_images of models",
}


def _rank(args: argparse.Namespace) -> None:
    from jaxparc.bank import features as bank_features

    entries, probe = _opened(args)
    args.num_classes = probe.num_classes
    facts = {
        "layers": {entry.name: bank_features.layers(entry) for entry in entries},
        "source_images": {e.name: e.source_images for e in entries if e.source_images},
        "target_images": len(probe.split_labels),
    }
    # What no model can help is refused before the first one looks; heads are seen later.
    reference = _reference(args.reference, probe)
    given = {**facts, "reference": reference, "probs": True}
    scoring.plan(args, probe.labels, probe.num_classes, given, _FROM)
    _print_classes(args, probe)
    with bank_features.alone_in(args.out, probe, entries):
        looks = _look(args, entries, probe)
        others = {path.stem for path in args.out.glob("*.npz")} - {e.name for e in entries}
        if others:
            line = f"note: not of this bank: {printing.some(sorted(others))} in {args.out}"
            print(printing.shown(line), file=sys.stderr)
        bank, problems = bank_features.bank_of(looks, probe), [_failed(looks)]
        if bank.features:
            try:
                left_out = scoring.print_ranking(args, bank, facts, _FROM)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"features are kept in {args.out}") from None
            problems.append(left_out and f"not scored: {left_out}")
    if problems := [problem for problem in problems if problem]:
        raise RuntimeError("; ".join(problems))


def _reference(path: str | None, probe: Any) -> Any:
    """The features of --reference, None if there is none.

    Raises:
        ValueError: they cannot be read, or are of other images.
    """
    import numpy as np

    from jaxparc.bank import arguments as given
    from jaxparc.bank import folder as feature_files

    if path is None:
        return None
    features = feature_files.read_array(path, "features")
    try:
        given.reference(np.asarray(features), len(probe.labels))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    try:
        labels = feature_files.read_array(path, "labels") if Path(path).suffix == ".npz" else None
    except ValueError:  # it need not say
        labels = None
    if labels is not None and not np.array_equal(np.asarray(labels), probe.labels):
        raise ValueError(
            f"{path} has other labels than the {probe}; a reference must have seen the same images "
            "in the same order"
        )
    return features
