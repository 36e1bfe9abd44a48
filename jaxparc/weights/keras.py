"""Keras's files as a flat mapping of names to NumPy arrays: HDF5, .keras and TensorFlow.js.

Names end in the layer's and the weight's, "conv1_conv/kernel". Keras 3 numbers the weights of a
layer, and keeps the layer's name beside; they get the names that Keras 2 gave them.
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

from jaxparc import files
from jaxparc.weights import WeightsError
from jaxparc.weights.budget import Budget

MEMBER = "model.weights.h5"  # of Keras 3's archives

# The weights of a layer in the order in which Keras 3 numbers them.
_LEAVES: Mapping[str, tuple[str, ...]] = {
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "depthwise_conv2d": ("depthwise_kernel", "bias"),
    "normalization": ("mean", "variance", "count"),
}
# Of a whole model's file, in Keras 2 and before.
_GROUPS = ("model_weights", "optimizer_weights")
_MOST_CHUNKS = 4096  # of one array; each is looked for among all


def of_hdf5(path: Path) -> dict[str, Any]:
    """The arrays of an HDF5 file, by its groups where it is Keras's.

    Raises:
        WeightsError: it asks for data outside of it, or for too much memory, or numbers its weights
            without saying of which layers.
    """
    return _of_hdf5(path, Budget(path.stat().st_size))


def of_archive(path: Path) -> dict[str, Any]:
    """The arrays of a .keras archive.

    Raises:
        WeightsError: as of `of_hdf5`.
    """
    budget = Budget(path.stat().st_size)
    with zipfile.ZipFile(path) as archive:
        budget.take(archive.getinfo(MEMBER).file_size, MEMBER)
        return _of_hdf5(io.BytesIO(archive.read(MEMBER)), budget)


def _of_hdf5(file: Any, budget: Budget) -> dict[str, Any]:
    try:
        import h5py
    except ImportError:
        raise WeightsError('it is HDF5, which needs h5py: pip install "jaxparc[keras]"') from None

    found: dict[str, Any] = {}
    with h5py.File(file, "r") as opened:
        for name, node in _datasets(opened, h5py):
            if node.dtype.kind != "f":
                continue
            chunk = math.prod(node.chunks or ()) * node.dtype.itemsize
            budget.take(max(node.nbytes, chunk), name)
            _check_filters(node, chunk, name, h5py)
            group, name = _group(opened, name)
            (found.setdefault(group, {}) if group else found)[name] = node[()]
    return found


def _datasets(opened: Any, h5py: Any) -> Iterator[tuple[str, Any]]:
    """Names and data sets of a file, of which nothing lies elsewhere."""
    waiting, seen = [("", opened)], set()
    while waiting:
        prefix, group = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            raise WeightsError(f"its group {prefix or '/'} is there twice")
        seen.add(address)
        for key in group:
            name = f"{prefix}/{key}" if prefix else key
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise WeightsError(f"its {name} is a link, which is not followed")
            node = group[key]
            if isinstance(node, h5py.Group):
                waiting.append((name, node))
            elif isinstance(node, h5py.Dataset):
                if node.external or node.is_virtual:
                    raise WeightsError(f"its {name} lies in other files, which are not read")
                yield name, node


def _check_filters(node: Any, chunk: int, name: str, h5py: Any) -> None:
    """Raises a `WeightsError` for chunks that become larger than they say, as HDF5 would let them,
    and for filters of which that cannot be told.
    """
    made = node.id.get_create_plist()
    filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    deflate, known = h5py.h5z.FILTER_DEFLATE, (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32)
    if filters.count(deflate) > 1 or not {*filters} <= {deflate, *known}:
        raise WeightsError(f"its {name} is packed by other filters than gzip, which are not read")
    if deflate not in filters:
        return
    for number in range(_counted(node.id.get_num_chunks(), name)):
        info = node.id.get_chunk_info(number)
        mask, packed = node.id.read_direct_chunk(info.chunk_offset)
        if mask == 0:
            # At most a checksum more than the chunk, if that comes before.
            whole = zlib.decompressobj().decompress(packed, chunk + 5)
            if len(whole) > chunk + 4:
                raise WeightsError(f"a chunk of its {name} is larger than its {chunk} bytes")


def _counted(chunks: int, name: str) -> int:
    if chunks > _MOST_CHUNKS:
        raise WeightsError(f"its {name} is in {chunks:,} chunks; at most {_MOST_CHUNKS:,} are read")
    return chunks


def _group(opened: Any, name: str) -> tuple[str, str]:
    """Which part of a model's file a data set belongs to, "" if none, and its name there."""
    *outer, kind, vars_, number = ["", "", *name.split("/")]
    if vars_ == "vars" and number.isdecimal():  # Keras 3's
        if "optimizer" in (kind, *outer):
            return "optimizer", name
        kind = re.sub(r"_\d+$", "", kind)
        layer = opened[name.rpartition("/")[0]].attrs.get("name")
        if not isinstance(layer, str):
            raise WeightsError(
                f"its {name} is numbered without a layer's name, as some versions of Keras 3 and "
                "TensorFlow 2.12 to 2.16 save weights; save the model as .h5, or with a newer Keras"
            )
        leaves = _LEAVES.get(kind, ())
        leaf = leaves[int(number)] if int(number) < len(leaves) else f"{kind}_{number}"
        models = [part for part in outer if part not in ("", "layers")]
        return "model_weights", "/".join((*models, layer, leaf))
    group, _, rest = name.partition("/")
    return (group, rest) if group in _GROUPS else ("", name)


