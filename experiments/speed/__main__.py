"""Measure the speed tables: this library against plain implementations, in one process.

The tables in docs/measured are those of:

python -m experiments.speed bank --out docs/measured/bank_cpu
python -m experiments.speed input --out docs/measured/input_cpu
python -m experiments.speed extract --out docs/measured/extract_cpu
python -m experiments.speed train --out docs/measured/train_cpu

On an accelerator, `all` measures every table, the most important rows first.
"""

import argparse
import importlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from experiments.speed import machine
from jaxparc import printing

COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "bank": "score_bank against plain implementations",
        "train": "images per second of training",
        "extract": "images per second of feature extraction",
        "input": "images per second from JPEGs to batches",
        "ceilings": "rates of this machine: products and copies",
        "all": "all of these within a limited time, and the goals",
    }
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; the module of the command is imported once it is known."""
    argv = sys.argv[1:] if argv is None else argv
    with printing.ending():
        parser = argparse.ArgumentParser(
            prog="python -m experiments.speed",
            description=__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        commands = parser.add_subparsers(metavar="COMMAND", required=True)
        for name, about in COMMANDS.items():
            command = commands.add_parser(name, help=about)
            if name in argv[:1]:
                importlib.import_module(f"experiments.speed.{name}").add(command)
        ran = f"{parser.prog} {shlex.join(argv)}"
        args = parser.parse_args(argv, argparse.Namespace(ran=ran))
        machine.share_device()
        args.run(args)


if __name__ == "__main__":
    main()
