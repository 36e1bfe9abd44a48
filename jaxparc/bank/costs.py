"""What a model of a bank costs and where it comes from: shown beside its score."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxparc import files
from jaxparc.bank import facts
from jaxparc.bank.toml_file import Entry


class Facts(NamedTuple):
    """Facts about a model that do not depend on its score; None if unknown.

    Attributes:
        parameters: number of parameters, as `facts.parameters` counts them.
        gmacs: billion multiply-adds per image, as `facts.gmacs` counts them.
        images_per_second: speed of its feature extraction on this machine, decoding included and
            compilation excluded.
        megabytes: size of its file of weights, in 10^6 bytes.
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
    try:
        megabytes = entry.weights.stat().st_size / 1e6
    except OSError:  # features may outlive the weights
        megabytes = None
    return Facts(
        facts.parameters(entry),
        facts.gmacs(entry),
        _read_speed(folder, entry.name, made_of),
        megabytes,
        entry.licence,
        entry.source,
    )


# Calls that compile, or start before the first batch is finished.
FIRST = 3


class Stopwatch:
    """An apply function that measures its speed, without compiling and what follows its last call.

    A call returns before its results are computed, and the next one waits until there is room: but
    for the first few, calls start as often as batches are finished. So the time between two starts
    is that of the batches between them.

    Args:
        apply_fn: function of a batch.
        on_images: called with the number of images of each batch.
    """

    def __init__(
        self,
        apply_fn: Callable[[Any], Any],
        on_images: Callable[[int], None] = lambda count: None,
    ) -> None:
        self._apply_fn, self._on_images = apply_fn, on_images
        self._starts: list[tuple[float, int]] = []

    def __call__(self, batch: Any) -> Any:
        """Apply the function."""
        self._starts.append((time.perf_counter(), len(batch)))
        self._on_images(len(batch))
        return self._apply_fn(batch)

    @property
    def batch(self) -> int | None:
        """The number of images of the last batch, padding included; None if there was none."""
        return self._starts[-1][1] if self._starts else None

    def rate(self) -> float | None:
        """Return images per second; None if there were too few calls to say."""
        timed = self._starts[FIRST:]
        if len(timed) < 3:
            return None
        return sum(size for _, size in timed[:-1]) / (timed[-1][0] - timed[0][0])


def write_speed(folder: Path, name: str, made_of: str, images_per_second: float) -> None:
    """Record the speed of an extraction, apart from the features, whose bytes are reproducible.

    Args:
        folder: folder of the features.
        name: name of the model.
        made_of: fingerprint of the features.
        images_per_second: the speed.

    Raises:
        OSError: the file cannot be written.
    """
    content = {"made_of": made_of, "images_per_second": images_per_second}
    files.write_text(_path(folder, name), json.dumps(content) + "\n")


def _read_speed(folder: Path, name: str, made_of: str) -> float | None:
    """Return the recorded speed of the extraction of these features; None if there is none."""
    try:
        content = json.loads(_path(folder, name).read_text(encoding="utf-8"))
        speed = float(content["images_per_second"])
        known = content["made_of"] == made_of and 0 < speed < math.inf
    except (OSError, ValueError, TypeError, KeyError):  # missing, or damaged
        return None
    return speed if known else None


def _path(folder: Path, name: str) -> Path:
    return files.path_of(folder / "speed", f"{name}.json")
