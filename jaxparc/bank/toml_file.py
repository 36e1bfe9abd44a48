"""A bank as a file: which pretrained models there are, and how to feed them.

[[model]]
name = "resnet50-imagenet"            # of its file of features, and in the ranking
architecture = "resnet50"             # a key of jaxparc.models.MODELS
weights = "weights/resnet50.pth"      # from this file's folder; what models.load reads
scheme = "pytorch"                    # whose names the weights have; found by default
variant = "torchvision"               # which of several networks of these names (docs/models.md)
weights_key = "state_dict_ema"        # which of several weights in the file
ignore = ["criterion.*"]              # names in the file that are none of the network's
channels = "rgb"                      # or "bgr"; as the weights want by default
stride_in_1x1 = false                 # of ResNets; likewise
source = "imagenet2012"               # what it was trained on; optional, as all but the first three
source_images = 1281167               # for the heuristic
layers = 50                           # for "+ layers"; the architecture's by default
size = 224                            # side of its images, in pixels
mean = [0.485, 0.456, 0.406]          # of images in [0, 1], RGB; as the weights want by default
std = [0.229, 0.224, 0.225]
licence = "BSD-3-Clause"
"""

import dataclasses
import math
import tomllib
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparc import files, printing

Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model of a bank; what is None follows from the weights or the architecture.

    Attributes:
        refused: why there can be no file of its name; None if there can.
    """

    name: str
    architecture: str
    weights: Path
    scheme: str | None = None
    variant: str | None = None
    weights_key: str | None = None
    ignore: tuple[str, ...] = ()
    channels: str | None = None
    stride_in_1x1: bool | None = None
    source: str | None = None
    source_images: int | None = None
    layers: int | None = None
    size: int | None = None
    mean: Colour | None = None
    std: Colour | None = None
    licence: str | None = None
    refused: str | None = None


def read(path: str | Path) -> list[Entry]:
    """The models of a bank file.

    Raises:
        ValueError: it cannot be read, or a model lacks a key or has an unknown or a wrong one, or
            two have one name, or none has a name that a file can have; the message names the file,
            the model and the key.
    """
    path = Path(path)
    try:
        content = tomllib.loads(files.read_text(path))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {printing.reason(error)}") from error
    except RecursionError:
        raise ValueError(f"{path} cannot be read: it is nested too deeply") from None
    except ValueError as error:  # no TOML, no UTF-8, or a number that Python does not take
        said = str(error)
        raise ValueError(
            said if said.startswith(str(path)) else f"{path} cannot be read: {said}"
        ) from error
    tables = content.get("model")
    if not isinstance(tables, list) or set(content) != {"model"} or not tables:
        found = ", ".join(key if key.isprintable() else shown(key) for key in content) or "nothing"
        raise ValueError(f"{path} holds {found}; expected [[model]] tables")
    entries: dict[str, Entry] = {}
    names: dict[str, str] = {}  # as file systems that do not tell case apart have them
    for number, table in enumerate(tables, start=1):
        entry = _entry(path, number, table)
        if entry.name in entries:
            raise ValueError(f"{path}: model {shown(entry.name)} is there twice")
        same = names.setdefault(_folded(entry.name), entry.name)
        if same != entry.name and entry.refused is None:
            refused = f"some file systems cannot tell it from {same!r}"
            entry = dataclasses.replace(entry, refused=refused)
        entries[entry.name] = entry
    if all(entry.refused for entry in entries.values()):
        first = next(iter(entries.values()))
        raise ValueError(f"{path}: model {shown(first.name)}: {first.refused}")
    return list(entries.values())


def _entry(path: Path, number: int, table: Any) -> Entry:
    from jaxparc import models
    from jaxparc.weights import schemes

    where = f"{path}: model {number}"
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise ValueError(f"{where} has no name")
    where = f"{path}: model {shown(table['name'])}"
    if lacking := {"architecture", "weights"} - table.keys():
        raise ValueError(f"{where} has no {' and no '.join(sorted(lacking))}")
    if unknown := table.keys() - KEYS.keys():
        raise ValueError(f"{where}: unknown key {shown(min(unknown))}; known: {', '.join(KEYS)}")
    for key, value in table.items():
        if not KEYS[key].fits(value):
            raise ValueError(f"{where}: {key} is {shown(value)}; expected {KEYS[key].expected}")
    try:
        models.get(table["architecture"])
        schemes.check(table["architecture"], table.get("scheme"))
        weights = path.parent / Path(table["weights"]).expanduser()
    except (ValueError, RuntimeError) as error:  # a RuntimeError of a home that is nobody's
        raise ValueError(f"{where}: {error}") from None
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Entry(**{**given, "weights": weights, "refused": _flaw(table["name"])})


class Key(NamedTuple):
    """What a key of a model may be.

    Attributes:
        fits: whether a value is of its kind and range.
        expected: the same in words.
        seen: whether features depend on it.
    """

    fits: Callable[[Any], bool]
    expected: str
    seen: bool = True


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and printing.visible(value) == value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(most: int) -> Callable[[Any], bool]:
    return lambda x: _is_number(x) and isinstance(x, int) and 1 <= x <= most


def _colour(above: bool) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        if not isinstance(value, list) or len(value) != 3 or not all(map(_is_number, value)):
            return False
        # NaN is neither; a std below 1e-6 would divide by 0 in float32
        return all((1e-6 if above else 0) <= x <= 1 for x in value)

    return fits


_WORD = "a string of characters that can be printed"

KEYS: Mapping[str, Key] = {
    "name": Key(lambda x: isinstance(x, str), "a string", seen=False),
    "architecture": Key(_is_word, _WORD),
    "weights": Key(_is_word, _WORD),
    "scheme": Key(_is_word, _WORD),
    "variant": Key(_is_word, _WORD),
    "weights_key": Key(_is_word, _WORD),
    "ignore": Key(lambda x: isinstance(x, list) and all(map(_is_word, x)), "a list of patterns"),
    "channels": Key(lambda x: x in ("rgb", "bgr"), '"rgb" or "bgr"'),
    "stride_in_1x1": Key(lambda x: isinstance(x, bool), "true or false"),
    "source": Key(_is_word, _WORD, seen=False),
    "source_images": Key(_whole(10**15), "a whole number, at least 1", seen=False),
    "layers": Key(_whole(10**6), "a whole number, at least 1", seen=False),
    "size": Key(_whole(10**4), "a whole number, at least 1 and at most 10000"),
    "mean": Key(_colour(False), "three numbers from 0 to 1, of red, green and blue"),
    "std": Key(_colour(True), "three numbers above 0, at most 1, of red, green and blue"),
    "licence": Key(_is_word, _WORD, seen=False),
}


def _flaw(name: str) -> str | None:
    """Why there can be no file of a name, None if there can."""
    try:
        files.check_name(name)
    except ValueError as error:
        return str(error)
    return None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def said_name(entry: Entry) -> str:
    """A model's name on a terminal: as it is, or quoted where it can be no name."""
    return entry.name if entry.refused is None else shown(entry.name)


