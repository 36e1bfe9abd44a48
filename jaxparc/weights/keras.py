"""Keras's weight files as flat mappings of names to arrays: HDF5, .keras and TensorFlow.js.

Names end in those of the layer and the weight, such as "conv1_conv/kernel". Keras 3 numbers the
weights of a layer and stores the layer's name as an attribute; they get the names of Keras 2.
"""

import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxparc import extras, files
from jaxparc.weights.budget import Budget
from jaxparc.weights.errors import WeightsError

MEMBER = "model.weights.h5"  # the weights in a .keras archive

# The weights of each kind of layer, in the order in which Keras 3 numbers them.
_LEAVES: Mapping[str, tuple[str, ...]] = {
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "depthwise_conv2d": ("depthwise_kernel", "bias"),
    "normalization": ("mean", "variance", "count"),
}
# The groups of a file that holds a whole model, up to Keras 2.
_GROUPS = ("model_weights", "optimizer_weights")
_MAX_CHUNKS = 4096  # of one array; finding each takes time proportional to their number


def of_hdf5(path: Path) -> dict[str, Any]:
    """Read the floating-point arrays of an HDF5 file; those in groups of Keras as nested mappings.

    Raises:
        WeightsError: h5py is not installed, or the file refers to data outside of it, declares too
            much memory, or numbers its weights without naming their layers.
    """
    return _of_hdf5(path, Budget(path.stat().st_size))


