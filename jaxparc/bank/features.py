"""What the models of a bank see in a probe set: a folder with a file of features for each.

A file says which images it was made of (`seen`), and has a hash of all that decides what is in it
(`made_of`): images, weights, settings, and this package. It is used again only if that agrees and
every byte is as it was written, and never written over if it is of other images.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxparc import array_files, files, interrupts, printing
from jaxparc.bank import folder as feature_files
from jaxparc.bank import toml_file as bank_file
from jaxparc.bank.folder import ArrayFile
from jaxparc.bank.toml_file import Entry


@dataclasses.dataclass(frozen=True, eq=False)
class ProbeImages:
    """Some images of a target's training split.

    Attributes:
        target: as files are named after it.
        where: the folder or file that it lies in.
        images: n records.
        labels: (n,) int32 classes, or (n, c) float32 of zeros and ones.
        num_classes: c, of the target.
        split_labels: of all its training split, in the form of `labels`.
        seed: by which they were drawn.
        digest: of all that decides which images they are, and of their content.
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
    """Draws a probe set.

    Args:
        target: a data set, as `datasets.load` takes it.
        images: how many.
        seed: of the choice.
        data_dir: as `datasets.load` takes it.

    Raises:
        ValueError: the target is unknown, or has not so many images.
        DatasetError: it cannot be read.
    """
    from jaxparc import datasets, sampling
    from jaxparc.training import decoding

    labels = datasets.labels(target, "train", data_dir=data_dir)
    indices = sampling.probe_indices(labels, images, seed)
    source = datasets.load(target, "train", data_dir=data_dir, decode=False)
    told = [source.spec.name, source.spec.version, indices.tolist()]
    return ProbeImages(
        target=datasets.short_name(target),
        where=datasets.folder_of(target, data_dir=data_dir),
        images=decoding.Subset(source, indices),
        labels=labels[indices],
        num_classes=source.spec.num_classes,
        split_labels=labels,
        seed=seed,
        digest=_hash(told),
    )


def folder_for(bank: str | Path, probe: ProbeImages) -> Path:
    """The folder of features of a bank file and a probe set, which no others have."""
    bank = Path(bank).absolute()
    told = _hash([str(bank), str(probe.where), probe.digest])
    return Path("features") / f"{bank.stem}-{probe.target}-{told[:6]}"


@contextlib.contextmanager
def alone_in(folder: Path, probe: ProbeImages, entries: Sequence[Entry]) -> Iterator[None]:
    """Keeps other processes that write features out of a folder, which is of one probe set.

    Raises:
        RuntimeError: another process is at work in it, or it cannot be written.
        ValueError: it holds features of other images, or a file that would be written over and
            does not say what it was made of.
    """
    with files.alone(folder, f"another process is at work in {folder}"):
        files.clear(folder)
        ours = {entry.name for entry in entries}
        for path in sorted(folder.glob("*.npz")):
            seen = _seen(path)
            if seen == ("", "") and path.stem in ours:
                raise ValueError(
                    f"{path} does not say what it was made of, and would be written over; move it "
                    "away, or give another --out"
                )
            if seen is not None and seen[0] not in ("", probe.digest):
                raise ValueError(
                    f"{path} was made of other images ({seen[1]}, not {probe}); move {folder} "
                    "away, or give another --out"
                )
        yield


@dataclasses.dataclass(frozen=True)
class Look:
    """What became of one model.

    Attributes:
        entry: the model.
        path: of the file of its features.
        kept: whether it was there.
        error: why there is none; None if there is.
        notes: what its weights' reader should know; of a file that was there, not read again.
        features: (n, d) float32, in the file.
        probs: (n, z) float32, in the file; None if the model has no head.
    """

    entry: Entry
    path: Path
    kept: bool = False
    error: str | None = None
    notes: tuple[str, ...] = ()
    features: ArrayFile | None = None
    probs: ArrayFile | None = None


def extract(
    entries: Sequence[Entry],
    probe: ProbeImages,
    folder: Path,
    *,
    batch_size: int = 32,
    starts: Callable[[Entry], None] = lambda entry: None,
) -> Iterator[Look]:
    """Lets every model look at a probe set.

    Args:
        entries: the models.
        probe: the images.
        folder: gets one .npz for each model (features, labels and, of networks with a head,
            probs), as `feature_files.read_bank` reads it, and models.csv. It is to be held by
            `alone_in`. A model whose file is there, whole and made of the same, is not run again.
        batch_size: of all devices together; rounded up to a multiple of their number.
        starts: called with each model before it looks.

    Yields:
        What became of each model, in order; one that fails does not stop the others.

    Raises:
        OSError: the folder cannot be written.
    """
    files.write_text(folder / "models.csv", _facts(entries))
    for entry in entries:
        path = files.path_of(folder, f"{entry.name}.npz")
        if entry.refused is not None:
            yield Look(entry, path, error=entry.refused)
            continue
        starts(entry)
        try:
            made_of = _made_of(entry, probe)
        except (OSError, ValueError) as error:  # its weights are not there, and its file may be
            yield Look(entry, path, error=printing.line(error))
            continue
        if (kept := _checked(path, made_of, probe)) is not None:
            yield _look_at(entry, path, kept, kept=True)
            continue
        try:
            arrays, notes = _look(entry, probe, batch_size)
        except Exception as error:  # whatever it is, the other models go on
            if interrupts.came():  # it is what a library made of the interrupt
                raise KeyboardInterrupt from error
            path.unlink(missing_ok=True)  # damaged, or of other weights
            yield Look(entry, path, error=printing.line(error))
            continue
        with files.replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                **arrays,
                labels=probe.labels,
                made_of=np.array(made_of),
                seen=np.array([probe.digest, str(probe)]),
            )
        yield dataclasses.replace(_look_at(entry, path, arrays, kept=False), notes=notes)


