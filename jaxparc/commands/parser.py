"""The command line: `python -m jaxparc COMMAND ...`.

Exit codes: 0 done; 1 a command failed, or some models or methods of those asked for did and the
others are done, with the reason on one line of stderr; 2 the command line is wrong, likewise; 130
it was interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxparc import interrupts, printing
from jaxparc.commands import finetune as weights_commands
from jaxparc.commands import rank as bank_commands
from jaxparc.commands import ranking as scoring

PROGRAM = "python -m jaxparc"


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
        except KeyboardInterrupt as interrupt:
            print(printing.shown(interrupts.line(PROGRAM, interrupt)), file=sys.stderr)
            return interrupts.CODE
        except BrokenPipeError:
            raise
        except Exception as error:
            if interrupts.came():  # it is what a library made of the interrupt
                print(interrupts.line(PROGRAM), file=sys.stderr)
                return interrupts.CODE
            if isinstance(error, ValueError):
                return _fail(error, 2)
            if isinstance(error, RuntimeError | OSError | MemoryError):
                return _fail(error, 1)
            raise
    return 0


def _fail(error: Exception, code: int) -> int:
    print(f"{PROGRAM}: {printing.line(error)}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    """Builds the parser; each command adds itself and names the function that runs it."""
    parser = _Parser(prog=PROGRAM, description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_score(commands)
    bank_commands.add(commands)
    weights_commands.add(commands)
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
    scoring.add_options(score)
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


def _score(args: argparse.Namespace) -> None:
    from jaxparc.bank import folder as feature_files

    bank = feature_files.read_bank(args.folder, args.labels, reference=args.reference)
    facts: dict[str, Any] = {}
    if args.models is not None:
        names = [name for name in bank.features if name != bank.reference]
        others = [bank.reference] if bank.reference else []
        facts |= feature_files.read_facts(args.models, names, others)
    facts["target_images"] = args.target_images
    if left_out := scoring.print_ranking(args, bank, facts):
        raise RuntimeError(f"not scored: {left_out}")


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
    for number, name in enumerate(args.names):
        try:
            print(printing.shown(f"{name}: {datasets.prepare(name, data_dir=args.data_dir)}"))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{number} of {len(args.names)} are prepared") from None
        print(printing.shown(f"{name}: {datasets.summary(name, data_dir=args.data_dir)}"))
