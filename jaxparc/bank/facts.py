"""What a model of a bank costs and where it comes from: shown beside its score."""

import functools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxparc import files
from jaxparc.bank.toml_file import Entry


class Facts(NamedTuple):
    """Facts about a model that do not depend on its score; None if unknown.

    Attributes:
        parameters: number of parameters, without the last linear layer.
        images_per_second: speed of its feature extraction on this machine, decoding included and
            compilation excluded.
        megabytes: size of its file of weights, in 10^6 bytes.
        licence: of its weights.
        source: the data set that it was trained on.
    """

    parameters: int | None = None
    images_per_second: float | None = None
    megabytes: float | None = None
    licence: str | None = None
    source: str | None = None


def facts_of(entry: Entry, images_per_second: float | None = None) -> Facts:
    """Return the facts about a model, from its entry and its file of weights.

    Args:
        entry: the model.
        images_per_second: its speed, as `read_speed` returns it.
    """
    try:
        megabytes = entry.weights.stat().st_size / 1e6
    except OSError:  # features may outlive the weights
        megabytes = None
    return Facts(parameters(entry), images_per_second, megabytes, entry.licence, entry.source)


def parameters(entry: Entry) -> int:
    """Return a model's number of parameters, without the last linear layer, which is replaced."""
    return _parameters(entry.architecture)


@functools.cache
def _parameters(architecture: str) -> int:
    import jax
    import jax.numpy as jnp

    from jaxparc import models

    spec = models.get(architecture)
    module = spec.module(num_classes=0)
    images = jnp.zeros((1, spec.input_size, spec.input_size, 3))
    init = functools.partial(module.init, train=False, mask=None)
    shapes = jax.eval_shape(init, jax.random.key(0), images)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))


class Stopwatch:
    """An apply function that measures its speed over all calls, but for the first, which compiles.

    Calls return before their results are computed. When the second call starts, the program is
    compiled and hardly any image is processed, so the time from there to the end is that of all.

    Args:
        apply_fn: function of a batch.
    """

    def __init__(self, apply_fn: Callable[[Any], Any]) -> None:
        self._apply_fn, self._calls = apply_fn, 0
        self._second = math.nan

    def __call__(self, batch: Any) -> Any:
        """Apply the function."""
        self._calls += 1
        if self._calls == 2:
            self._second = time.perf_counter()
        return self._apply_fn(batch)

    def rate(self, images: int) -> float | None:
        """Return images per second, once the results are computed; None if it was called once."""
        return None if self._calls < 2 else images / (time.perf_counter() - self._second)


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


def read_speed(folder: Path, name: str, made_of: str) -> float | None:
    """Return the recorded speed of an extraction; None if that of these features is not recorded.

    The arguments are those of `write_speed`.
    """
    try:
        content = json.loads(_path(folder, name).read_text(encoding="utf-8"))
        rate = float(content["images_per_second"])
        known = content["made_of"] == made_of and 0 < rate < math.inf
    except (OSError, ValueError, TypeError, KeyError):  # missing, or damaged
        return None
    return rate if known else None


def _path(folder: Path, name: str) -> Path:
    return files.path_of(folder / "speed", f"{name}.json")
