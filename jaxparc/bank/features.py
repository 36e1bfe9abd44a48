"""The features of a bank for a probe set, extracted once: a folder with one file for each model.

A file says which images it was made of (`seen`), and has a fingerprint of all that decides its
content (`made_of`): images, weights, settings, and this package. It is reused only if that matches
and it is undamaged, and never overwritten if it is of other images.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxparc import array_files, files, interrupts, locks, printing
from jaxparc.bank import toml_file
from jaxparc.bank.folder import ArrayFile, Bank, arrays_of
from jaxparc.bank.toml_file import Entry
from jaxparc.errors import InputError, OperationError
from jaxparc.units.unit import Unit


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeImages:
    """A probe set: some images of a target's training split.

    Attributes:
        target: short name of the target, as used in names of files.
        where: the folder or file of the target.
        images: n records.
        labels: (n,) int32 classes, or (n, c) float32 of zeros and ones.
        num_classes: c, of the target.
        split_labels: of the whole training split, in the form of `labels`.
        seed: of the choice.
        digest: of the name and version of the target (for user images, of their content) and of
            the indices of the images.
    """

    target: str
    where: Path
    images: Any  # decoding.Subset, which is not imported before it is needed
    labels: np.ndarray
    num_classes: int
    split_labels: np.ndarray
    seed: int
    digest: str

    def __str__(self) -> str:
        return f"{len(self.labels)} images of {self.where}, seed {self.seed}"


def probe_images(
    target: str, images: int, seed: int, data_dir: str | Path | None = None
) -> ProbeImages:
    """Draw a probe set.

    Args:
        target: a data set, as `datasets.load` takes it.
        images: number of images, n.
        seed: of the choice.
        data_dir: as `datasets.load` takes it.

    Raises:
        InputError: the target is unknown, or has fewer images.
        DatasetError: it cannot be read.
    """
    from jaxparc import datasets, sampling
    from jaxparc.training import decoding

    labels = datasets.labels(target, "train", data_dir=data_dir)
    indices = sampling.probe_indices(labels, images, seed)
    source = datasets.load(target, "train", data_dir=data_dir, decode=False)
    identity = [source.spec.name, source.spec.version, indices.tolist()]
    return ProbeImages(
        target=datasets.short_name(target),
        where=datasets.folder_of(target, data_dir=data_dir),
        images=decoding.Subset(source, indices),
        labels=labels[indices],
        num_classes=source.spec.num_classes,
        split_labels=labels,
        seed=seed,
        digest=_hash(identity),
    )


def folder_for(bank: str | Path, probe: ProbeImages) -> Path:
    """Return the folder of features of a bank and a probe set, which no others have."""
    bank = Path(bank).absolute()
    digest = _hash([str(bank), str(probe.where), probe.digest])
    return Path("features") / f"{bank.stem}-{probe.target}-{digest[:6]}"


@contextlib.contextmanager
def alone_in(
    folder: Path,
    probe: ProbeImages,
    entries: Sequence[Entry],
    *,
    shard: tuple[int, int] = (1, 1),
) -> Iterator[None]:
    """Hold a folder of features, which is of one probe set, for one command.

    Args:
        folder: created if necessary.
        probe: its probe set.
        entries: the models whose features will be written.
        shard: as `locks.alone` takes it.

    Raises:
        OperationError: another process is at work in it, or it cannot be written.
        InputError: it holds features of other images, or a file that would be overwritten and
            does not say what it was made of.
    """
    busy = f"another process is at work in {folder}; wait for it, or give another --out"
    with locks.alone(folder, busy, shard=shard):
        files.clear(folder)
        ours = {entry.name for entry in entries}
        for path in sorted(folder.glob("*.npz")):
            seen = _seen(path)
            if seen == ("", "") and path.stem in ours:
                raise InputError(
                    f"{path} does not say what it was made of, and would be overwritten; move it "
                    "away, or give another --out"
                )
            if seen is not None and seen[0] not in ("", probe.digest):
                raise InputError(
                    f"{path} was made of other images ({seen[1]}, not {probe}); move {folder} "
                    "away, or give another --out"
                )
        yield


def units(
    entries: Sequence[Entry], probe: ProbeImages, folder: Path, *, batch_size: int = 32
) -> list[Unit]:
    """List the files of features of a bank, as units of work.

    A file is done if it is undamaged and was made of the same weights, images, settings and code.
    A model that fails leaves none.

    Args:
        entries: the models.
        probe: the images.
        folder: gets one .npz for each model (features, labels and, if the network has a head,
            probs), as `folder.read_bank` reads it. It should be held by `alone_in`.
        batch_size: of all devices together; rounded up to a multiple of their number.
    """
    return [
        _Extraction(entry, probe, files.path_of(folder, f"{entry.name}.npz"), batch_size).unit()
        for entry in entries
    ]


def list_units(
    bank: str,
    target: str,
    images: int,
    seed: int,
    data_dir: str | None,
    folder: Path,
    batch_size: int,
) -> list[Unit]:
    """List the same units in another process: as `units`, of what `toml_file.read` and
    `probe_images` return for these arguments.
    """
    probe = probe_images(target, images, seed, data_dir)
    return units(toml_file.read(bank), probe, folder, batch_size=batch_size)


def unit_name(entry: Entry) -> str:
    """Return the name of a model's unit: its own, quoted if it can contain anything."""
    return entry.name if entry.refused is None else repr(entry.name)


