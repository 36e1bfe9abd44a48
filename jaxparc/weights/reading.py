"""Files of weights, whatever wrote them, as a flat mapping of names to NumPy arrays.

Nothing of a file is run. Formats are told by content: PyTorch's two, safetensors, npz, pickles of
NumPy arrays (Detectron2's .pkl), Keras's HDF5, and the shards of TensorFlow.js beside model.json.
"""

import json
import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxparc import array_files, pickles
from jaxparc.weights import WeightsError, torch_files

# Where training scripts put the weights among the rest of a checkpoint, outermost first.
NESTS = (
    "state_dict",
    "model_state_dict",
    "classy_state_dict",
    "base_model",
    "model",
    "trunk",
    "blobs",
    "teacher",
    "student",
    "net",
    "params",
)


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a file of weights.

    Args:
        path: of the file; for TensorFlow.js that of model.json, or of its folder.

    Returns:
        Arrays by their names in the file, as they are stored. What a checkpoint holds beside the
        weights is passed over.

    Raises:
        WeightsError: it is of no known format, or damaged, or holds no weights; the message names
            the file.
        OSError: it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.json"
    with path.open("rb") as file:
        start = file.read(16)
    reader = _reader(path, start)
    try:
        content = reader(path)
    except WeightsError:
        raise
    except Exception as error:  # each library raises its own kinds on broken bytes
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise WeightsError(f"{path} cannot be read: {error}") from error
    return _weights(path, content)


def _reader(path: Path, start: bytes) -> Callable[[Path], Any]:
    if start.startswith(torch_files.ZIP):
        with path.open("rb") as file:
            try:
                names = zipfile.ZipFile(file).namelist()
            except Exception as error:  # not BadZipFile alone: versions, sizes, names
                raise WeightsError(f"{path} is damaged: {error}") from error
        return _npz if any(name.endswith(".npy") for name in names) else torch_files.read
    # Before pickles: the first byte of the header's length may be theirs.
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length < path.stat().st_size:
        return _safetensors
    if start.startswith(b"\x80"):
        return _pickle
    if start.startswith(b"\x89HDF"):
        return _hdf5
    if start.lstrip().startswith(b"{"):
        return _tfjs
    raise WeightsError(
        f"{path} begins with {start!r}; known: PyTorch's files, safetensors, npz, pickles of NumPy "
        "arrays, HDF5, and model.json of TensorFlow.js"
    )


def _npz(path: Path) -> dict[str, Any]:
    return array_files.read(path)


def _pickle(path: Path) -> Any:
    data = path.read_bytes()
    try:
        content = pickles.load(data)
    except pickles.RefusedError as error:
        raise WeightsError(f"{path} is refused, and nothing of it was run: {error}") from None
    return torch_files.read(path) if content == torch_files.MAGIC else content


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="flax") as file:  # NumPy's reader lacks bfloat16
        return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118


def _hdf5(path: Path) -> dict[str, Any]:
    try:
        import h5py
    except ImportError:
        raise WeightsError(
            f'{path} is HDF5, which needs h5py: pip install "jaxparc[keras]"'
        ) from None

    found: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind == "f":
            found[name] = node[()]

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


def _tfjs(path: Path) -> dict[str, Any]:
    manifest = json.loads(path.read_bytes()).get("weightsManifest")
    if not isinstance(manifest, list):
        raise WeightsError(f"{path} has no weightsManifest, as TensorFlow.js's model.json has")
    found: dict[str, Any] = {}
    for group in manifest:
        shards = []
        for name in group["paths"]:
            if Path(name).name != name:
                raise WeightsError(f"{path} names a shard {name!r} outside of its folder")
            shards.append((path.parent / name).read_bytes())
        data, start = b"".join(shards), 0
        for weight in group["weights"]:
            if weight["dtype"] != "float32" or "quantization" in weight:
                raise WeightsError(f"{path}: {weight['name']} is no float32, or quantised")
            count = math.prod(weight["shape"])
            if start + 4 * count > len(data):
                raise WeightsError(f"{path}: its shards end before {weight['name']}")
            array = np.frombuffer(data, "<f4", count, start)
            found[weight["name"]], start = array.reshape(weight["shape"]), start + 4 * count
        if start != len(data):
            raise WeightsError(f"{path}: its shards hold {len(data) - start} bytes too many")
    return found


def _flat(key: str, item: Any) -> list[tuple[str, Any]]:
    """An item and its name, or those of a list (a kernel and a bias) with their numbers."""
    if not isinstance(item, list | tuple):
        return [(key, item)]
    return [(f"{key}/{i}", value) for i, value in enumerate(item)]


def _weights(path: Path, content: Any) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint, out of whatever they are nested in."""
    while isinstance(content, Mapping):
        arrays = {
            name: np.asarray(value)
            for key, item in content.items()
            for name, value in _flat(str(key), item)
            if isinstance(value, np.ndarray)
        }
        nest = next((n for n in NESTS if isinstance(content.get(n), Mapping)), None)
        if nest is None or len(arrays) > 1:
            break
        content = content[nest]
    else:
        raise WeightsError(f"{path} holds a {type(content).__name__}, no weights by name")
    if not arrays:
        found = ", ".join(map(str, list(content)[:8])) or "nothing"
        raise WeightsError(f"{path} holds no arrays, but {found}")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise WeightsError(f"{path}: {name} has values that are not finite")
    return arrays
