"""A bank as a file: which pretrained models there are, and how to feed them.

[[model]]
name = "resnet50-imagenet"            # of its file of features, and in the ranking
architecture = "resnet50"             # a key of jaxparc.models.MODELS
weights = "weights/resnet50.pth"      # from this file's folder; what models.load reads
scheme = "pytorch"                    # whose names the weights have; found by default
source = "imagenet2012"               # what it was trained on; optional, as all but the first three
source_images = 1281167               # for the heuristic
layers = 50                           # for "+ layers"; the architecture's by default
size = 224                            # side of its images, in pixels
mean = [0.485, 0.456, 0.406]          # of images in [0, 1], RGB; as the weights want by default
std = [0.229, 0.224, 0.225]
licence = "BSD-3-Clause"
"""

import csv
import dataclasses
import hashlib
import io
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparc import array_files, files

Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model of a bank; what is None follows from the weights or the architecture."""

    name: str
    architecture: str
    weights: Path
    scheme: str | None = None
    source: str | None = None
    source_images: int | None = None
    layers: int | None = None
    size: int | None = None
    mean: Colour | None = None
    std: Colour | None = None
    licence: str | None = None


_KINDS: Mapping[str, type] = {
    "name": str,
    "architecture": str,
    "weights": str,
    "scheme": str,
    "source": str,
    "source_images": int,
    "layers": int,
    "size": int,
    "mean": list,
    "std": list,
    "licence": str,
}


def read(path: str | Path) -> list[Entry]:
    """The models of a bank file.

    Raises:
        ValueError: it cannot be read, or a model lacks a key or has an unknown or a wrong one, or
            two have one name; the message names the file, the model and the key.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    tables = content.get("model")
    if not isinstance(tables, list) or set(content) != {"model"} or not tables:
        raise ValueError(
            f"{path} holds {', '.join(content) or 'nothing'}; expected [[model]] tables"
        )
    entries: dict[str, Entry] = {}
    for number, table in enumerate(tables, start=1):
        entry = _entry(path, number, table)
        if entry.name in entries:
            raise ValueError(f"{path}: model {entry.name!r} is there twice")
        entries[entry.name] = entry
    return list(entries.values())


def _entry(path: Path, number: int, table: Any) -> Entry:
    from jaxparc import models
    from jaxparc.weights import schemes

    where = f"{path}: model {number}"
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise ValueError(f"{where} has no name")
    where = f"{path}: model {table['name']!r}"
    if lacking := {"architecture", "weights"} - table.keys():
        raise ValueError(f"{where} has no {' and no '.join(sorted(lacking))}")
    if unknown := table.keys() - _KINDS.keys():
        raise ValueError(f"{where}: unknown key {min(unknown)!r}; known: {', '.join(_KINDS)}")
    for key, value in table.items():
        if not _fits(key, value):
            raise ValueError(f"{where}: {key} is {value!r}; expected {_EXPECTED[_KINDS[key]]}")
    if not table["name"] or Path(table["name"]).name != table["name"] or table["name"][0] == ".":
        raise ValueError(f"{where}: a name is also that of a file")
    try:
        models.get(table["architecture"])
        schemes.check(table["architecture"], table.get("scheme"))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    colours = {key: tuple(table[key]) for key in ("mean", "std") if key in table}
    weights = path.parent / Path(table["weights"]).expanduser()
    return Entry(**{**table, **colours, "weights": weights})


_EXPECTED: Mapping[type, str] = {
    str: "a string",
    int: "a whole number, at least 1",
    list: "three numbers, of red, green and blue",
}


def _fits(key: str, value: Any) -> bool:
    """Whether a value is of the key's kind and range."""
    kind = _KINDS[key]
    if kind is str:
        return isinstance(value, str)
    if kind is int:
        return _is_number(value) and isinstance(value, int) and value >= 1
    if not isinstance(value, list) or len(value) != 3 or not all(map(_is_number, value)):
        return False
    return key != "std" or min(value) > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True)
class Look:
    """What became of one model: the file of its features, or why there is none."""

    entry: Entry
    path: Path
    kept: bool = False
    error: str | None = None


def extract(
    entries: Sequence[Entry],
    target: str,
    out: Path,
    *,
    images: int = 500,
    seed: int = 0,
    batch_size: int = 32,
    data_dir: str | Path | None = None,
    starts: Callable[[Entry], None] = lambda entry: None,
) -> Iterator[Look]:
    """Lets every model look at a probe set of a target.

    Args:
        entries: the models.
        target: a data set, as `datasets.load` takes it; its training split is looked at.
        out: the folder that gets one .npz for each model (features, labels and, of networks with a
            head, probs), as `feature_files.read_bank` reads it, and models.csv. A model whose file
            is there, made of the same weights and images, is not run again.
        images: of the probe set.
        seed: of the probe set.
        batch_size: of all devices together; rounded up to a multiple of their number.
        data_dir: as `datasets.load` takes it.
        starts: called with each model before it looks.

    Yields:
        What became of each model, in order; one that fails does not stop the others.

    Raises:
        ValueError: the target is unknown.
        DatasetError: the target cannot be read.
        OSError: the folder cannot be written.
    """
    from jaxparc import datasets, features, sampling

    labels = datasets.labels(target, "train", data_dir=data_dir)
    indices = sampling.probe_indices(labels, images, seed)
    source = datasets.load(target, "train", data_dir=data_dir, decode=False)
    probe = features.Subset(source, indices)
    seen = hashlib.sha256(f"{source.spec.version}{indices.tolist()}".encode()).hexdigest()
    out.mkdir(parents=True, exist_ok=True)
    files.write_text(out / "models.csv", _facts(entries))
    for entry in entries:
        path = out / f"{entry.name}.npz"
        starts(entry)
        try:
            made_of = _made_of(entry, seen)
            if _made(path) == made_of:
                yield Look(entry, path, kept=True)
                continue
            arrays = _look(entry, probe, batch_size)
        except Exception as error:  # whatever it is, the other models go on
            path.unlink(missing_ok=True)  # of other weights or images
            yield Look(entry, path, error=_said(error))
            continue
        with files.replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays, labels=labels[indices], made_of=np.array(made_of))
        yield Look(entry, path)


