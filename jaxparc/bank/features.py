"""Extract the features of a bank for a probe set once, into a folder with one file per model.

The features of its first k images alone are in the subfolder first-k. They become part of the file
of more images, so that no image is extracted twice.

A file records which images it was extracted from (`seen`) and a fingerprint of everything that
determines its content (`made_of`): images, weights, settings and this package. It is reused only if
the fingerprint matches and the file is undamaged, and never overwritten if it was extracted from
other images.
"""

import contextlib
import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxparc import array_files, files, interrupts, locks, printing
from jaxparc.bank import costs
from jaxparc.bank.costs import Facts
from jaxparc.bank.entry import Counts, Entry, Model
from jaxparc.bank.folder import ArrayFile, Bank, arrays_of
from jaxparc.errors import InputError, OperationError
from jaxparc.geometry import Geometry
from jaxparc.units.unit import Unit


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeImages:
    """A probe set: some images of a target's training split.

    Attributes:
        target: short name of the target, as used in names of files.
        where: the folder or file of the target.
        images: n records.
        labels: (n,) int32 classes, (n, c) float32 of zeros and ones, or (n, 1) float64 values.
        label_kind: as `jaxparc.score_bank` takes it.
        num_classes: c, of the target; None if it has values.
        split_labels: labels of the whole training split, in the same form as `labels`.
        seed: seed that the images were drawn with.
        name: name and version of the target (for user images, of their content).
        drawn: number of images of the probe set that these are the first of; n for a whole set.
    """

    target: str
    where: Path
    images: Any  # decoding.Subset, whose module is imported only when needed
    labels: np.ndarray
    label_kind: str
    num_classes: int | None
    split_labels: np.ndarray
    seed: int
    name: tuple[str, str]
    drawn: int

    def __str__(self) -> str:
        first = "" if len(self.labels) == self.drawn else f"first {len(self.labels)} of "
        return f"{first}{self.drawn} images of {self.where}, seed {self.seed}"

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the name and version of the target and of the indices of the images."""
        return files.digest([*self.name, self.images.indices.tolist()])

    @functools.cached_property
    def _crops(self) -> dict[Geometry, Any]:
        return {}

    def crops(self, geometry: Geometry) -> Any:
        """Return the images as sliceable central crops, each decoded once for all networks."""
        from jaxparc.training import decoding

        if geometry not in self._crops:
            crops = decoding.CentralCrops(self.images, geometry)
            self._crops[geometry] = decoding.KeptCrops(crops)
        return self._crops[geometry]

    def first(self, count: int) -> "ProbeImages":
        """Return the first images; probe sets are drawn so that their beginnings are balanced."""
        if count == len(self.labels):
            return self
        images = dataclasses.replace(self.images, indices=self.images.indices[:count])
        return dataclasses.replace(self, images=images, labels=self.labels[:count])


def probe_images(
    target: str, images: int, seed: int, data_dir: str | Path | None = None
) -> ProbeImages:
    """Draw a probe set.

    Args:
        target: a data set, as `datasets.load` takes it.
        images: number of images, n.
        seed: seed of the draw.
        data_dir: as `datasets.load` takes it.

    Raises:
        InputError: the target is unknown, or `images` is below 1.
        DatasetError: the target cannot be read.
    """
    from jaxparc import datasets, sampling
    from jaxparc.training import decoding

    labels = datasets.labels(target, "train", data_dir=data_dir)
    indices = sampling.probe_indices(labels, images, seed)
    source = datasets.load(target, "train", data_dir=data_dir, decode=False)
    return ProbeImages(
        target=datasets.short_name(target),
        where=datasets.folder_of(target, data_dir=data_dir),
        images=decoding.Subset(source, indices),
        labels=labels[indices],
        label_kind=source.spec.label_kind,
        num_classes=source.spec.num_classes or None,
        split_labels=labels,
        seed=seed,
        name=(source.spec.name, source.spec.version),
        drawn=len(indices),
    )


def folder_for(bank: Path, probe: ProbeImages) -> Path:
    """Return the default folder of features, unique to a bank and a probe set.

    Args:
        bank: the absolute path of the bank file, or of the folder that holds the models.
        probe: the probe set.
    """
    digest = files.digest([str(bank), str(probe.where), probe.digest])
    return Path("features") / f"{bank.stem or 'models'}-{probe.target}-{digest[:6]}"


@contextlib.contextmanager
def alone_in(
    folder: Path,
    probe: ProbeImages,
    entries: Sequence[Entry],
    *,
    shard: tuple[int, int] = (1, 1),
) -> Iterator[None]:
    """Lock a folder of features, which belongs to one probe set, for one command.

    Args:
        folder: the folder; created if necessary.
        probe: the probe set.
        entries: the models whose features will be written.
        shard: as `locks.alone` takes it.

    Raises:
        OperationError: another process is using the folder, or it cannot be written.
        InputError: it holds features of other images, or a file that would be overwritten and
            does not record which images it was extracted from.
    """
    busy = f"another process is using {folder}; wait for it, or give another --out"
    with locks.alone(folder, busy, shard=shard):
        files.clear(folder)
        ours = {entry.name for entry in entries}
        paths = [(path, probe.digest) for path in sorted(folder.glob("*.npz"))]
        for first, place in _firsts(folder, len(probe.labels)).items():
            files.clear(place)
            paths += [(path, probe.first(first).digest) for path in sorted(place.glob("*.npz"))]
        for path, digest in paths:
            seen = _recorded_images(path)
            if seen == ("", "") and path.stem in ours:
                raise InputError(
                    f"{path} does not record which images it was extracted from, and would be "
                    "overwritten; move it away, or give another --out"
                )
            if seen is not None and seen[0] not in ("", digest):
                raise InputError(
                    f"{path} was extracted from other images ({seen[1]}, not {probe}); move "
                    f"{folder} away, or give another --out"
                )
        yield


def folder_of_first(folder: Path, probe: ProbeImages, first: int | None) -> Path:
    """Return the folder of the features of the first images; the folder itself for all of them."""
    return folder if first in (None, len(probe.labels)) else folder / f"{_FIRST}{first}"


_FIRST = "first-"


def _firsts(folder: Path, n: int) -> dict[int, Path]:
    """Return the subfolders of the features of first images, by their number, less than n."""
    found = {place.name.removeprefix(_FIRST): place for place in folder.glob(f"{_FIRST}*")}
    return {int(k): place for k, place in found.items() if k.isdecimal() and int(k) < n}


def units(
    entries: Sequence[Entry],
    probe: ProbeImages,
    folder: Path,
    *,
    batch_size: int = 32,
    first: int | None = None,
) -> list[Unit]:
    """List the feature files of a bank as units of work.

    A file is done if it is undamaged and was extracted with the same weights, images, settings and
    code. A model that fails leaves no file.

    Args:
        entries: the models.
        probe: the images.
        folder: receives one .npz per model (features, labels, label_kind and, if the network has
            a head, probs), which `folder.read_bank` can read. The caller should hold it with
            `alone_in`.
        batch_size: images per batch, over all devices; rounded up to a multiple of their number.
        first: number of images, from the first on, whose features are wanted; None for all. They
            go to the folder of `folder_of_first`.
    """
    count = len(probe.labels) if first is None else first
    return [_Extraction(entry, probe, folder, batch_size, count).unit() for entry in entries]


def list_units(
    entries: Sequence[Entry],
    target: str,
    images: int,
    seed: int,
    data_dir: str | None,
    folder: Path,
    batch_size: int,
    first: int | None = None,
) -> list[Unit]:
    """List the same units as `units`, in another process, from arguments that can be pickled.

    Args:
        entries: the models.
        target: as `probe_images` takes it.
        images: as `probe_images` takes it.
        seed: as `probe_images` takes it.
        data_dir: as `probe_images` takes it.
        folder: as `units` takes it.
        batch_size: as `units` takes it.
        first: as `units` takes it.
    """
    probe = drawn_once(target, images, seed, data_dir)
    return units(entries, probe, folder, batch_size=batch_size, first=first)


# A worker lists the units of several rounds of a race.
drawn_once = functools.lru_cache(maxsize=1)(probe_images)


def unit_name(entry: Entry) -> str:
    """Return the name of a model's unit: the model's, quoted if it is not a valid file name."""
    return entry.name if entry.refused is None else repr(entry.name)


def write_facts(entries: Sequence[Entry], folder: Path) -> None:
    """Write models.csv: layers and source images, if known for all models, and costs.

    Raises:
        OSError: the folder cannot be written.
    """
    files.write_text(folder / "models.csv", _facts(entries, folder))


def read(
    entries: Sequence[Entry], probe: ProbeImages, folder: Path, failed: Collection[str] = ()
) -> Bank:
    """Open the features of a bank.

    Args:
        entries: the models.
        probe: the images.
        folder: the folder in which all units of `units` are done, apart from those that failed.
        failed: names of the units that failed.

    Raises:
        InputError: a file cannot be read.
    """
    features: dict[str, ArrayFile] = {}
    probs: dict[str, ArrayFile] = {}
    for entry in entries:
        if unit_name(entry) in failed:
            continue
        arrays = arrays_of(files.path_of(folder, f"{entry.name}.npz"))
        features[entry.name] = arrays["features"]
        if "probs" in arrays:
            probs[entry.name] = arrays["probs"]
    return Bank(
        features, probs, probe.labels, label_kind=probe.label_kind, images=probe.images.indices
    )


def facts_of(entries: Sequence[Entry], names: Collection[str], folder: Path) -> dict[str, Facts]:
    """Return what the models cost and where they come from, by name.

    Args:
        entries: the models.
        names: names of the models whose features are in the folder; others are left out.
        folder: the folder.
    """
    found = {}
    for entry in entries:
        if entry.name in names:
            made_of = arrays_of(files.path_of(folder, f"{entry.name}.npz")).get("made_of")
            found[entry.name] = costs.facts_of(entry, folder, str(np.asarray(made_of)))
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Extraction:
    """The work of one unit: the features of one model for the first images of a probe set."""

    entry: Entry
    probe: ProbeImages
    folder: Path
    batch_size: int
    first: int
    # What `prepare` read, for `make` to take.
    _ahead: list[Model] = dataclasses.field(default_factory=list)

    def unit(self) -> Unit:
        name = unit_name(self.entry)
        return Unit(name, self.path(self.first), self.check, self.make, prepare=self.prepare)

    def path(self, first: int) -> Path:
        """Return the file of the first images."""
        folder = folder_of_first(self.folder, self.probe, first)
        return files.path_of(folder, f"{self.entry.name}.npz")

    def made_of(self, images: ProbeImages) -> str:
        """Return the fingerprint that the file for some images must have."""
        return fingerprint(self.entry, images)

    def known(self) -> dict[str, np.ndarray]:
        """Return the arrays of another file of this model: enough images, or as many as there are.

        Files that do not fit are ignored; {} if none fits.
        """
        n = len(self.probe.labels)
        counts = {n, *_firsts(self.folder, n)} - {self.first}
        for count in sorted(counts, reverse=True):
            images = self.probe.first(count)
            if arrays := _checked(self.path(count), self.made_of(images), images):
                return {key: x[: self.first] for key, x in arrays.items() if key in _ROWS}
        return {}

    def check(self, path: Path, name: str) -> None:
        """Raise FileNotFoundError unless the file is valid: as a cache, it is then recomputed."""
        del name
        if self.entry.refused is not None or not path.exists():
            raise FileNotFoundError(path)
        images = self.probe.first(self.first)
        try:
            made_of = self.made_of(images)
        except (OSError, ValueError) as error:  # `make` reports weights that cannot be read
            raise FileNotFoundError(path) from error
        if _checked(path, made_of, images) is None:
            raise FileNotFoundError(path)

    def prepare(self) -> None:
        """Read the weights ahead."""
        with contextlib.suppress(Exception):  # `make` reports it
            if self.entry.refused is None:
                self._ahead.append(self.entry.implementation.load(self.entry))

    def load(self) -> Model:
        if self._ahead:
            return self._ahead.pop()
        return self.entry.implementation.load(self.entry)

    def make(self, on_images: Callable[[int], None]) -> tuple[str, ...]:
        if self.entry.refused is not None:
            raise InputError(self.entry.refused)
        path, images = self.path(self.first), self.probe.first(self.first)
        try:
            made_of = self.made_of(images)
        except (OSError, ValueError) as error:  # an existing file of features is kept
            raise InputError(printing.line(error)) from error
        known = self.known()
        start = len(known.get("features", ()))
        notes: tuple[str, ...] = ()
        arrays: dict[str, Any] = {**known}
        speed, counts = None, Counts()
        try:
            if start < self.first:
                rows = slice(start, self.first)
                arrays, notes = _extract(
                    self.entry, self.probe, rows, self.batch_size, self.load, on_images
                )
                speed = arrays.pop("images_per_second", None)
                counts = arrays.pop("counts", counts)
                for key, before in known.items():
                    arrays[key] = np.concatenate([before, arrays[key]])
        except Exception as error:
            if not interrupts.came():
                path.unlink(missing_ok=True)  # it is damaged, or belongs to other weights
            if isinstance(error, OSError):  # while reading, unlike those of `replacing` below
                raise OperationError(printing.line(error)) from error
            raise
        finally:
            self._ahead.clear()
        with files.replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                **arrays,
                labels=images.labels,
                label_kind=np.array(images.label_kind),
                made_of=np.array(made_of),
                seen=np.array([images.digest, str(images)]),
            )
        if speed is not None or counts != Counts():
            costs.record(path.parent, self.entry.name, made_of, speed, counts)
        return notes


_ROWS = ("features", "probs")  # arrays with one row per image


class _Rows:
    """Some rows of images that can be sliced."""

    def __init__(self, images: Any, rows: slice) -> None:
        self._images, self._start, self._stop = images, rows.start, rows.stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        return self._images[self._start + start : self._start + stop]


def _extract(
    entry: Entry,
    probe: ProbeImages,
    rows: slice,
    batch_size: int,
    load: Callable[[], Model],
    on_images: Callable[[int], None],
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Extract the features of one model for some rows of a probe set.

    Returns:
        "features", "probs" if the weights have a head, "images_per_second" if it was measured, and
        "counts", the size of the network as far as loading it told; and notes on the weights.
    """
    from jaxparc import extraction

    model = load()
    network = costs.Stopwatch(model.start(), on_images)
    shape = entry.address, model.geometry.size, batch_size
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = extraction.extract(
            network,
            _Rows(probe.crops(model.geometry), rows),
            batch_size=_WORKED.get(shape, batch_size),
            jit=False,
        )
    if network.batch is not None and network.batch < min(batch_size, rows.stop - rows.start):
        _WORKED[shape] = network.batch
    notes = (*model.notes, *(str(warning.message) for warning in caught))
    if not np.isfinite(found.features).all():
        raise InputError("its features are not finite")
    arrays = {
        "features": found.features,
        "probs": found.probs,
        "images_per_second": network.rate(),
        "counts": model.counts,
    }
    return {name: array for name, array in arrays.items() if array is not None}, notes


