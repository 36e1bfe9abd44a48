"""architecture = "resnet50": a network of `jaxparc.models`, with weights of any format."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from jaxparc import extraction, models, weights
from jaxparc.bank import facts
from jaxparc.bank.entry import Counts, Entry, Model
from jaxparc.errors import InputError
from jaxparc.weights import loading


def load_network(entry: Entry) -> Any:
    """Load a model's network and weights; what the entry says of images takes precedence.

    Returns:
        A `weights.Loaded`, whose `spec` has the entry's size, mean, std, and so on.

    Raises:
        InputError: the network is of another kind, or the weights do not fit it.
        OSError: the weights cannot be read.
    """
    path = require(entry)
    loaded = weights.load(entry.architecture, path, **loading.options_of(entry))
    geometry = entry.geometry(loaded.spec.geometry)
    spec = dataclasses.replace(
        loaded.spec,
        mean=entry.mean or loaded.spec.mean,
        std=entry.std or loaded.spec.std,
        input_size=geometry.size,
        crop=geometry.crop,
        resize=geometry.resize,
        interpolation=geometry.interpolation,
    )
    return loaded._replace(spec=spec)


def require(entry: Entry) -> Path:
    """Return the path of the weights of a network of `jaxparc.models`, which can be fine-tuned.

    Raises:
        InputError: it is of another kind, or its weights cannot be fetched.
    """
    path = entry.fetched_weights() if entry.native else None
    if path is None:
        raise InputError(
            f"{entry.name}: {entry.address} can be ranked, but not fine-tuned here; expected a "
            "network of jaxparc.models (docs/models.md of jaxparc)"
        )
    return path


def load(entry: Entry) -> Model:
    """See `entry.Implementation`."""
    loaded = load_network(entry)
    spec = loaded.spec
    start = functools.partial(
        extraction.compile_network, loaded.module, loaded.variables, mean=spec.mean, std=spec.std
    )
    return Model(
        spec.geometry,
        start,
        notes=loaded.notes,
        start_all=functools.partial(start, activations=True),
    )


def fingerprint(entry: Entry) -> str:
    """See `entry.Implementation`."""
    return weights.fingerprint(require(entry))


def counts(entry: Entry) -> Counts:
    """See `entry.Implementation`; weights of a narrower network count as of the usual width."""
    spec = models.get(entry.architecture)
    size = entry.size or spec.input_size
    gmacs = spec.gmacs if size == spec.input_size else facts.gmacs_of(entry.architecture, size)
    return Counts(spec.layers, spec.parameters, gmacs)
