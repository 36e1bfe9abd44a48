"""The command line: `python -m jaxparc COMMAND ...`.

Exit codes: 0 done; 1 a command failed, with the reason on one line of stderr; 2 the command
line is wrong, likewise.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from jaxparc import bank_commands, printing

if TYPE_CHECKING:
    from jaxparc.feature_files import Bank
    from jaxparc.scores import BankScores


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, where argparse puts the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {printing.shown(message)} (--help shows the usage)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: the words after `python -m jaxparc`; by default those of this process.

    Returns:
      The exit code.
    """
    with printing.ending():
        try:
            args = _parser().parse_args(argv)
            args.run(args)
        except ValueError as error:
            return _fail(error, 2)
        except BrokenPipeError:
            raise
        except (RuntimeError, OSError, MemoryError) as error:
            return _fail(error, 1)
    return 0


def _fail(error: Exception, code: int) -> int:
    print(f"python -m jaxparc: {printing.line(error)}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    """Builds the parser; each command adds itself and names the function that runs it."""
    parser = _Parser(prog="python -m jaxparc", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_score(commands)
    bank_commands.add(commands, _score)
    _add_data(commands)
    return parser


def _add_score(commands: "argparse._SubParsersAction[_Parser]") -> None:
    score = commands.add_parser(
        "score",
        help="rank models by files of their features",
        description="Rank the models of a folder by how good they will be after fine-tuning.",
    )
    score.add_argument("folder", metavar="FOLDER", help="one .npz (features) or .npy per model")
    score.add_argument(
        "--labels",
        metavar="FILE",
        help=".npy, or text with one per line; by default FOLDER/labels.npy, else the labels in "
        "the models' files",
    )
    score.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="of jaxparc.selectors, the first one ranks [parc_f32]",
    )
    score.add_argument(
        "--probs", action="store_true", help="also nce and leep, by the probs in the .npz files"
    )
    score.add_argument(
        "--reference",
        metavar="FILE",
        help="features of a model trained on the target, for rsa and dds",
    )
    score.add_argument(
        "--models",
        metavar="FILE",
        help="CSV with the columns model and layers, for +l, or source_images too, for heuristic",
    )
    score.add_argument(
        "--target_images", type=int, metavar="N", help="images of the target, for heuristic"
    )
    score.add_argument(
        "--num_classes", type=int, metavar="C", help="classes of the target, if some are absent"
    )
    score.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="where scores.csv goes [.]"
    )
    score.set_defaults(run=_score)


# Where the command line has what a method needs.
_FROM = {
    "probs": "the .npz files",
    "reference": "--reference FILE",
    "layers": "the column layers of --models FILE",
    "source_images": "the column source_images of --models FILE",
    "target_images": "--target_images N",
}


def _score(args: argparse.Namespace) -> None:
    from rich.console import Console

    from jaxparc import feature_files, files, selectors

    methods = list(dict.fromkeys(args.methods or ["parc_f32"]))
    if args.probs:
        methods += [name for name in ("nce", "leep") if name not in methods]
    needs = {need for method in methods for need in selectors.method(method).needs}
    bank = feature_files.read_bank(args.folder, args.labels, reference=args.reference)
    options: dict[str, Any] = {"probs": bank.probs if "probs" in needs else None}
    given = {
        "probs": bool(bank.probs),
        "reference": args.reference is not None,
        "layers": args.models is not None,
        "source_images": args.models is not None,
        "target_images": args.target_images is not None,
    }
    for need in sorted(needs & given.keys()):
        if not given[need]:
            asking = ", ".join(m for m in methods if need in selectors.method(m).needs)
            raise ValueError(f"{asking} needs {need}, from {_FROM[need]}")
    if args.reference is not None:
        options["reference"] = feature_files.read_array(args.reference, "features")
    if args.models is not None:
        names = [name for name in bank.features if name != bank.reference]
        others = [bank.reference] if bank.reference else []
        options |= feature_files.read_facts(args.models, names, others)
    options |= {"target_images": args.target_images, "num_classes": args.num_classes}
    table = args.out / "scores.csv"
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            files.replacing(table) as temporary,
            Console(stderr=True).status(f"Scoring {printing.count(len(bank.features), 'model')}"),
        ):
            warnings.simplefilter("always")
            scores = _scored(bank, methods, options)
            scores.to_csv(temporary)
    except OSError as error:
        raise RuntimeError(f"cannot write {table}: {error.strerror}") from error
    print(scores)
    for note in dict.fromkeys(str(warning.message) for warning in caught):
        print(f"note: {printing.shown(note)}", file=sys.stderr)
    print(printing.shown(f"written to {table}"))


def _scored(bank: "Bank", methods: Sequence[str], options: dict[str, Any]) -> "BankScores":
    """Scores of every model.

    For the reference, those of what compares with it are NaN, and those of what needs
    probabilities or numbers that it comes without, as it need not be a candidate.
    """
    import numpy as np

    import jaxparc
    from jaxparc import selectors

    def score(names: Sequence[str], by: Sequence[str]) -> "BankScores":
        features = {name: bank.features[name] for name in names}
        return jaxparc.score_bank(features, bank.labels, methods=by, **options)

    names, itself = list(bank.features), bank.reference
    if itself is None:
        return score(names, methods)
    per_model = ("probs", "layers", "source_images")
    lacks = {"reference", *(n for n in per_model if itself not in (options.get(n) or ()))}
    apart = [method for method in methods if lacks & set(selectors.method(method).needs)]
    others = [name for name in names if name != itself]
    values = np.full((1, len(names), len(methods)), np.nan)
    for models, by in ((names, [m for m in methods if m not in apart]), (others, apart)):
        if models and by:
            rows, columns = map(names.index, models), map(methods.index, by)
            values[0][np.ix_(list(rows), list(columns))] = score(models, by).values
    if apart:
        warnings.warn(
            f"model {itself!r} is the reference, and left out by {', '.join(apart)}", stacklevel=2
        )
    return jaxparc.BankScores(tuple(names), tuple(methods), values)


def _add_data(commands: "argparse._SubParsersAction[_Parser]") -> None:
    data = commands.add_parser("data", help="list or prepare the data sets")
    actions = data.add_subparsers(metavar="ACTION", required=True)
    folder = _Parser(add_help=False)
    folder.add_argument(
        "--data_dir", help="TFDS data folder; TFDS_DATA_DIR or ~/tensorflow_datasets if not given"
    )
    listing = actions.add_parser("list", parents=[folder], help="show what is known of each")
    listing.set_defaults(run=_data_list)
    preparing = actions.add_parser("prepare", parents=[folder], help="make ready to read")
    preparing.add_argument(
        "names", nargs="+", metavar="NAME", help="of data list, or folder:PATH, csv:FILE, npz:FILE"
    )
    preparing.set_defaults(run=_data_prepare)


def _data_list(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from jaxparc import datasets

    table = Table(
        caption=f"data folder: {escape(printing.shown(str(datasets.root_of(args.data_dir))))}\n"
        "your own images: folder:PATH, csv:FILE, npz:FILE wherever a name is asked for"
    )
    table.add_column("name", no_wrap=True)
    for column in ("classes", "train", "test"):
        table.add_column(column, justify="right")
    table.add_column("here")
    table.add_column("images, licence, needs", overflow="fold")
    for name, spec in datasets.DATASETS.items():
        means = [spec.description, f"licence: {spec.licence}"]
        if spec.needs_tensorflow:
            means.append("to prepare it (not to read it): jaxparc[prepare]")
        if spec.manual:
            means.append(f"by hand: {spec.manual}")
        table.add_row(
            printing.lines("\n".join((name, *(f"= {alias}" for alias in spec.aliases)))),
            f"{spec.num_classes:,}",
            f"{spec.sizes['train']:,}",
            f"{spec.sizes['test']:,}",
            "yes" if datasets.is_prepared(name, data_dir=args.data_dir) else "no",
            escape(printing.lines("\n".join(means))),
        )
    Console().print(table)


def _data_prepare(args: argparse.Namespace) -> None:
    from jaxparc import datasets

    for name in args.names:  # a misspelt name stops us before any work
        datasets.short_name(name)
    for name in args.names:
        print(printing.shown(f"{name}: {datasets.prepare(name, data_dir=args.data_dir)}"))
        print(printing.shown(f"{name}: {datasets.summary(name, data_dir=args.data_dir)}"))


if __name__ == "__main__":
    sys.exit(main())