def fingerprint(entry: Entry, images: ProbeImages) -> str:
    """Return a fingerprint of everything that determines the features of a model."""
    return files.digest([entry.settings, images.digest, package()])


# Architecture, size, requested batch -> the largest batch that fits in memory, if it is smaller.
_WORKED: dict[tuple[str, int, int], int] = {}


@functools.cache
def package() -> str:
    """Return a hash of this package's source: features may change with any of its files."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _checked(path: Path, made_of: str, probe: ProbeImages) -> dict[str, np.ndarray] | None:
    """Read a file of features; None if it is missing, damaged or has another fingerprint."""
    try:
        arrays = array_files.read(path)
        fits = str(arrays["made_of"]) == made_of and arrays["features"].ndim == 2
        return arrays if fits and np.array_equal(arrays["labels"], probe.labels) else None
    except Exception:  # missing or damaged; it is recomputed
        return None


def _recorded_images(path: Path) -> tuple[str, str] | None:
    """Return the digest and the description of the images that a file was extracted from.

    Both are empty if the file does not record them; the result is None if it cannot be read.
    """
    try:
        with array_files.Archive(path) as archive:
            if "seen" not in archive:
                return "", ""
            digest, images = archive["seen"].tolist()
            return str(digest), str(images)
    except Exception:  # damaged; it is recomputed
        return None


def _facts(entries: Sequence[Entry], folder: Path) -> str:
    """Return the text of models.csv; a column that is unknown for any model is left out."""
    entries = [entry for entry in entries if entry.refused is None]
    columns = {
        "layers": layers(entries, folder),
        "source_images": {e.name: e.source_images for e in entries if e.source_images},
    }
    whole = {name: column for name, column in columns.items() if len(column) == len(entries)}
    rows = [[e.name, *(c[e.name] for c in whole.values()), *costs.cells_of(e)] for e in entries]
    return files.table_text([["model", *whole, *costs.COLUMNS], *rows])


def layers(entries: Sequence[Entry], folder: Path) -> dict[str, int]:
    """Return the number of layers of all models, by name; {} if it is unknown for any."""
    found = {e.name: costs.counts_of(e, folder).layers for e in entries if e.refused is None}
    return {name: n for name, n in found.items() if n} if all(found.values()) else {}
