"""Import published files into a results folder: probe pickles and oracle tables.

Parses {architecture}_{source}_{target}_{run}.pkl files, or folders of them, without executing
anything, and writes probe files to DIR/probes, as extract_probes does. Checks every row of a .csv
file and copies it to DIR/oracle.csv. Features of your own models are imported from .npz files with
the same names and fields; probs are optional, and y is optional if DIR/probe_images (written by
probe_images) has the labels. DIR is a results folder, from which score_probes and report continue.
"""

import argparse
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments import extract_probes, probe_images
from experiments.tables.read import TableError, read_accuracies
from jaxparc import array_files, files, models, printing
from jaxparc.errors import InputError
from jaxparc.evaluation import Transfer
from jaxparc.weights import pickles

LIMIT = 1 << 30  # maximum bytes of a list of rows when stacked
_ROW = (np.ndarray, np.generic, int, float)
SUFFIXES = (".pkl", ".npz", ".csv")
ARRAYS = ("features", "probs", "y")
NAMES = ("architecture", "source_dataset", "target_dataset")
FIELDS = ARRAYS + NAMES


class PublishedFileError(InputError):
    """A published file cannot be imported; the message names the file and the problem."""


def main() -> None:
    """Run the command line."""
    with printing.ending():
        _import()


def _import() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.import_probes",
        description=__doc__,
        epilog="Exit codes: 0 all files imported; 1 some refused, the others imported; 2 no file "
        "found, or an error of the file system.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help=f"{', '.join(SUFFIXES)} or a folder"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="results folder")
    args = parser.parse_args()
    found = [file for path in args.paths for file in _files(path)]
    if lacking := [path for path in args.paths if not list(_files(path))]:
        parser.exit(
            2,
            f"{parser.prog}: {printing.shown(str(lacking[0]))}: found no file; expected "
            f"{', '.join(SUFFIXES)}, or a folder of these\n",
        )
    refused = 0
    try:
        for file in found:
            try:
                print(printing.shown(f"{file.name}: {import_file(file, args.out)}"))
            except PublishedFileError as error:
                print(f"{parser.prog}: {printing.line(error)}", file=sys.stderr)
                refused += 1
    except BrokenPipeError:
        raise
    except OSError as error:
        parser.exit(2, f"{parser.prog}: {printing.line(error)}\n")
    total = printing.count(len(found), "file")
    print(printing.shown(f"imported {len(found) - refused} of {total} to {args.out}"))
    sys.exit(1 if refused else 0)


def _files(path: Path) -> list[Path]:
    paths = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file for file in paths if file.suffix in SUFFIXES and file.is_file()]


def import_file(path: Path, out: Path) -> Path:
    """Import one published file into a results folder, and return the file written.

    Raises:
        PublishedFileError: the file is malformed, or a pickle refers to more than arrays.
    """
    if path.suffix == ".csv":
        try:
            read_accuracies(path)
        except TableError as error:
            raise PublishedFileError(str(error)) from error
        files.write_text(out / "oracle.csv", files.read_text(path))
        return out / "oracle.csv"
    run = re.search(r"_(\d+)$", path.stem)
    if run is None:
        raise PublishedFileError(
            f"{path}: the name is {path.stem!r}; expected it to end in _<number of the probe set>"
        )
    number = int(run[1])
    content = _of_pickle(path) if path.suffix == ".pkl" else _of_npz(path, out, number)
    probe = _checked(path, content)
    transfer = Transfer(*(probe[field] for field in NAMES))
    name = extract_probes.file_name(transfer, number)
    written = files.path_of(out / "probes", name)
    try:
        files.check_name(name.removesuffix(".npz"))
    except ValueError as error:
        raise PublishedFileError(f"{path}: {error}") from error
    arrays = {field: probe[field] for field in ARRAYS if field in probe}
    extract_probes.write(written, transfer, number, arrays, math.nan)
    return written


