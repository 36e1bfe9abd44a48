"""What a model of a bank costs and where it comes from: shown beside its score."""

import functools
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxparc import files
from jaxparc.bank.toml_file import Entry

MEASURED = ("images_per_second", "parameters")  # those of the facts that an extraction measures


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
    measured = _read(folder, entry.name, made_of)
    speed, size = measured.get("images_per_second"), measured.get("parameters")
    size = parameters(entry) if size is None else int(size)
    return Facts(size, speed, megabytes, entry.licence, entry.source)


def parameters(entry: Entry) -> int:
    """Return the number of parameters of a model's architecture, at its published width.

    The last linear layer, which fine-tuning replaces, is left out.
    """
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
    return count_parameters(jax.eval_shape(init, jax.random.key(0), images))


def count_parameters(variables: Mapping[str, Any]) -> int:
    """Return the number of parameters in a network's variables, without its last linear layer."""
    import jax

    params = {name: layer for name, layer in variables["params"].items() if name != "head"}
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


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


def write(folder: Path, name: str, made_of: str, measured: Mapping[str, float]) -> None:
    """Record what an extraction measured, apart from the features, whose bytes are reproducible.

    Args:
        folder: folder of the features.
        name: name of the model.
        made_of: fingerprint of the features.
        measured: some of `MEASURED` -> number.

    Raises:
        OSError: the file cannot be written.
    """
    content = {"made_of": made_of, **measured}
    files.write_text(_path(folder, name), json.dumps(content) + "\n")


def _read(folder: Path, name: str, made_of: str) -> dict[str, float]:
    """Return what was recorded about these features; {} if nothing was."""
    try:
        content = json.loads(_path(folder, name).read_text(encoding="utf-8"))
        if content["made_of"] != made_of:
            return {}
        numbers = {key: float(content[key]) for key in MEASURED if key in content}
    except (OSError, ValueError, TypeError, KeyError):  # missing, or damaged
        return {}
    return {key: number for key, number in numbers.items() if 0 < number < math.inf}


def _path(folder: Path, name: str) -> Path:
    return files.path_of(folder / "measured", f"{name}.json")
