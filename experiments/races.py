r"""Measure how often a race finds the model that all images choose, and at what cost.

    python -m experiments.races clothing_s0.npz cifar10_s0.npz --methods parc_f32 knn ridge

Races the models of each probe file (labels, features/MODEL) in many orders of its images, and
prints the share of orders whose best model is that of all images, and the mean share of images that
were extracted.
"""

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

import jaxparc
from experiments import coverage
from jaxparc import printing
from jaxparc.errors import InputError


def raced(given: coverage.Pool, method: str, orders: int) -> tuple[float, float]:
    """Return the share of orders with the choice of all images, and the mean cost.

    Raises:
        InputError: as for `jaxparc.race`.
    """
    best = jaxparc.score_bank(given.features, given.labels, methods=method).best
    models = {name: x.__getitem__ for name, x in given.features.items()}
    races = [jaxparc.race(models, given.labels, method=method, seed=seed) for seed in range(orders)]
    same = np.mean([race.best == best for race in races])
    return float(same), float(np.mean([race.cost for race in races]))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.races",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="probe file")
    parser.add_argument("--orders", type=int, default=100, metavar="N", help="[100]")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=("parc_f32", "ridge"),
        metavar="METHOD",
        help="[parc_f32 ridge]",
    )
    args = parser.parse_args(argv)
    table = Table("probe set", "models", "method", "same choice", "cost")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for path in args.files:
                given = coverage.pool([path])
                for method in args.methods:
                    same, cost = raced(given, method, args.orders)
                    number = str(len(given.features))
                    table.add_row(path.stem, number, method, f"{same:.0%}", f"{cost:.2f}")
    except InputError as error:
        parser.error(printing.line(error))
    Console().print(table)


if __name__ == "__main__":
    main()
