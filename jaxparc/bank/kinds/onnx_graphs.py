"""onnx = "model.onnx": a graph that onnxruntime runs.

It takes one input of images, (b, 3, h, w) or (b, h, w, 3), float32, float16 or uint8; the graph
tells the layout and the size. Floating-point images are normalised by the entry's mean and std;
a graph of uint8 images normalises them itself, so that these must be 0 and 1.
Features are, in this order,

* the tensor that the entry names, `features = "pooled"`;
* the input of the last Gemm or MatMul with constant weights, if the graph's only output is its
  output, but for an added bias or a softmax: the product and its bias are logits;
* the only output of the graph.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxparc import files, printing
from jaxparc.bank.entry import Counts, Entry, Model
from jaxparc.bank.kinds import packages
from jaxparc.errors import InputError
from jaxparc.geometry import Geometry, scale_and_shift

EXTRA = "onnx"
_AFTER = ("Softmax", "LogSoftmax", "Identity", "Cast", "Sigmoid")  # of logits
_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


def load(entry: Entry) -> Model:
    """See `entry.Implementation`."""
    onnx = packages.required("onnx", EXTRA)
    runtime = packages.required("onnxruntime", EXTRA)
    path = Path(entry.architecture)
    files.require_regular(path)
    try:
        model = onnx.load(str(path))
    except Exception as error:  # of a damaged protocol buffer
        raise InputError(f"{path} cannot be read: {printing.line(error)}") from error
    if not model.graph.output:
        raise InputError(f"{path} is not an ONNX graph: it has no output")
    outputs = _outputs(path, model, entry.features)
    known = {output.name for output in model.graph.output}
    for name in outputs:
        if name not in known:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=runtime.get_available_providers()
        )
    except Exception as error:  # of onnxruntime, or a graph above 2 GB
        raise InputError(f"{path} cannot be run: {printing.line(error)}") from error
    channels_last, size = _input(path, session, entry.size)
    dtype = _DTYPES[session.get_inputs()[0].type]
    if dtype == np.uint8 and entry.normalisation != ((0, 0, 0), (1, 1, 1)):
        raise InputError(
            f"{path} takes uint8 images and normalises them itself; expected mean 0 and std 1"
        )
    geometry = entry.geometry(Geometry(size))
    start = functools.partial(_running, entry, session, outputs, channels_last, dtype)
    constants = [np.prod(tensor.dims) for tensor in model.graph.initializer if tensor.dims]
    return Model(geometry, start, Counts(_layers(model), int(sum(constants)) or None))


def fingerprint(entry: Entry) -> Any:
    """See `entry.Implementation`."""
    packages.required("onnxruntime", EXTRA)
    found = {"onnxruntime": packages.version("onnxruntime")}
    path = Path(entry.architecture)
    files.require_regular(path)
    return found | {"sha256": files.sha256(path)}


def counts(entry: Entry) -> Counts:
    """See `entry.Implementation`: the graph would have to be read."""
    return Counts()


def _running(
    entry: Entry, session: Any, outputs: list[str], channels_last: bool, dtype: Any
) -> Callable[[np.ndarray], Any]:
    mean, std = entry.normalisation
    scale, shift = scale_and_shift(mean, std)
    (given,) = session.get_inputs()
    fixed = given.shape[0] if isinstance(given.shape[0], int) else None

    def apply_fn(batch: np.ndarray) -> tuple[np.ndarray, ...]:
        images = batch if dtype == np.uint8 else (batch * scale - shift).astype(dtype)
        if not channels_last:
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        b = len(images)
        parts = [images[i : i + (fixed or b)] for i in range(0, b, fixed or b)]
        found = [_run(session, outputs, given.name, part, fixed) for part in parts]
        return tuple(np.concatenate(part).astype(np.float32) for part in zip(*found, strict=True))

    return apply_fn


def _run(
    session: Any, outputs: list[str], name: str, images: np.ndarray, fixed: int | None
) -> list[np.ndarray]:
    """Run a graph, whose batch may be fixed: a smaller one is padded."""
    b = len(images)
    if fixed and b < fixed:
        images = np.concatenate([images, np.repeat(images[-1:], fixed - b, axis=0)])
    found = session.run(outputs, {name: images})
    # (b, d, 1, 1), as of a global pool
    return [x[:b].reshape(b, -1) if x.ndim == 4 and x.shape[2:] == (1, 1) else x[:b] for x in found]


def _input(path: Path, session: Any, size: int | None) -> tuple[bool, int]:
    """Return whether the images' channels are last, and their size.

    Raises:
        InputError: the graph does not take images, or not of this size.
    """
    inputs = session.get_inputs()
    shape = inputs[0].shape if len(inputs) == 1 else []
    known = {tuple(given.shape): given.type for given in inputs}
    if len(shape) != 4 or inputs[0].type not in _DTYPES or 3 not in (shape[1], shape[3]):
        raise InputError(
            f"{path} takes {known}; expected one input of images, (b, 3, h, w) or (b, h, w, 3), "
            "float32, float16 or uint8"
        )
    channels_last = shape[1] != 3
    sides = shape[1:3] if channels_last else shape[2:4]
    numbers = {side for side in sides if isinstance(side, int) and side > 0}
    if len(numbers) > 1:
        raise InputError(f"{path} takes images of {sides[0]}x{sides[1]} px; expected squares")
    if numbers and size not in (None, *numbers):
        raise InputError(f"{path} takes images of {min(numbers)} px, not of {size}")
    return channels_last, size or min(numbers, default=224)


def _outputs(path: Path, model: Any, named: str | None) -> list[str]:
    """Return the names of the tensors of features and, if there are any, of logits.

    Raises:
        InputError: there is no tensor of this name, or several outputs could be the features.
    """
    graph = model.graph
    maker = {output: node for node in graph.node for output in node.output}
    if named is not None:
        if named not in maker:
            outputs = ", ".join(output.name for output in graph.output)
            raise InputError(f"{path} has no tensor {named!r}; its outputs are {outputs}")
        return [named]
    if len(graph.output) > 1:
        outputs = ", ".join(output.name for output in graph.output)
        raise InputError(
            f"{path} has {len(graph.output)} outputs, {outputs}; choose one by features = NAME"
        )
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {o for node in graph.node if node.op_type == "Constant" for o in node.output}
    constants = _constant(graph, constants)
    name = graph.output[0].name
    node = maker.get(name)
    while node is not None and node.op_type in _AFTER:
        name = node.input[0]
        node = maker.get(name)
    logits = name
    if node is not None and node.op_type == "Add":
        products = [n for n in node.input if n in maker and n not in constants]
        node = maker[products[0]] if len(products) == 1 else node
    if node is not None and node.op_type in ("Gemm", "MatMul") and node.input[1] in constants:
        return [node.input[0], logits]
    return [graph.output[0].name]


def _constant(graph: Any, constants: set[str]) -> set[str]:
    """Return the names of all tensors that follow from constants alone, as quantised weights do."""
    found = set(constants)
    for node in graph.node:  # in topological order, as ONNX requires
        if node.input and all(name in found or not name for name in node.input):
            found.update(node.output)
    return found


def _layers(model: Any) -> int | None:
    """Return the number of convolutions and matrix products; None if there are none."""
    kinds = (
        "Conv",
        "Gemm",
        "MatMul",
        "ConvInteger",
        "MatMulInteger",
        "QLinearConv",
        "QLinearMatMul",
    )
    return sum(node.op_type in kinds for node in model.graph.node) or None