def bank_of(looks: Sequence[Look], probe: ProbeImages) -> feature_files.Bank:
    """What the models saw that have a file, as a bank."""
    return feature_files.Bank(
        {look.entry.name: look.features for look in looks if look.features is not None},
        {look.entry.name: look.probs for look in looks if look.probs is not None},
        probe.labels,
    )


def _look_at(entry: Entry, path: Path, arrays: dict[str, Any], *, kept: bool) -> Look:
    there = {
        name: ArrayFile(path, name, arrays[name].shape, arrays[name].dtype)
        for name in ("features", "probs")
        if name in arrays
    }
    return Look(entry, path, kept, features=there["features"], probs=there.get("probs"))


def _look(
    entry: Entry, probe: ProbeImages, batch_size: int
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Features, class probabilities if the weights have a head, and notes on the weights."""
    from jaxparc import extraction
    from jaxparc.training import decoding

    loaded = bank_file.load(entry)
    spec = loaded.spec
    found = extraction.extract(
        extraction.compile_network(loaded.module, loaded.variables, mean=spec.mean, std=spec.std),
        decoding.CentralCrops(probe.images, entry.size or spec.input_size),
        batch_size=batch_size,
        jit=False,
    )
    if not np.isfinite(found.features).all():
        raise ValueError("its features are not finite")
    arrays = {"features": found.features, "probs": found.probs}
    return {name: array for name, array in arrays.items() if array is not None}, loaded.notes


def _made_of(entry: Entry, probe: ProbeImages) -> str:
    """A hash of all that decides what a model sees."""
    return _hash([seen_by(entry), probe.digest, package()])


def seen_by(entry: Entry) -> dict[str, Any]:
    """All of a model that decides what it sees: its weights by their content, and its settings.

    Raises:
        OSError: its weights cannot be read.
        ValueError: they are no regular file, whose reading would not end.
    """
    told = {key: getattr(entry, key) for key, kind in bank_file.KEYS.items() if kind.seen}
    return {**told, "weights": _content(entry.weights)}


def _content(weights: Path) -> str:
    """A hash of weights: of the file and what may lie beside it for it, or of a folder's files."""
    if weights.is_dir() or _names_others(weights):
        folder = weights if weights.is_dir() else weights.parent
        paths = sorted(path for path in folder.iterdir() if path.is_file())
    else:
        config = weights.with_name("config.json")
        paths = [weights, *([config] if config.is_file() else [])]
    digests = {}
    for path in paths:
        files.require_regular(path)
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return _hash(digests)


def _names_others(weights: Path) -> bool:
    """Whether a file is JSON, as of shards, told as its reader does: by its content."""
    files.require_regular(weights)
    with weights.open("rb") as file:
        return file.read(16).lstrip().startswith(b"{")


@functools.cache
def package() -> str:
    """A hash of this package: what models see in images may change with any of its files."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def _hash(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _checked(path: Path, made_of: str, probe: ProbeImages) -> dict[str, np.ndarray] | None:
    """The arrays of a file, if it is there, made of the same, and as it was written."""
    try:
        arrays = array_files.read(path)
        fits = str(arrays["made_of"]) == made_of and arrays["features"].ndim == 2
        return arrays if fits and np.array_equal(arrays["labels"], probe.labels) else None
    except Exception:  # not there, or damaged: made anew
        return None


def _seen(path: Path) -> tuple[str, str] | None:
    """The digest of the images that a file was made of, and what they are; empty if it does not
    say, None if it cannot be read.
    """
    try:
        with array_files.Archive(path) as archive:
            if "seen" not in archive:
                return "", ""
            digest, images = archive["seen"].tolist()
            return str(digest), str(images)
    except Exception:  # damaged: made anew
        return None


def _facts(entries: Sequence[Entry]) -> str:
    """models.csv: what methods want to know of the models, as far as it is known of all."""
    entries = [entry for entry in entries if entry.refused is None]
    known = all(entry.source_images for entry in entries)
    rows = [[e.name, layers(e), *([e.source_images] if known else [])] for e in entries]
    return files.table_text([["model", "layers", *(["source_images"] if known else [])], *rows])


def layers(entry: Entry) -> int:
    """The number of layers of a model."""
    from jaxparc import models

    return entry.layers or models.get(entry.architecture).layers