def _of_pickle(path: Path) -> dict[str, Any]:
    try:
        content = pickles.load(path.read_bytes())
    except pickles.RefusedError as error:
        raise PublishedFileError(f"{path} is refused and was not executed: {error}") from None
    except ValueError as error:
        raise PublishedFileError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise PublishedFileError(
            f"{path} holds {type(content).__name__}; expected a dictionary of {', '.join(FIELDS)}"
        )
    if lacking := [field for field in FIELDS if field not in content]:
        raise PublishedFileError(f"{path} lacks {', '.join(lacking)}")
    return content


def _of_npz(path: Path, out: Path, number: int) -> dict[str, Any]:
    try:
        with array_files.Archive(path) as archive:
            content: dict[str, Any] = {key: archive[key] for key in archive if key in FIELDS}
    except ValueError as error:
        raise PublishedFileError(str(error)) from error
    content |= {field: str(content[field]) for field in NAMES if field in content}
    if "y" not in content and "target_dataset" in content:
        folder = probe_images.folder_of(out, content["target_dataset"], number)
        if (folder / "labels.npy").exists():
            try:
                content["y"] = array_files.read(folder / "labels.npy")[array_files.ONLY]
            except ValueError as error:
                raise PublishedFileError(str(error)) from error
    if lacking := [field for field in FIELDS if field not in content and field != "probs"]:
        raise PublishedFileError(f"{path} lacks {', '.join(lacking)}")
    return content


def _checked(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked fields: arrays as `extract_probes.write` takes them, and names."""
    probe: dict[str, Any] = {}
    for field in (field for field in ARRAYS if field in content):
        array = _array(path, field, content[field])
        kinds, ndims = ("iufb", (1, 2)) if field == "y" else ("f", (2,))
        if array.dtype.kind not in kinds or array.ndim not in ndims or not array.size:
            kind = "numbers" if field == "y" else "floats"
            shape = "(n,) or (n, c)" if field == "y" else "(n, d)"
            raise PublishedFileError(
                f"{path}: {field} is {array.dtype} {array.shape}; expected {kind} {shape}"
            )
        probe[field] = array
    if len({len(array) for array in probe.values()}) > 1:
        counts = ", ".join(f"{field} of {len(array)}" for field, array in probe.items())
        raise PublishedFileError(f"{path}: {counts}; expected the same number of images")
    y = probe["y"]
    if fault := _fault(y):
        raise PublishedFileError(
            f"{path}: y has {fault} values; expected class indices or annotation vectors"
        )
    probe["y"] = y.astype(np.int32) if y.ndim == 1 else y.astype(np.float32)
    for field in NAMES:
        if not isinstance(content[field], str) or not re.fullmatch(r"[\w.-]+", content[field]):
            raise PublishedFileError(f"{path}: {field} is {content[field]!r}; expected a name")
        probe[field] = content[field]
    try:
        models.get(probe["architecture"])
    except InputError as error:
        raise PublishedFileError(f"{path}: {error}") from None
    return probe


def _fault(y: np.ndarray) -> str:
    """Return what kind of invalid values y has, or "" if all are valid labels."""
    if not np.isfinite(y).all():
        return "non-finite"
    if (y < 0).any():
        return "negative"
    return "fractional" if y.ndim == 1 and (y != np.round(y)).any() else ""


def _array(path: Path, field: str, value: Any) -> np.ndarray:
    """Return an array unchanged, or stack a list of numbers or of rows of one length."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, list | tuple):
        rows = [np.asarray(v) for v in value if isinstance(v, _ROW)]
        alike = len({(row.shape, row.dtype.kind) for row in rows}) == 1
        # A pickle may refer to one row a million times, which stacking would copy.
        if len(rows) == len(value) and alike and sum(row.nbytes for row in rows) < LIMIT:
            return np.stack(rows)
    raise PublishedFileError(
        f"{path}: {field} is {type(value).__name__}; expected an array, or a list of numbers "
        "or of rows of one length"
    )


if __name__ == "__main__":
    main()
