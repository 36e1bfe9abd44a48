"""Measure the speed tables: this library against plain implementations, in one process.

The tables in docs/measured are those of:

python -m experiments.speed bank --out docs/measured/bank_cpu
python -m experiments.speed input --out docs/measured/input_cpu
python -m experiments.speed extract --out docs/measured/extract_cpu
python -m experiments.speed train --out docs/measured/train_cpu
"""

import argparse
from collections.abc import Sequence

from experiments.speed import bank, extract, input, train
from jaxparc import printing


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (bank, input, extract, train):
        module.add(commands)
    with printing.ending():
        args = parser.parse_args(argv)
        args.run(args)


if __name__ == "__main__":
    main()
