r"""Measure how often the intervals of scores hold, by drawing many probe sets from the same images.

    python -m experiments.coverage clothing_s0.npz clothing_s1.npz

Pools the images of probe files of the same models, draws probe sets from them without replacement,
and scores all models on each. Prints, per method, the standard error that `score_bank(...,
intervals=)` estimates, over the deviation of the scores over the draws, and the share of draws
whose 95 % interval holds the mean: of the scores themselves, and of the differences between any two
of the models that are best. Errors are multiplied by sqrt(1 - n / N), as draws of n of N images
overlap.
"""

import argparse
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

import jaxparc
from jaxparc import printing, selectors
from jaxparc.bank import folder
from jaxparc.errors import InputError
from jaxparc.selectors import SELECTORS

METHODS = tuple(name for name, s in SELECTORS.items() if "features" in s.needs)
METHODS += ("parc_f32", "hscore_f32", "logme_f32", "mean(parc_f32,ridge,ncm)")
Z = 1.96


class Pool(NamedTuple):
    """The images of several probe files.

    Attributes:
        labels: (N,) or (N, c).
        features: model -> (N, d).
    """

    labels: np.ndarray
    features: dict[str, np.ndarray]


class Coverage(NamedTuple):
    """How intervals compare with draws, one number per model or pair of models.

    Attributes:
        ratio: estimated over actual standard error; NaN if all draws have the same value.
        covered: share of the draws whose interval holds the mean of all.
    """

    ratio: np.ndarray
    covered: np.ndarray


def pool(paths: Sequence[Path]) -> Pool:
    """Read probe files, and join their distinct images.

    Args:
        paths: files with `labels` and `features/MODEL`.

    Raises:
        InputError: a file cannot be read, or there is no model that all files hold.
    """
    prefix = "features/"
    opened = [folder.arrays_of(path) for path in paths]
    shared = [name for name in opened[0] if all(name in arrays for arrays in opened)]
    names = [name for name in shared if name.startswith(prefix)]
    if not names:
        raise InputError(f"{paths[0]}: no array 'features/MODEL' that all files hold")
    labels = np.concatenate([folder.read_labels(path) for path in paths])
    features = {
        name.removeprefix(prefix): np.concatenate([np.asarray(arrays[name]) for arrays in opened])
        for name in names
    }
    # Probe sets of one target overlap: an image is the same if all models see it so.
    images = np.concatenate([x.astype(np.float32) for x in features.values()], axis=1)
    first = np.sort(np.unique(images, axis=0, return_index=True)[1])
    return Pool(labels[first], {name: x[first] for name, x in features.items()})


def coverage(
    given: Pool, methods: Sequence[str], *, images: int, draws: int, best: int, seed: int = 0
) -> dict[str, tuple[Coverage, Coverage]]:
    """Score draws of a pool.

    Args:
        given: the pool.
        methods: labels of methods.
        images: n, the number of images of each draw.
        draws: number of draws.
        best: number of models whose differences are compared.
        seed: seed of the draws.

    Returns:
        Method -> the coverage of scores, and that of differences.

    Raises:
        InputError: there are too few images, or as for `score_bank`.
    """
    total = len(given.labels)
    if not 3 <= images < total:
        raise InputError(f"--images is {images}; expected 3 to {total - 1}, of {total} images")
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        drawn = np.sort(rng.permutation(total)[:images])
        bank = {name: x[drawn] for name, x in given.features.items()}
        reference: dict[str, Any] = {}
        if any("reference" in selectors.method(method).needs for method in methods):
            reference["reference"] = next(iter(bank.values()))
        found.append(
            jaxparc.score_bank(
                bank, given.labels[drawn], methods=methods, intervals=0.95, **reference
            )
        )
    overlap = np.sqrt(1 - images / total)
    scores = np.stack([one.values for one in found])  # (draws, m, k)
    result = {}
    for k, method in enumerate(methods):
        parts = np.stack([one.contributions[0][:, k] for one in found])  # (draws, m, n)
        order = np.argsort(-scores[:, :, k].mean(axis=0))[:best]
        first, second = np.array(list(itertools.combinations(order, 2))).T
        of_scores = _coverage(scores[:, :, k], parts, overlap)
        apart = scores[:, first, k] - scores[:, second, k]
        result[method] = of_scores, _coverage(apart, parts[:, first] - parts[:, second], overlap)
    return result


def _coverage(values: np.ndarray, parts: np.ndarray, overlap: float) -> Coverage:
    """Return the coverage of values (draws, m) with contributions (draws, m, n)."""
    errors = overlap * parts.std(axis=-1, ddof=1, dtype=float) / np.sqrt(parts.shape[-1])
    mean = values.mean(axis=0)
    deviation = values.std(axis=0, ddof=1)
    deviation = np.where(deviation > 0, deviation, np.nan)
    ratio = np.sqrt(np.square(errors).mean(axis=0)) / deviation
    return Coverage(ratio, (np.abs(values - mean) <= Z * errors).mean(axis=0))


def table(found: dict[str, tuple[Coverage, Coverage]]) -> Table:
    """Return the medians, and ranges, over models and pairs of models."""
    sheet = Table("method", "error / deviation", "holds", "of differences", "holds")
    for method, both in found.items():
        cells = []
        for one in both:
            low, middle, high = np.nanquantile(one.ratio, [0, 0.5, 1])
            cells += [f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{one.covered.mean():.1%}"]
        sheet.add_row(method, *cells)
    return sheet


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="probe file")
    parser.add_argument("--images", type=int, default=300, metavar="N", help="per draw [300]")
    parser.add_argument("--draws", type=int, default=60, metavar="N", help="[60]")
    parser.add_argument("--best", type=int, default=7, metavar="N", help="models compared [7]")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="METHOD")
    args = parser.parse_args(argv)
    try:
        given = pool(args.files)
        print(
            f"{printing.count(len(given.features), 'model')}, "
            f"{printing.count(len(given.labels), 'image')}"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = coverage(
                given, args.methods, images=args.images, draws=args.draws, best=args.best
            )
    except InputError as error:
        parser.error(printing.line(error))
    Console().print(table(found))


if __name__ == "__main__":
    main()
