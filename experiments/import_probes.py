"""Published files in: the authors' probe pickles, of which nothing is run, and oracle tables.

Reads {architecture}_{source}_{target}_{run}.pkl files, or folders of them, and writes probe files
to DIR/probes, as extract_probes does; of a .csv file, checks every row and copies it to
DIR/oracle.csv. DIR is a results folder: score_probes and report go on from there.
"""

import argparse
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments import _run, extract_probes, oracle
from jaxparc import files, models, pickles
from jaxparc.evaluation import Transfer

LIMIT = 1 << 30  # bytes of a list of rows
_ROW = (np.ndarray, np.generic, int, float)
FIELDS = ("features", "probs", "y", "architecture", "source_dataset", "target_dataset")


class PublishedFileError(ValueError):
    """A published file cannot be taken; the message names it, and what is wrong."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.import_probes",
        description=__doc__,
        epilog="Exit codes: 0 all went in; 1 some were refused, the rest went in; 2 none is there.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help=".pkl, .csv or a folder"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="results folder")
    args = parser.parse_args()
    found = [file for path in args.paths for file in _files(path)]
    if lacking := [path for path in args.paths if not list(_files(path))]:
        parser.exit(2, f"{parser.prog}: {lacking[0]} is no .pkl or .csv file, and holds none\n")
    refused = 0
    try:
        for file in found:
            try:
                _run.say(f"{file.name}: {import_file(file, args.out)}")
            except PublishedFileError as error:
                print(f"{parser.prog}: {error}", file=sys.stderr)
                refused += 1
    except OSError as error:
        parser.exit(2, f"{parser.prog}: {error.filename or args.out}: {error.strerror}\n")
    _run.say(f"{len(found) - refused} of {len(found)} files went into {args.out}")
    sys.exit(1 if refused else 0)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.rglob("*") if p.suffix in (".pkl", ".csv") and p.is_file())
    return [path] if path.is_file() and path.suffix in (".pkl", ".csv") else []


def import_file(path: Path, out: Path) -> Path:
    """Takes one published file into a results folder.

    Returns:
        The file written.

    Raises:
        PublishedFileError: it is not what its name says, or a pickle asks for more than arrays.
    """
    if path.suffix == ".csv":
        try:
            oracle.read(path)
        except oracle.OracleError as error:
            raise PublishedFileError(str(error)) from error
        files.write_text(out / "oracle.csv", path.read_text(encoding="utf-8"))
        return out / "oracle.csv"
    probe = read_pickle(path)
    run = re.search(r"_(\d+)$", path.stem)
    if run is None:
        raise PublishedFileError(f"{path}: its name does not end in the number of a probe set")
    transfer, number = Transfer(*(probe[f] for f in FIELDS[3:])), int(run[1])
    written = out / "probes" / extract_probes.file_name(transfer, number)
    extract_probes.write(written, transfer, number, {k: probe[k] for k in FIELDS[:3]}, math.nan)
    return written


def read_pickle(path: Path) -> dict[str, Any]:
    """The content of one of the authors' probe files, checked.

    Returns:
        features (n, d) and probs (n, z) floating-point, y (n,) integers or (n, c) zeros and ones;
        source_dataset, target_dataset and architecture as strings.

    Raises:
        PublishedFileError: as `import_file`.
    """
    try:
        content = pickles.load(path.read_bytes())
    except pickles.RefusedError as error:
        raise PublishedFileError(f"{path} is refused, and nothing of it was run: {error}") from None
    except ValueError as error:
        raise PublishedFileError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or (lacking := [f for f in FIELDS if f not in content]):
        what = f"lacks {', '.join(lacking)}" if isinstance(content, dict) else "is no dictionary"
        raise PublishedFileError(f"{path} {what}; expected {', '.join(FIELDS)}")
    probe: dict[str, Any] = {}
    for field in FIELDS[:3]:
        array = _array(path, field, content[field])
        kinds, ndims = ("iufb", (1, 2)) if field == "y" else ("f", (2,))
        if array.dtype.kind not in kinds or array.ndim not in ndims or not array.size:
            raise PublishedFileError(f"{path}: {field} are {array.dtype} {array.shape}")
        probe[field] = array
    rows = {field: len(probe[field]) for field in FIELDS[:3]}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{field} of {count}" for field, count in rows.items())
        raise PublishedFileError(f"{path} is not of one set of images: {counts}")
    y = probe["y"]
    if y.ndim == 1 and (np.any(y != np.round(y)) or np.any(y < 0)):
        raise PublishedFileError(f"{path}: y are no classes")
    if y.ndim == 2 and not np.isin(y, (0, 1)).all():
        raise PublishedFileError(f"{path}: y must be zeros and ones where images have several")
    probe["y"] = y.astype(np.int32) if y.ndim == 1 else y.astype(np.float32)
    for field in FIELDS[3:]:
        if not isinstance(content[field], str) or not re.fullmatch(r"[\w.-]+", content[field]):
            raise PublishedFileError(f"{path}: {field} is {content[field]!r}; expected a name")
        probe[field] = content[field]
    if probe["architecture"] not in models.MODELS:
        raise PublishedFileError(
            f"{path}: unknown architecture {probe['architecture']!r}; "
            f"known: {', '.join(models.MODELS)}"
        )
    return probe


def _array(path: Path, field: str, value: Any) -> np.ndarray:
    """An array, or a list of numbers or of rows of one length."""
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, list | tuple):
        rows = [np.asarray(v) for v in value if isinstance(v, _ROW)]
        alike = len({(row.shape, row.dtype.kind) for row in rows}) == 1
        # One row named a million times would grow on stacking.
        if len(rows) == len(value) and alike and sum(row.nbytes for row in rows) < LIMIT:
            return np.stack(rows)
    raise PublishedFileError(f"{path}: {field} is no array, nor a list of numbers or rows")


if __name__ == "__main__":
    main()
