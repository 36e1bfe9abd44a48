"""keras = "ResNet50V2": a network of keras.applications by its name, or a .keras file.

Keras 3 runs it as a compiled JAX function. Images of a named network are preprocessed by its own
`preprocess_input`; those of a file are normalised by the entry's mean and std. Features are the
output of the layer that the entry names, `features = "avg_pool"`, or else the input of the last
layer, if that is a dense one, whose output, before its activation, are the logits.
"""

import functools
import inspect
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxparc import extraction, files, printing
from jaxparc.bank.entry import Counts, Entry, Model
from jaxparc.bank.kinds import packages
from jaxparc.errors import InputError
from jaxparc.geometry import Geometry, scale_and_shift

EXTRA = "keras3"
# Before 3.11.3, safe mode ran code in .h5 files (GHSA-36rr-ww3j-vrjv); before 3.13.2, SavedModels
# that .keras files name (CVE-2026-1462).
SAFE = (3, 13, 2)


def load(entry: Entry) -> Model:
    """See `entry.Implementation`."""
    keras = _keras()
    network, preprocess = (_of_file if _file(entry) else _of_name)(keras, entry)
    size = _size(network, entry)
    function = _function(keras, network, entry)
    start = functools.partial(_running, network, function, preprocess)
    kinds = (keras.layers.Dense, keras.layers.Conv2D, keras.layers.SeparableConv2D)
    layers = sum(isinstance(layer, kinds) for layer in network.layers)
    counts = Counts(layers or None, int(network.count_params()))
    return Model(entry.geometry(Geometry(size)), start, counts)


def fingerprint(entry: Entry) -> Any:
    """See `entry.Implementation`."""
    _keras()
    found = {"keras": packages.version("keras")}
    for path in filter(None, (_file(entry), entry.weights)):
        files.require_regular(path)
        found[path.name] = files.sha256(path)
    return found


def counts(entry: Entry) -> Counts:
    """See `entry.Implementation`: the network would have to be built."""
    return Counts()


def _file(entry: Entry) -> Path | None:
    return Path(entry.architecture) if entry.architecture.endswith((".keras", ".h5")) else None


def _keras() -> Any:
    """Import Keras with its JAX backend.

    Raises:
        InputError: it is missing, too old, or was imported with another backend.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = "jax"
    keras = packages.required("keras", EXTRA)
    if not keras.__version__.startswith("3"):
        raise InputError(
            f'keras is {keras.__version__}; expected 3: pip install "jaxparc[{EXTRA}]"'
        )
    if (backend := keras.backend.backend()) != "jax":
        raise InputError(f"keras was imported with the backend {backend}; expected jax")
    return keras


def _of_file(keras: Any, entry: Entry) -> tuple[Any, Callable[[np.ndarray], np.ndarray]]:
    path = Path(entry.architecture)
    mean, std = entry.normalisation
    files.require_regular(path)
    if tuple(int(part) for part in re.findall(r"\d+", keras.__version__)[:3]) < SAFE:
        raise InputError(
            f"{path} may run code in keras {keras.__version__}; expected "
            f'{".".join(map(str, SAFE))} or newer: pip install "jaxparc[{EXTRA}]"'
        )
    try:
        # Safe mode refuses code in the file.
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # of whatever is wrong with it
        raise InputError(f"{path} cannot be read: {printing.line(error)}") from error
    scale, shift = scale_and_shift(mean, std)
    return network, lambda images: images * scale - shift


def _of_name(keras: Any, entry: Entry) -> tuple[Any, Callable[[np.ndarray], np.ndarray]]:
    if entry.mean is not None or entry.std is not None:
        raise InputError(f"{entry.address} has its own preprocessing; expected no mean and no std")
    builder: Any = getattr(keras.applications, entry.architecture, None)
    if not inspect.isfunction(builder) or not entry.architecture[0].isupper():
        known = [name for name in dir(keras.applications) if name[0].isupper()]
        raise InputError(
            f"keras.applications has no network {entry.architecture!r}; the closest are "
            f"{printing.closest(entry.architecture, known)}"
        )
    home: Any = inspect.getmodule(inspect.unwrap(builder))
    weights: Any = "imagenet" if entry.weights is None else str(entry.weights)
    options = {} if entry.size is None else {"input_shape": (entry.size, entry.size, 3)}
    try:
        network = builder(weights=weights, classifier_activation=None, **options)
    except Exception as error:  # of the network, the file, or the shape
        raise InputError(f"{entry.address}: {printing.line(error)}") from error

    def preprocess(images: np.ndarray) -> np.ndarray:
        return home.preprocess_input(images.astype(np.float32), data_format="channels_last")

    return network, preprocess


def _size(network: Any, entry: Entry) -> int:
    """Return the size of images.

    Raises:
        InputError: the network does not take images of the entry's size.
    """
    shape = tuple(network.input_shape) if isinstance(network.input_shape, tuple) else ()
    if len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2]:
        raise InputError(f"{entry.address} takes {shape}; expected (b, size, size, 3)")
    if shape[1] is not None and entry.size not in (None, shape[1]):
        raise InputError(
            f"{entry.address} takes images of {shape[1]} px; expected size {entry.size}"
        )
    return entry.size or shape[1] or 224


def _function(keras: Any, network: Any, entry: Entry) -> Any:
    """Return the network with outputs of features and, if it ends in a dense layer, of logits."""
    if entry.features is not None:
        try:
            outputs = [network.get_layer(entry.features).output]
        except ValueError:
            known = ", ".join(layer.name for layer in network.layers[-4:])
            raise InputError(
                f"features is {entry.features!r}, a layer that {entry.address} has not; the last "
                f"ones are {known}"
            ) from None
        return keras.Model(network.inputs[0], outputs)
    last = network.layers[-1]
    while isinstance(last, keras.layers.Activation | keras.layers.Softmax):
        last = last.input._keras_history.operation
    if not isinstance(last, keras.layers.Dense):
        return network
    last.activation = keras.activations.linear
    return keras.Model(network.inputs[0], [last.input, last.output])


def _running(
    network: Any, function: Any, preprocess: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], Any]:
    variables = {
        "params": [variable.value for variable in function.trainable_variables],
        "fixed": [variable.value for variable in function.non_trainable_variables],
    }

    def apply(variables: Any, images: Any) -> Any:
        outputs, _ = function.stateless_call(
            variables["params"], variables["fixed"], images, training=False
        )
        return outputs

    run = extraction.compile_function(apply, variables)
    return lambda batch: run(preprocess(batch))
