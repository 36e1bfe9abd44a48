"""What a model of a bank costs and where it comes from: shown beside its score."""

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparc import files
from jaxparc.bank.entry import KINDS, Counts, Entry
from jaxparc.bank.folder import ArrayFile, arrays_of
from jaxparc.errors import InputError


class Facts(NamedTuple):
    """Facts about a model that do not depend on its score; None if unknown.

    Attributes:
        parameters: number of parameters, of an architecture with 1,000 classes.
        gmacs: billion multiply-adds per image, likewise.
        images_per_second: speed of its feature extraction on this machine, decoding included and
            compilation excluded.
        megabytes: size of its file, or of the files in its folder, in 10^6 bytes.
        licence: of its weights.
        source: the data set that it was trained on.
    """

    parameters: int | None = None
    gmacs: float | None = None
    images_per_second: float | None = None
    megabytes: float | None = None
    licence: str | None = None
    source: str | None = None


def facts_of(entry: Entry, folder: Path, made_of: str) -> Facts:
    """Return the facts about a model, from its entry, its file of weights and its extraction.

    Args:
        entry: the model.
        folder: folder of its features.
        made_of: fingerprint of its features.
    """
    counts = counts_of(entry, folder)
    return Facts(
        counts.parameters,
        counts.gmacs,
        _read_speed(folder, entry.name, made_of),
        _megabytes(entry),
        entry.licence,
        entry.source,
    )


def counts_of(entry: Entry, folder: Path) -> Counts:
    """Return the size of a model, as far as it or the extraction of its features tells."""
    try:
        known = entry.counts()
    except InputError:  # a size that the network does not take, say: its extraction reports it
        known = Counts()
    return known.or_else(_recorded_counts(folder, entry.name))


def _megabytes(entry: Entry) -> float | None:
    """Return the size of its file, or of the files in its folder; None if it is not there."""
    try:
        weights = entry.cached_weights() or Path(entry.architecture)
        parts = weights.iterdir() if weights.is_dir() else [weights]
        return sum(path.stat().st_size for path in parts) / 1e6
    except (OSError, InputError):  # features may outlive the weights
        return None


# Columns of models.csv from which facts follow; `facts_of` needs the bank file and the weights.
COLUMNS = ("architecture", "size", "megabytes", "licence", "source")


def cells_of(entry: Entry) -> list[object]:
    """Return the cells of a model in the `COLUMNS` of models.csv; unknown ones are empty."""
    cells = (
        entry.address,
        entry.size,
        _megabytes(entry),
        entry.licence,
        entry.source,
    )
    return ["" if cell is None else cell for cell in cells]


def recorded(folder: Path, features: Mapping[str, ArrayFile]) -> dict[str, Facts]:
    """Return the facts that models.csv and speeds in a folder of features tell.

    Args:
        folder: the folder; another command, or nobody, may have written its models.csv.
        features: model -> its file of features.
    """
    try:
        _, table = files.read_table(folder / "models.csv", ours=True)
    except (OSError, InputError):
        return {}
    found = {}
    for row in table:
        cells = {column: row.cells.get(column, "") for column in ("model", *COLUMNS)}
        if (name := cells["model"]) not in features:
            continue
        made_of = arrays_of(features[name].path).get("made_of")
        counts = _recorded_counts(folder, name)
        if counts == Counts():  # of features that something else extracted
            counts = _counted(cells["architecture"], cells["size"])
        found[name] = Facts(
            counts.parameters,
            counts.gmacs,
            None if made_of is None else _read_speed(folder, name, str(np.asarray(made_of))),
            _number(cells["megabytes"]),
            cells["licence"] or None,
            cells["source"] or None,
        )
    return found


def _counted(address: str, size: str) -> Counts:
    """Return the counts of a network; unknown if it, or a package, is not there."""
    kind, colon, name = address.partition(":")
    if not colon:
        kind, name = "architecture", address
    if not name or kind not in KINDS:
        return Counts()
    try:
        return Entry("", name, kind=kind, size=int(size) if size else None).counts()
    except (ValueError, ImportError):
        return Counts()


def _recorded_counts(folder: Path, name: str) -> Counts:
    """Return what the extraction of a model's features told of its size."""
    found = _read(folder, name).get("counts")
    if not isinstance(found, list) or len(found) != len(Counts._fields):
        return Counts()
    return Counts(*found)


def _number(cell: str) -> float | None:
    try:
        return files.number(cell)
    except ValueError:
        return None


# Batches of which the first compiles, and the others start before it is finished.
FIRST = 3


class Starts:
    """The times at which batches start, and the speed that follows from them.

    A batch starts before the one before it is computed, and waits until there is room: but for the
    first few, batches start as often as they are finished. So the time between two starts is that
    of the batches between them. Compilation, and what follows the last start, do not count.
    """

    def __init__(self) -> None:
        self._starts: list[tuple[float, int]] = []

    def add(self, size: int) -> None:
        """Note that a batch of this many images starts now."""
        self._starts.append((time.perf_counter(), size))

    def rate(self) -> float | None:
        """Return images per second; None if there were too few batches to say."""
        timed = self._starts[FIRST:]
        if len(timed) < 3:
            return None
        return sum(size for _, size in timed[:-1]) / (timed[-1][0] - timed[0][0])


class Stopwatch(Starts):
    """An apply function that measures its speed; see `Starts`.

    Args:
        apply_fn: function of a batch.
        on_images: called with the number of images of each batch.
    """

    def __init__(
        self,
        apply_fn: Callable[[Any], Any],
        on_images: Callable[[int], None] = lambda count: None,
    ) -> None:
        super().__init__()
        self._apply_fn, self._on_images = apply_fn, on_images

    def __call__(self, batch: Any) -> Any:
        """Apply the function."""
        self.add(len(batch))
        self._on_images(len(batch))
        return self._apply_fn(batch)

    @property
    def batch(self) -> int | None:
        """The number of images of the last batch, padding included; None if there was none."""
        return self._starts[-1][1] if self._starts else None


class TimedImages(Starts):
    """Images that measure how fast `jaxparc.extract` reads them, batch by batch; see `Starts`.

    For functions that `extract` compiles, which are not called for every batch.

    Args:
        images: anything that returns rows when sliced.
    """

    def __init__(self, images: Any) -> None:
        super().__init__()
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: slice) -> Any:
        """Return a batch."""
        batch = self._images[rows]
        self.add(len(batch))
        return batch


def record(
    folder: Path, name: str, made_of: str, images_per_second: float | None, counts: Counts
) -> None:
    """Record facts of an extraction, apart from the features, whose bytes are reproducible.

    Args:
        folder: folder of the features.
        name: name of the model.
        made_of: fingerprint of the features.
        images_per_second: the speed; None if it was not measured.
        counts: the size of the network, as far as loading it told.

    Raises:
        OSError: the file cannot be written.
    """
    content = {"made_of": made_of, "images_per_second": images_per_second, "counts": [*counts]}
    files.write_text(_path(folder, name), json.dumps(content) + "\n")


def _read_speed(folder: Path, name: str, made_of: str) -> float | None:
    """Return the recorded speed of the extraction of these features; None if there is none."""
    content = _read(folder, name)
    speed = content.get("images_per_second")
    if not isinstance(speed, int | float) or content.get("made_of") != made_of:
        return None
    return speed if 0 < speed < math.inf else None


def _read(folder: Path, name: str) -> dict[str, Any]:
    """Return what `record` wrote; {} if it is missing or damaged."""
    try:
        return dict(json.loads(_path(folder, name).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _path(folder: Path, name: str) -> Path:
    return files.path_of(folder / "speed", f"{name}.json")
