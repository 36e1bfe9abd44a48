"""Arguments that several commands have: parsers to be the parents of theirs."""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxparc import printing
from jaxparc.commands import PROGRAM
from jaxparc.units import options

DATASET = "a folder, .csv or .npz file of your images, or a data set from `data list`"
BANK = "bank file, folder of weight files, or ready-made bank: tiny, small, base"
FORMS = "expected BANK TARGET, or TARGET --models [NAME=]FILE ..., with TARGET first"
VALUES = "; csv:FILE:values=COLUMN for numbers to predict"


class Parser(options.Parser):
    """A parser that reports wrong usage in one line, without argparse's usage message before it.

    Attributes:
        hint: what is expected, for that line.
    """

    hint = "--help shows the usage"

    def error(self, message: str) -> NoReturn:
        """Exit with 2."""
        self.exit(2, f"{self.prog}: {printing.shown(message)} ({self.hint})\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse unknown arguments of a command here, where its hint is known."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown and self._subparsers is None:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def one_model() -> Parser:
    """Return a parser of one model of a bank, and its target: BANK NAME TARGET."""
    parser = Parser(add_help=False)
    parser.add_argument("bank", metavar="BANK", help=BANK)
    parser.add_argument("name", metavar="NAME", help="name of a model in BANK")
    parser.add_argument("target", metavar="TARGET", help=DATASET)
    return parser


def advised() -> Parser:
    """Return a parser of a ranking, whose models and target are fine-tuned: FOLDER."""
    parser = Parser(add_help=False)
    parser.add_argument("bank", metavar="FOLDER", help="folder that rank wrote")
    parser.set_defaults(name=None, target=None)
    return parser


def is_top(word: str) -> bool:
    """Return whether a word is --top, or one of argparse's abbreviations of it."""
    flag = word.partition("=")[0]
    return flag.startswith("--t") and "--top".startswith(flag)


def is_models(word: str) -> bool:
    """Return whether a word is --models, or one of argparse's abbreviations of it."""
    flag = word.partition("=")[0]
    return flag.startswith("--mo") and "--models".startswith(flag)


def usage(command: str) -> str:
    """Return the usage of a command with both forms of `models`."""
    return (
        f"{PROGRAM} {command} [options] BANK TARGET\n"
        f"       {PROGRAM} {command} [options] TARGET --models [NAME=]FILE ..."
    )


def models(by_models: bool) -> Parser:
    """Return a parser of the models: BANK or --models, whichever the command line has."""
    parser = Parser(add_help=False)
    if by_models:
        parser.set_defaults(bank=None)
    else:
        parser.add_argument("bank", metavar="BANK", help=f"{BANK}; not with --models")
    parser.add_argument(
        "--models",
        nargs="+",
        default=(),
        metavar="[NAME=]FILE",
        help="weight files in place of BANK, such as resnet50=r50.pth; folders and bank files too",
    )
    return parser


def cuts() -> Parser:
    """Return a parser of the options that leave models out of a bank."""
    parser = Parser(add_help=False)
    group = parser.add_argument_group("models to leave out")
    group.add_argument(
        "--include", nargs="+", default=(), metavar="GLOB", help="rank only models of these names"
    )
    group.add_argument(
        "--exclude", nargs="+", default=(), metavar="GLOB", help="leave out models of these names"
    )
    group.add_argument(
        "--licence",
        nargs="+",
        default=(),
        metavar="TEXT",
        help="only models whose licence contains one of these texts, in any case",
    )
    group.add_argument(
        "--max-params", type=_amount, metavar="N", help="largest number of parameters, such as 5M"
    )
    group.add_argument(
        "--max-gmacs", type=_amount, metavar="X", help="most billion multiply-adds per image"
    )
    return parser


_UNITS = {"K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9}


def _amount(text: str) -> float:
    """Parse a number above 0, such as 5M or 25e6.

    Raises:
        argparse.ArgumentTypeError: `text` is something else.
    """
    unit = _UNITS.get(text[-1:].upper(), 1.0)
    try:
        number = float(text if unit == 1 else text[:-1]) * unit
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, such as 5M, got {text!r}")
    return number


def target(more: str = "") -> Parser:
    """Return a parser of TARGET, with more to say in its help."""
    parser = Parser(add_help=False)
    parser.add_argument("target", metavar="TARGET", help=DATASET + more)
    return parser


def data_dir() -> Parser:
    """Return a parser of the folder of data sets."""
    parser = Parser(add_help=False)
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder of TFDS data sets [TFDS_DATA_DIR, or ~/tensorflow_datasets]",
    )
    return parser


def probe() -> Parser:
    """Return a parser of the options of feature extraction."""
    parser = Parser(add_help=False)
    parser.add_argument(
        "--images", type=int, default=500, metavar="N", help="size of the probe set [500]"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the probe set [0]"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=32,
        metavar="N",
        help="images per batch, over all devices [32]",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder of features [features/BANK-TARGET-HASH]"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be extracted, in what time and memory, and end",
    )
    options.add_executor(parser)
    return parser


def methods(default: Sequence[str]) -> Parser:
    """Return a parser of the options of scoring."""
    parser = Parser(add_help=False)
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="names in jaxparc.selectors, or all; the first one determines the ranking "
        f"[{' '.join(default)}]",
    )
    parser.add_argument(
        "--probs",
        action="store_true",
        help="also score with nce and leep, which need class probabilities",
    )
    parser.add_argument(
        "--reference",
        metavar="FILE",
        help="features, of the same images, of a model trained on the target; for rsa and dds",
    )
    return parser
