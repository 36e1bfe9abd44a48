"""The command line: `python -m jaxparc COMMAND ...`.

Exit codes: 0 done; 1 a command failed, with the reason on one line of stderr; 2 the command
line is wrong, likewise.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, where argparse puts the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows the usage)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      argv: the words after `python -m jaxparc`; by default those of this process.

    Returns:
      The exit code.
    """
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except ValueError as error:
        return _fail(error, 2)
    except RuntimeError as error:
        return _fail(error, 1)
    return 0


def _fail(error: Exception, code: int) -> int:
    print(f"python -m jaxparc: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    """Builds the parser; each command adds itself and names the function that runs it."""
    parser = _Parser(prog="python -m jaxparc", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_data(commands)
    return parser


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
    preparing.add_argument("names", nargs="+", metavar="NAME")
    preparing.set_defaults(run=_data_prepare)


def _data_list(args: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    from jaxparc import datasets

    table = Table(caption=f"data folder: {datasets.root_of(args.data_dir)}")
    table.add_column("name", no_wrap=True)
    for column in ("classes", "train", "test"):
        table.add_column(column, justify="right")
    for column in ("mirror", "prepared", "images, and their licence"):
        table.add_column(column)
    for name, spec in datasets.DATASETS.items():
        table.add_row(
            name,
            f"{spec.num_classes:,}",
            f"{spec.sizes['train']:,}",
            f"{spec.sizes['test']:,}",
            "yes" if spec.mirror else "no",
            "yes" if datasets.is_prepared(name, data_dir=args.data_dir) else "no",
            f"{spec.description}\n{spec.licence}",
        )
    Console().print(table)


def _data_prepare(args: argparse.Namespace) -> None:
    from jaxparc import datasets

    for name in args.names:  # a misspelt name stops us before any work
        datasets.spec_of(name)
    for name in args.names:
        print(f"{name}: {datasets.prepare(name, data_dir=args.data_dir)}")


if __name__ == "__main__":
    sys.exit(main())