def shown(value: Any) -> str:
    """A value of a bank file in a message: on one line, and not endless."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python prints
        return "too long to be shown"
    return text if len(text) <= 60 else f"{text[:57]}..."


def load(entry: Entry) -> Any:
    """The network of a model, with its weights, and the mean and std that it is to be given.

    Returns:
        `models.Loaded`.

    Raises:
        ValueError: the weights do not fit.
        OSError: they cannot be read.
    """
    from jaxparc import models
    from jaxparc.weights import loading

    loaded = models.load(entry.architecture, entry.weights, **loading.chosen(entry))
    mean, std = entry.mean or loaded.spec.mean, entry.std or loaded.spec.std
    return loaded._replace(spec=dataclasses.replace(loaded.spec, mean=mean, std=std))


class Tuned(NamedTuple):
    """A fine-tuned model.

    Attributes:
        loaded: the network and its new weights.
        accuracy: percent of the target's test split.
        images: of that split.
        largest: percent of it that are of its largest class; None where an image may have several.
    """

    loaded: Any  # models.Loaded, which is not imported before it is needed
    accuracy: float
    images: int
    largest: float | None

    @property
    def at_chance(self) -> bool:
        """Whether naming the largest class for every image does as well, as far as can be told:
        its share is not below the 95 % interval (Wilson's) of the accuracy.
        """
        from scipy.stats import binomtest

        if self.largest is None:
            return False
        right = round(self.accuracy * self.images / 100)
        interval = binomtest(right, self.images).proportion_ci(0.95, "wilson")
        return bool(100 * interval.low <= self.largest)


def finetune(
    entry: Entry,
    target: str,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
    data_dir: str | Path | None = None,
    watch: Callable[[Any], None] | None = None,
    partial: Path | None = None,
    keep: Callable[[Any], None] = lambda loaded: None,
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
        watch: told of steps, as `fitting.fit` takes it.
        partial: where KeyboardInterrupt leaves the state of the training, which goes on from it;
            its name must tell all that decides the weights, and whoever calls removes it.
        keep: called with the network and its new weights before its accuracy is measured.

    Raises:
        ValueError: the target is unknown, or the weights do not fit.
        DatasetError: the target cannot be read.
        DivergedError: the loss is no longer finite.
        OSError: the weights cannot be read.
    """
    from jaxparc import datasets, parallel
    from jaxparc.training import decoding
    from jaxparc.training import loop as fitting
    from jaxparc.training import steps as train

    data = datasets.spec_of(target, data_dir=data_dir)
    loaded = load(entry)
    spec = loaded.spec
    size = entry.size or spec.input_size
    module = loaded.module.clone(num_classes=data.num_classes, axis_name=parallel.AXIS)
    task = train.Task(module, spec.mean, spec.std, data.multi_label)
    tuning, test = (
        decoding.decode(datasets.load(target, split, data_dir=data_dir, decode=False), size=size)
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
        watch=watch,
        partial=partial,
        every=math.inf,  # a disk that is full on the way would end the training
    )
    tuned = loaded._replace(module=module.clone(axis_name=None), variables=variables)
    keep(tuned)
    accuracy = fitting.accuracy(task, variables, test, size=size, batch_size=batch_size)
    labels = datasets.labels(target, "test", data_dir=data_dir)
    largest = None if data.multi_label else 100 * float(np.bincount(labels).max()) / len(labels)
    return Tuned(tuned, accuracy, len(labels), largest)