def of_archive(path: Path) -> dict[str, Any]:
    """Read the arrays of a .keras archive.

    Raises:
        WeightsError: as in `of_hdf5`.
    """
    budget = Budget(path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        budget.take(archive.getinfo(MEMBER).file_size, MEMBER)
        return _of_hdf5(io.BytesIO(archive.read(MEMBER)), budget)


def _of_hdf5(file: Any, budget: Budget) -> dict[str, Any]:
    try:
        import h5py
    except ImportError:
        raise WeightsError(extras.missing("h5py", "keras")) from None

    arrays: dict[str, Any] = {}
    with h5py.File(file, "r") as opened:
        for name, node in _datasets(opened, h5py):
            if node.dtype.kind != "f":
                continue
            chunk = math.prod(node.chunks or ()) * node.dtype.itemsize
            budget.take(max(node.nbytes, chunk), name)
            _check_filters(node, chunk, name, h5py)
            group, name = _group(opened, name)
            (arrays.setdefault(group, {}) if group else arrays)[name] = node[()]
    return arrays


def _datasets(opened: Any, h5py: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and data sets of a file.

    Raises:
        WeightsError: a link or a data set refers to another place.
    """
    waiting, seen = [("", opened)], set()
    while waiting:
        prefix, group = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            raise WeightsError(f"duplicate group {prefix or '/'}")
        seen.add(address)
        for key in group:
            name = f"{prefix}/{key}" if prefix else key
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise WeightsError(f"{name} is a link; links are not followed")
            node = group[key]
            if isinstance(node, h5py.Group):
                waiting.append((name, node))
            elif isinstance(node, h5py.Dataset):
                if node.external or node.is_virtual:
                    raise WeightsError(f"{name} is stored in other files, which are not read")
                yield name, node


def _check_filters(node: Any, chunk: int, name: str, h5py: Any) -> None:
    """Check that no chunk decompresses to more than its declared size, which HDF5 would allow.

    Raises:
        WeightsError: one does, or has filters for which that cannot be checked.
    """
    properties = node.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    deflate, known = h5py.h5z.FILTER_DEFLATE, (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
    if filters.count(deflate) > 1 or not {*filters} <= {deflate, *known}:
        raise WeightsError(
            f"{name} has a filter that is not read; known: gzip, shuffle, fletcher32"
        )
    if deflate not in filters:
        return
    for number in range(_checked_count(node.id.get_num_chunks(), name)):
        info = node.id.get_chunk_info(number)
        mask, packed = node.id.read_direct_chunk(info.chunk_offset)
        if mask == 0:
            # A checksum that is computed first adds 4 bytes.
            whole = zlib.decompressobj().decompress(packed, chunk + 5)
            if len(whole) > chunk + 4:
                raise WeightsError(f"a chunk of {name} expands to more than its {chunk} bytes")


def _checked_count(chunks: int, name: str) -> int:
    if chunks > _MAX_CHUNKS:
        raise WeightsError(f"{name} has {chunks:,} chunks; expected at most {_MAX_CHUNKS:,}")
    return chunks


def _group(opened: Any, name: str) -> tuple[str, str]:
    """Return the group of a model's file that a data set belongs to ("" if none), and its name."""
    *outer, kind, vars_, number = ["", "", *name.split("/")]
    if vars_ == "vars" and number.isdecimal():  # of Keras 3
        if "optimizer" in (kind, *outer):
            return "optimizer", name
        kind = re.sub(r"_\d+$", "", kind)
        layer = opened[name.rpartition("/")[0]].attrs.get("name")
        if not isinstance(layer, str):
            raise WeightsError(
                f"{name} is numbered and its layer has no name, as some versions of Keras 3 and "
                "TensorFlow 2.12 to 2.16 save weights; save the model as .h5, or with a newer Keras"
            )
        leaves = _LEAVES.get(kind, ())
        leaf = leaves[int(number)] if int(number) < len(leaves) else f"{kind}_{number}"
        models = [part for part in outer if part not in ("", "layers")]
        return "model_weights", "/".join((*models, layer, leaf))
    group, _, rest = name.partition("/")
    return (group, rest) if group in _GROUPS else ("", name)


def tfjs_shards(path: Path, index: Mapping[str, Any]) -> list[Path]:
    """Return the shards that TensorFlow.js's model.json names, in order.

    Args:
        path: of model.json; the shards are in the same folder.
        index: its content.

    Raises:
        WeightsError: the index has no manifest, or names a shard twice or outside of the folder.
    """
    manifest = index.get("weightsManifest")
    if not isinstance(manifest, list):
        raise WeightsError(
            f"{path} has neither weightsManifest nor weight_map; expected an index of shards"
        )
    paths = [sibling(path, name) for group in manifest for name in group["paths"]]
    if len(set(paths)) < len(paths):
        raise WeightsError("duplicate shard in weightsManifest")
    return paths


def of_tfjs(path: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    """Read the arrays of TensorFlow.js's shards, as float32.

    Args:
        path: of model.json; the shards are in the same folder.
        index: its content.

    Raises:
        WeightsError: as in `tfjs_shards`; or the shards do not have the declared sizes, a name is
            duplicate, or a weight is not float32.
    """
    paths = tfjs_shards(path, index)
    arrays: dict[str, Any] = {}
    budget = Budget(path.stat().st_size + sum(shard.stat().st_size for shard in paths))
    for group in index["weightsManifest"]:
        data = memoryview(b"".join(sibling(path, name).read_bytes() for name in group["paths"]))
        start = 0
        for weight in group["weights"]:
            if weight["name"] in arrays:
                raise WeightsError(f"duplicate array {weight['name']}")
            array, length = _of_tfjs(weight, data[start:], budget)
            arrays[weight["name"]], start = array, start + length
        if start != len(data):
            raise WeightsError(f"the shards have {len(data) - start} bytes more than declared")
    return arrays


def sibling(path: Path, name: str) -> Path:
    """Return the path of a regular file in the same folder as another one.

    Raises:
        WeightsError: the name is a path.
        InputError: it is not a regular file.
        OSError: it does not exist.
    """
    if not isinstance(name, str) or Path(name).name != name:
        raise WeightsError(f"shard {name!r} is outside of the folder")
    files.require_regular(path.with_name(name))
    return path.with_name(name)


_STORED = {"float32": "<f4", "float16": "<f2", "uint8": "u1", "uint16": "<u2"}


def _of_tfjs(weight: Mapping[str, Any], data: memoryview, budget: Budget) -> tuple[np.ndarray, int]:
    """Return the weight at the beginning of the data, and how many bytes it takes there."""
    name, quantised = weight["name"], weight.get("quantization")
    stored = quantised["dtype"] if quantised else weight["dtype"]
    if weight["dtype"] != "float32" or stored not in _STORED:
        raise WeightsError(f"{name} is {weight['dtype']} stored as {stored}; expected float32")
    if not quantised and stored != "float32":
        raise WeightsError(f"{name} is {stored}; expected float32")
    shape = tuple(weight["shape"])
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise WeightsError(f"{name} has the shape {shape}; expected sizes of at least 0")
    dtype, count = np.dtype(_STORED[stored]), math.prod(shape)
    length = count * dtype.itemsize
    if length > len(data):
        raise WeightsError(f"the shards end before {name} does")
    budget.take(4 * count, name)
    array = np.frombuffer(data, dtype, count).astype(np.float32).reshape(shape)
    if quantised and dtype.kind == "u":
        scale, least = np.float32(quantised["scale"]), np.float32(quantised["min"])
        array = array * scale + least
    return array, length