def of_tfjs(path: Path, described: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of TensorFlow.js's shards.

    Args:
        path: of model.json, beside which they lie.
        described: its content.

    Raises:
        WeightsError: it is no such description, or its shards are others; or weights are of
            integers.
    """
    manifest = described.get("weightsManifest")
    if not isinstance(manifest, list):
        raise WeightsError(f"{path} has no weightsManifest, as TensorFlow.js's model.json has")
    found: dict[str, Any] = {}
    paths = [beside(path, name) for group in manifest for name in group["paths"]]
    if len(set(paths)) < len(paths):
        raise WeightsError("it names a shard twice")
    budget = Budget(path.stat().st_size + sum(shard.stat().st_size for shard in paths))
    for group in manifest:
        data = memoryview(b"".join(beside(path, name).read_bytes() for name in group["paths"]))
        start = 0
        for weight in group["weights"]:
            if weight["name"] in found:
                raise WeightsError(f"two of its arrays are called {weight['name']}")
            array, length = _of_tfjs(weight, data[start:], budget)
            found[weight["name"]], start = array, start + length
        if start != len(data):
            raise WeightsError(f"its shards hold {len(data) - start} bytes too many")
    return found


def beside(path: Path, name: str) -> Path:
    """A regular file beside another one, by its name."""
    if not isinstance(name, str) or Path(name).name != name:
        raise WeightsError(f"it names a shard {name!r} outside of its folder")
    files.require_regular(path.with_name(name))
    return path.with_name(name)


_STORED = {"float32": "<f4", "float16": "<f2", "uint8": "u1", "uint16": "<u2"}


def _of_tfjs(weight: Mapping[str, Any], data: memoryview, budget: Budget) -> tuple[np.ndarray, int]:
    """A weight at the beginning of the data, and how many bytes it takes there."""
    name, quantised = weight["name"], weight.get("quantization")
    stored = quantised["dtype"] if quantised else weight["dtype"]
    if weight["dtype"] != "float32" or stored not in _STORED:
        raise WeightsError(f"{name} is no float32, but {weight['dtype']} {stored}")
    if not quantised and stored != "float32":
        raise WeightsError(f"{name} is no float32, but {stored}")
    shape = tuple(weight["shape"])
    if not all(isinstance(side, int) and side >= 0 for side in shape):
        raise WeightsError(f"{name} has the shape {shape}")
    dtype, count = np.dtype(_STORED[stored]), math.prod(shape)
    length = count * dtype.itemsize
    if length > len(data):
        raise WeightsError(f"its shards end before {name}")
    budget.take(4 * count, name)
    array = np.frombuffer(data, dtype, count).astype(np.float32).reshape(shape)
    if quantised and dtype.kind == "u":
        scale, least = np.float32(quantised["scale"]), np.float32(quantised["min"])
        array = array * scale + least
    return array, length