class Tuned(NamedTuple):
    """A fine-tuned model.

    Attributes:
        loaded: the network and its new weights.
        accuracy: percent of the target's test split.
    """

    loaded: Any  # models.Loaded, which is not imported before it is needed
    accuracy: float


def finetune(
    entry: Entry,
    target: str,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
    data_dir: str | Path | None = None,
    on_images: Callable[[int], None] | None = None,
) -> Tuned:
    """Fine-tunes all weights of a model to a target's training split, with a new head.

    Args:
        entry: the model.
        target: as `datasets.load` takes it.
        steps: batches, over as many epochs as that takes.
        batch_size: of all devices together.
        learning_rate: of SGD with momentum 0.9, after a warm-up over a tenth of the steps; it falls
            to 0 by a cosine.
        seed: of the head, the order of the images, crops and mirroring.
        data_dir: as `datasets.load` takes it.
        on_images: called with the number of images after each step.

    Raises:
        ValueError: the target is unknown, or the weights do not fit.
        DatasetError: the target cannot be read.
        DivergedError: the loss is no longer finite.
        OSError: the weights cannot be read.
    """
    from jaxparc import datasets, fitting, models, parallel, train
    from jaxparc import input as input_

    data = datasets.spec_of(target, data_dir=data_dir)
    loaded = models.load(entry.architecture, entry.weights, scheme=entry.scheme)
    spec = dataclasses.replace(
        loaded.spec, mean=entry.mean or loaded.spec.mean, std=entry.std or loaded.spec.std
    )
    size = entry.size or spec.input_size
    module = loaded.module.clone(num_classes=data.num_classes, axis_name=parallel.AXIS)
    task = train.Task(module, spec.mean, spec.std, data.multi_label)
    tuning, test = (
        input_.decode(datasets.load(target, split, data_dir=data_dir, decode=False), size=size)
        for split in ("train", "test")
    )
    variables, _ = fitting.fit(
        task,
        train.with_new_head(dict(loaded.variables), data.num_classes, seed),
        tuning,
        train.Recipe(steps=steps, batch_size=batch_size, learning_rate=learning_rate),
        size=size,
        mirror=data.mirror,
        seed=seed,
        watch=None if on_images is None else lambda done: on_images(done.images),
    )
    accuracy = fitting.accuracy(task, variables, test, size=size, batch_size=batch_size)
    tuned = loaded._replace(spec=spec, module=module.clone(axis_name=None), variables=variables)
    return Tuned(tuned, accuracy)


def _said(error: Exception) -> str:
    """An error on one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def _look(entry: Entry, probe: Any, batch_size: int) -> dict[str, Any]:
    """Features, and class probabilities if the weights have a head."""
    import jax

    from jaxparc import features, models, parallel, train

    loaded = models.load(entry.architecture, entry.weights, scheme=entry.scheme)
    mean, std = entry.mean or loaded.spec.mean, entry.std or loaded.spec.std
    module = loaded.module.clone(axis_name=parallel.AXIS)
    devices = jax.local_device_count()
    found, probs = features.extract(
        train.Task(module, mean, std),
        parallel.replicate(dict(loaded.variables)),
        probe,
        size=entry.size or loaded.spec.input_size,
        batch_size=-(-batch_size // devices) * devices,
    )
    if not np.isfinite(found).all():
        raise ValueError("its features are not finite")
    return {"features": found} | ({"probs": probs} if probs.shape[1] else {})


def _made_of(entry: Entry, seen: str) -> str:
    """A hash of all that decides what a model sees."""
    path = entry.weights / "model.json" if entry.weights.is_dir() else entry.weights
    status = path.stat()
    told = {**dataclasses.asdict(entry), "weights": [status.st_size, status.st_mtime_ns]}
    return hashlib.sha256(json.dumps([told, seen], default=str).encode()).hexdigest()


def _made(path: Path) -> str | None:
    try:
        return str(array_files.read(path)["made_of"])  # all of it is read, so all of it is checked
    except Exception:  # not there, or damaged: made anew
        return None


def _facts(entries: Sequence[Entry]) -> str:
    """models.csv: what methods want to know of the models, as far as it is known of all."""
    from jaxparc import models

    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    known = all(entry.source_images for entry in entries)
    table.writerow(["model", "layers", *(["source_images"] if known else [])])
    for entry in entries:
        layers = entry.layers or models.get(entry.architecture).layers
        table.writerow([entry.name, layers, *([entry.source_images] if known else [])])
    return text.getvalue()