def write_facts(entries: Sequence[Entry], folder: Path) -> None:
    """Write models.csv: what methods need to know of the models, if it is known of all.

    Raises:
        OSError: the folder cannot be written.
    """
    files.write_text(folder / "models.csv", _facts(entries))


def read(
    entries: Sequence[Entry], probe: ProbeImages, folder: Path, failed: Collection[str] = ()
) -> Bank:
    """Open the features of a bank.

    Args:
        entries: the models.
        probe: the images.
        folder: in which all units of `units` are done, apart from those that failed.
        failed: names of these.

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
    return Bank(features, probs, probe.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class _Extraction:
    """The work of one unit: the features of one model."""

    entry: Entry
    probe: ProbeImages
    path: Path
    batch_size: int

    def unit(self) -> Unit:
        return Unit(unit_name(self.entry), self.path, self.check, self.make)

    @functools.cached_property
    def made_of(self) -> str:
        """The fingerprint that the file must have; weights can be large, and are hashed once."""
        return _made_of(self.entry, self.probe)

    def check(self, path: Path, name: str) -> None:
        """Whatever is wrong with a file, it is made again: it is a cache."""
        del name
        if self.entry.refused is not None or not path.exists():
            raise FileNotFoundError(path)
        try:
            made_of = self.made_of
        except (OSError, ValueError) as error:  # `make` reports weights that cannot be read
            raise FileNotFoundError(path) from error
        if _checked(path, made_of, self.probe) is None:
            raise FileNotFoundError(path)

    def make(self, on_images: Callable[[int], None]) -> tuple[str, ...]:
        if self.entry.refused is not None:
            raise InputError(self.entry.refused)
        try:
            made_of = self.made_of
        except (OSError, ValueError) as error:  # the features of these weights are kept
            raise InputError(printing.line(error)) from error
        try:
            arrays, notes = _extract(self.entry, self.probe, self.batch_size)
        except Exception as error:
            if not interrupts.came():
                self.path.unlink(missing_ok=True)  # it is damaged, or of other weights
            if isinstance(error, OSError):  # of the weights or images; others are of the output
                raise OperationError(printing.line(error)) from error
            raise
        on_images(len(self.probe.labels))
        with files.replacing(self.path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                **arrays,
                labels=self.probe.labels,
                made_of=np.array(made_of),
                seen=np.array([self.probe.digest, str(self.probe)]),
            )
        return notes


def _extract(
    entry: Entry, probe: ProbeImages, batch_size: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Features, class probabilities if the weights have a head, and notes on the weights."""
    from jaxparc import extraction
    from jaxparc.training import decoding

    loaded = toml_file.load(entry)
    spec = loaded.spec
    found = extraction.extract(
        extraction.compile_network(loaded.module, loaded.variables, mean=spec.mean, std=spec.std),
        decoding.CentralCrops(probe.images, entry.size or spec.input_size),
        batch_size=batch_size,
        jit=False,
    )
    if not np.isfinite(found.features).all():
        raise InputError("its features are not finite")
    arrays = {"features": found.features, "probs": found.probs}
    return {name: array for name, array in arrays.items() if array is not None}, loaded.notes


def _made_of(entry: Entry, probe: ProbeImages) -> str:
    """Fingerprint all that decides the features of a model."""
    return _hash([seen_by(entry), probe.digest, package()])


def seen_by(entry: Entry) -> dict[str, Any]:
    """Return all of a model that decides its features: a hash of its weights, and its settings.

    Raises:
        OSError: its weights cannot be read.
        InputError: they are not a regular file.
    """
    from jaxparc import weights

    settings = {key: getattr(entry, key) for key, kind in toml_file.KEYS.items() if kind.seen}
    return {**settings, "weights": weights.fingerprint(entry.weights)}


@functools.cache
def package() -> str:
    """Hash this package: features may change with any of its files."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _checked(path: Path, made_of: str, probe: ProbeImages) -> dict[str, np.ndarray] | None:
    """Read a file of features; None if it is missing, damaged, or made of something else."""
    try:
        arrays = array_files.read(path)
        fits = str(arrays["made_of"]) == made_of and arrays["features"].ndim == 2
        return arrays if fits and np.array_equal(arrays["labels"], probe.labels) else None
    except Exception:  # missing or damaged; it is made again
        return None


def _seen(path: Path) -> tuple[str, str] | None:
    """Return the digest and the description of the images that a file was made of.

    Both are empty if it does not say; None if it cannot be read.
    """
    try:
        with array_files.Archive(path) as archive:
            if "seen" not in archive:
                return "", ""
            digest, images = archive["seen"].tolist()
            return str(digest), str(images)
    except Exception:  # damaged; it is made again
        return None


def _facts(entries: Sequence[Entry]) -> str:
    """Format models.csv: a column is there if it is known of all models."""
    entries = [entry for entry in entries if entry.refused is None]
    known = all(entry.source_images for entry in entries)
    rows = [[e.name, layers(e), *([e.source_images] if known else [])] for e in entries]
    return files.table_text([["model", "layers", *(["source_images"] if known else [])], *rows])


def layers(entry: Entry) -> int:
    """Return the number of layers of a model."""
    from jaxparc import models

    return entry.layers or models.get(entry.architecture).layers
