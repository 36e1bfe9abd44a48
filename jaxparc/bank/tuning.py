"""Fine-tune a model of a bank on a target, test it, and compare it with a linear probe.

One of several learning rates is chosen on validation images, which are held out of the training
split; the model that is kept is the one that was validated, so it was not trained on these. With
one learning rate, all training images are trained on.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparc import datasets, extraction, files, parallel, sampling
from jaxparc.bank import linear_probe
from jaxparc.bank.entry import Entry
from jaxparc.bank.kinds import native
from jaxparc.errors import InputError
from jaxparc.finetuned import Finetuned
from jaxparc.geometry import Geometry
from jaxparc.training import decoding, halving, loop
from jaxparc.training import steps as training_steps
from jaxparc.training.decoding import Source
from jaxparc.training.halving import Tried
from jaxparc.training.history import Steps

VALIDATION_SHARE = 0.2  # of the training images
MOST_VALIDATION = 2000  # images
PROBE_IMAGES = 4000  # maximum number that a linear probe is trained on
LEVEL = 0.95  # of intervals


@dataclasses.dataclass(frozen=True)
class Settings:
    """How models are fine-tuned.

    Attributes:
        target: a data set, as `datasets.load` takes it.
        steps: number of batches of a whole training.
        batch_size: images per batch, over all devices.
        rates: peak learning rates of SGD with momentum 0.9, reached by a linear warm-up over a
            tenth of the steps and followed by a cosine decay to 0; of several, the best on
            validation images is chosen.
        seed: seed of the new head, the validation images, the order of the images, crops and
            mirroring.
        data_dir: as `datasets.load` takes it.
    """

    target: str
    steps: int = 1000
    batch_size: int = 64
    rates: tuple[float, ...] = (0.01,)
    seed: int = 0
    data_dir: str | None = None

    @property
    def total_steps(self) -> int:
        """The number of steps over all learning rates."""
        return halving.total_steps(len(self.rates), self.steps)


def identity(entry: Entry, settings: Settings) -> str:
    """Return a hash of everything that determines the result: settings, weights and images.

    Raises:
        InputError: the target is unknown, the weights are not a regular file, or the network is
            not of jaxparc.
        DatasetError: the target cannot be read.
        OSError: the weights cannot be read.
    """
    native.require(entry)
    spec = datasets.spec_of(settings.target, data_dir=settings.data_dir)
    where = datasets.folder_of(settings.target, data_dir=settings.data_dir)
    content = [
        [settings.steps, settings.batch_size, settings.rates, settings.seed],
        entry.settings,
        [spec.name, spec.version, str(where)],
    ]
    return files.digest(content)


def check(settings: Settings) -> None:
    """Check that models can be fine-tuned on the target, before their weights are read.

    Raises:
        InputError: the target is unknown or has no classes, or no validation image can be held out.
        DatasetError: the target cannot be read.
    """
    datasets.require_classes(settings.target, "fine-tuning")
    labels = datasets.labels(settings.target, "train", data_dir=settings.data_dir)
    if len(settings.rates) > 1:
        validation_images(labels, settings.seed, settings.target)


def validation_images(labels: np.ndarray, seed: int, where: str) -> np.ndarray:
    """Choose the validation images of a training split, stratified by class.

    Args:
        labels: (n,) classes, or (n, c) multi-hot.
        seed: seed of the choice.
        where: the target, for the message.

    Returns:
        (n,) bool, True for a fifth of the images, at most `MOST_VALIDATION`. Every class keeps an
        image to train on.

    Raises:
        InputError: every class has one image alone.
    """
    if labels.ndim == 2:
        labels = np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
        spare = len(labels) - 1
    else:
        spare = len(labels) - len(np.unique(labels))
    count = min(max(round(VALIDATION_SHARE * len(labels)), 1), MOST_VALIDATION, spare)
    if count < 1:
        raise InputError(
            f"{where}: every class has one image to train on, so that none can be held out to "
            "choose a learning rate; expected more images, or --learning-rate"
        )
    return sampling.held_out(labels, count, seed=seed)


def train(
    entry: Entry,
    settings: Settings,
    *,
    made_of: str,
    watch: Callable[[float, Steps], None] | None = None,
    report: Callable[[Tried], None] = lambda tried: None,
    partial: Path,
) -> Finetuned:
    """Fine-tune all weights of a model on a target's training split, with a new head.

    Args:
        entry: the model.
        settings: how.
        made_of: the `identity`, to be recorded.
        watch: called with a learning rate and its steps, as their metrics become known.
        report: called with each accuracy on the validation images.
        partial: folder of the state of the training, from which it resumes after an interruption.
            Its name must identify everything that determines the weights, and the caller removes
            it.

    Raises:
        InputError: the target is unknown or has no classes, no validation image can be held out,
            or the weights do not fit the network.
        DatasetError: the target cannot be read.
        DivergedError: the loss became infinite or NaN with all learning rates.
        OSError: the weights cannot be read, or a state cannot be saved.
    """
    started = time.monotonic()
    target, seed = settings.target, settings.seed
    data = datasets.spec_of(target, data_dir=settings.data_dir)
    loaded = native.load_network(entry)
    spec = loaded.spec
    size = spec.input_size
    module = loaded.module.clone(num_classes=data.num_classes, axis_name=parallel.AXIS)
    task = training_steps.Task(module, spec.mean, spec.std, data.multi_label)
    initial = training_steps.with_new_head(dict(loaded.variables), data.num_classes, seed)
    recipe = training_steps.Recipe(
        steps=settings.steps, batch_size=settings.batch_size, learning_rate=settings.rates[0]
    )
    about: dict[str, Any] = {
        "model": entry.name,
        "made_of": made_of,
        "steps": settings.steps,
        "batch_size": settings.batch_size,
        "seed": seed,
    }
    if len(settings.rates) == 1:
        images, _ = _training(target, settings.data_dir, size, None)
        variables, _ = loop.fit(
            task,
            initial,
            images,
            recipe,
            size=size,
            mirror=data.mirror,
            seed=seed,
            watch=watch and functools.partial(watch, settings.rates[0]),
            partial=partial,
            every=math.inf,  # saving to a full disk would end the training
        )
        about |= {"learning_rate": settings.rates[0], "train_images": len(images)}
    else:
        images, validation = _training(target, settings.data_dir, size, seed)
        assert validation is not None
        chosen = halving.search(
            task,
            initial,
            images,
            validation,
            recipe,
            settings.rates,
            size=size,
            seed=seed,
            mirror=data.mirror,
            partial=partial,
            watch=watch,
            report=report,
        )
        variables = chosen.variables
        by_rate = {tried.learning_rate: tried for tried in chosen.tried}
        about |= {
            "learning_rate": chosen.learning_rate,
            "train_images": len(images),
            "validation_images": len(validation),
            "validation": by_rate[chosen.learning_rate].validation,
            "tried": [tried._asdict() for tried in chosen.tried],
        }
    about["seconds"] = round(time.monotonic() - started, 1)
    tuned = loaded._replace(module=module.clone(axis_name=None), variables=variables)
    return Finetuned(tuned, class_names(settings), size, data.multi_label, target, about)


def class_names(settings: Settings) -> tuple[str, ...]:
    """Return the names of the classes; those of registered data sets are their indices."""
    return tuple(datasets.class_counts(settings.target, data_dir=settings.data_dir)["train"])


class Accuracy(NamedTuple):
    """How accurate predictions of n test images are.

    Attributes:
        percent: percentage of correct images; of several classes, of correct labels, one for each
            image and class.
        low: lower limit of its 95 % interval: Wilson's, or of the mean over images.
        high: its upper limit.
        chance: what predicting the largest class for every image would reach, in percent; of
            several classes, for each class what most images have.
    """

    percent: float
    low: float
    high: float
    chance: float


def measured(right: np.ndarray, labels: np.ndarray) -> Accuracy:
    """Return the accuracy of predictions, with its interval.

    Args:
        right: (n,) share of each image's labels that is right, in [0, 1]; of one class, 0 or 1.
        labels: (n,) classes, or (n, c) multi-hot.
    """
    accuracy = 100 * float(right.mean())
    if labels.ndim == 2:
        share = labels.mean(axis=0)
        half = 100 * 1.96 * float(right.std()) / math.sqrt(len(right))
        low, high = max(accuracy - half, 0.0), min(accuracy + half, 100.0)
        return Accuracy(accuracy, low, high, 100 * float(np.maximum(share, 1 - share).mean()))
    low, high = wilson(int(right.sum()), len(right))
    return Accuracy(accuracy, low, high, 100 * float(np.bincount(labels).max()) / len(labels))


def wilson(right: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, in percent."""
    from scipy.stats import binomtest

    interval = binomtest(right, count).proportion_ci(LEVEL, "wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


class OfClass(NamedTuple):
    """How accurate predictions of the images of one class are.

    Attributes:
        name: name of the class.
        percent: percentage of correct images.
        low: lower limit of its 95 % interval, Wilson's.
        high: its upper limit.
        images: number of images.
    """

    name: str
    percent: float
    low: float
    high: float
    images: int

    def cells(self) -> tuple[str, str, str, str]:
        """Return the cells of a table: name, percentage, interval and number of images."""
        interval = f"{self.low:.1f} to {self.high:.1f}"
        return self.name, f"{self.percent:.1f}", interval, f"{self.images:,}"


def by_class(right: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> list[OfClass]:
    """Return the accuracy of every class that has images.

    Args:
        right: (n,) bool, whether the prediction of each image is right.
        labels: (n,) classes.
        classes: names of the classes.
    """
    found = []
    for code in np.unique(labels):
        of_class = right[labels == code]
        low, high = wilson(int(of_class.sum()), len(of_class))
        found.append(OfClass(classes[code], 100 * of_class.mean(), low, high, len(of_class)))
    return found


def evaluate(model: Finetuned, settings: Settings) -> Finetuned:
    """Return a model with its accuracy on the target's test split, in `about`.

    There are also `interval` and `chance`, in percent, `test_images`, and, of one class per image,
    `labels` and `predictions`; else `right`, the share of each image's labels that is right.

    Raises:
        DatasetError: the target cannot be read.
    """
    source = _test_images(settings.target, settings.data_dir, model.size)
    labels = datasets.labels(settings.target, "test", data_dir=settings.data_dir)
    probs = model.apply(
        decoding.CentralCrops(source, Geometry(model.size)), batch_size=settings.batch_size
    )
    about: dict[str, Any]
    if model.multi_label:
        right = np.mean((probs > 0.5) == (labels > 0.5), axis=1)
        about = {"right": [round(float(share), 4) for share in right]}
    else:
        predictions = np.argmax(probs, axis=1)
        right = (predictions == labels).astype(float)
        about = {"labels": labels.tolist(), "predictions": predictions.tolist()}
    found = measured(right, labels)
    about |= {
        "accuracy": found.percent,
        "interval": [found.low, found.high],
        "chance": found.chance,
        "test_images": len(labels),
    }
    return model.with_facts(**about)


def probe(entry: Entry, settings: Settings) -> dict[str, Any] | None:
    """Return the test accuracy of a linear probe on the features of the model as it is.

    It is trained on all training images, or on `PROBE_IMAGES` of them, of all classes in turn.

    Returns:
        `accuracy` in percent, None if undefined, and `images`, the number of training images; None
        for several classes per image.

    Raises:
        DatasetError: the target cannot be read.
        OSError: the weights cannot be read.
    """
    data = datasets.spec_of(settings.target, data_dir=settings.data_dir)
    if data.multi_label:
        return None
    loaded = native.load_network(entry)
    spec = loaded.spec
    size = spec.input_size
    network = extraction.compile_network(
        loaded.module, loaded.variables, mean=spec.mean, std=spec.std
    )
    labels = {
        split: datasets.labels(settings.target, split, data_dir=settings.data_dir)
        for split in ("train", "test")
    }
    chosen = np.arange(len(labels["train"]))
    if len(chosen) > PROBE_IMAGES:
        chosen = sampling.probe_indices(labels["train"], PROBE_IMAGES, settings.seed)
    train = datasets.load(settings.target, "train", data_dir=settings.data_dir, decode=False)
    test = _test_images(settings.target, settings.data_dir, size)
    sources: dict[str, Source] = {"train": decoding.Subset(train, chosen), "test": test}
    found = {
        split: extraction.extract(
            network,
            decoding.CentralCrops(source, Geometry(size)),
            batch_size=settings.batch_size,
            jit=False,
        ).features
        for split, source in sources.items()
    }
    accuracy = linear_probe.accuracy(
        np.asarray(found["train"]),
        labels["train"][chosen],
        np.asarray(found["test"]),
        labels["test"],
        data.num_classes,
    )
    return {"accuracy": accuracy, "images": len(chosen)}


@functools.lru_cache(maxsize=1)  # models of one size share decoded images
def _training(
    target: str, data_dir: str | None, size: int, seed: int | None
) -> tuple[Source, Source | None]:
    """Return decoded images to train on and, unless the seed is None, to validate with.

    Raises:
        InputError: no validation image can be held out.
        DatasetError: the target cannot be read.
    """
    source = datasets.load(target, "train", data_dir=data_dir, decode=False)
    if seed is None:
        return decoding.decode(source, size=size), None
    held = validation_images(source.labels(), seed, target)
    train, validation = (
        decoding.decode(decoding.Subset(source, np.flatnonzero(which)), size=size)
        for which in (~held, held)
    )
    return train, validation


@functools.lru_cache(maxsize=1)
def _test_images(target: str, data_dir: str | None, size: int) -> Source:
    """Return decoded test images.

    Raises:
        DatasetError: the target cannot be read.
    """
    source = datasets.load(target, "test", data_dir=data_dir, decode=False)
    return decoding.decode(source, size=size)
