"""Weight files of any format as nested mappings of names to arrays: parsed, never executed.

The format is told by the content: both of PyTorch's, safetensors, npz, pickles of NumPy arrays
(Detectron2's .pkl), and those of `weights.keras`. A file may also be an index of shards, or lie in
the folder in which a model hub keeps a network.
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxparc import array_files, files
from jaxparc.weights import configs, keras, pickles, torch_files
from jaxparc.weights.budget import Budget
from jaxparc.weights.errors import WeightsError
from jaxparc.weights.stand_ins import RefusedError

# The weight file of a folder: the first of these that exists.
HUB_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.json",
)

KEY = "jaxparc"  # of the metadata that this library writes into safetensors files

_START = 64  # bytes that tell the format


def resolve(path: Path) -> Path:
    """Return the weight file itself, where `path` is a folder.

    Raises:
        WeightsError: the folder holds none of `HUB_FILES`, or it is not a regular file.
        OSError: it does not exist.
    """
    if path.is_dir():
        present = [name for name in HUB_FILES if (path / name).exists()]
        if not present:
            found = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
            raise WeightsError(
                f"{path} holds {found}; expected a file, or a folder with {', '.join(HUB_FILES)}"
            )
        path = path / present[0]
    try:
        files.require_regular(path)
    except ValueError as error:
        raise WeightsError(str(error)) from None
    return path


def content(path: Path) -> tuple[Any, dict[str, Any]]:
    """Read a weight file, or all shards of an index.

    Args:
        path: of the file.

    Returns:
        What it holds, and metadata from its header or from the configs in its folder.

    Raises:
        WeightsError: the format is unknown, or the file is damaged, or declares too much memory.
        Exception: whatever a library raises on a damaged file.
    """
    start = _start(path)
    metadata = _config(path)
    if not _is_index(start):
        held, declared = _single(path, start)
        return held, metadata | declared
    index = json.loads(path.read_bytes())
    if isinstance(index.get("weight_map"), dict):
        return _sharded(path, index["weight_map"]), metadata
    return keras.of_tfjs(path, index), metadata


def is_known(path: Path) -> bool:
    """Return whether a file begins as one that `content` can read; it may still be damaged."""
    try:
        path = resolve(path)
        start = _start(path)
        if _is_index(start):
            return not {"weight_map", "weightsManifest"}.isdisjoint(json.loads(path.read_bytes()))
        return _reader(path, start) is not None
    except (ValueError, TypeError, OSError, RecursionError):  # ValueError: also a WeightsError
        return False


def files_of(path: Path) -> list[Path]:
    """Return the files that `content` reads: `path`, the configs beside it, and its shards.

    Raises:
        WeightsError: as in `content`, of an index.
        Exception: likewise.
    """
    found = [path, *_config_paths(path)]
    if _is_index(_start(path)):
        index = json.loads(path.read_bytes())
        if isinstance(index.get("weight_map"), dict):
            found += _shards(path, index["weight_map"])
        else:
            found += keras.tfjs_shards(path, index)
    return found


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_START)


def _is_index(start: bytes) -> bool:
    """Return whether a file is JSON, as indices of shards are."""
    return start.lstrip().startswith(b"{")


def _single(path: Path, start: bytes) -> tuple[Any, dict[str, Any]]:
    """Read a file that is not an index: its content, and the metadata in its header."""
    reader = _reader(path, start)
    held = reader(path)
    return held if reader is _safetensors else (held, {})


def _config_paths(path: Path) -> list[Path]:
    """Return the configs of a file in a hub's folder."""
    if path.name not in HUB_FILES:
        return []
    found = [path.with_name(name) for name in (configs.CONFIG, configs.PREPROCESSOR)]
    return [config for config in found if config.is_file()]


def _config(path: Path) -> dict[str, Any]:
    """Return what the configs of a file in a hub's folder declare, see `configs.read`."""
    return configs.read(path.parent) if _config_paths(path) else {}


def _reader(path: Path, start: bytes) -> Callable[[Path], Any]:
    if start.startswith(torch_files.ZIP):
        with path.open("rb") as file:
            try:
                names = zipfile.ZipFile(file).namelist()
            except Exception as error:  # not only BadZipFile: versions, sizes, names
                raise WeightsError(f"{path} is damaged: {error}") from error
        if keras.MEMBER in names:
            return keras.of_archive
        return _npz if any(name.endswith(".npy") for name in names) else torch_files.read
    # Before pickles: the length of the header may begin with a pickle's first byte.
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length < path.stat().st_size:
        return _safetensors
    if start.startswith(b"\x80"):
        return torch_files.read if torch_files.is_legacy(start) else _pickle
    if start.startswith(b"\x89HDF"):
        return keras.of_hdf5
    raise WeightsError(
        f"{path} begins with {start[:16]!r}; expected a file of PyTorch, safetensors, npz, a "
        "pickle of NumPy arrays, HDF5, a .keras archive, TensorFlow.js's model.json, or an index "
        "of shards"
    )


def _npz(path: Path) -> dict[str, Any]:
    budget = Budget(path.stat().st_size)
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            budget.take(info.file_size, info.filename)
    return array_files.read(path)


def _pickle(path: Path) -> Any:
    try:
        return pickles.load(path.read_bytes(), inert=True)
    except RefusedError as error:
        raise WeightsError(f"{path} is refused, nothing in it was executed: {error}") from None


def _safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, framework="flax") as file:  # its NumPy reader lacks bfloat16
        header = file.metadata() or {}
        arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    return arrays, {KEY: header[KEY]} if KEY in header else {}


def _shards(index: Path, weight_map: Mapping[str, Any]) -> list[Path]:
    return [keras.sibling(index, name) for name in sorted(set(map(str, weight_map.values())))]


def _sharded(index: Path, weight_map: Mapping[str, Any]) -> dict[str, Any]:
    """Read the arrays of all shards that an index lists."""
    arrays: dict[str, Any] = {}
    for shard in _shards(index, weight_map):
        held, _ = _single(shard, _start(shard))
        if not isinstance(held, Mapping):
            raise WeightsError(f"{shard} holds a {type(held).__name__}; expected arrays by name")
        if duplicate := arrays.keys() & held.keys():
            raise WeightsError(
                f"duplicate array {min(duplicate)}: in {shard.name} and another shard"
            )
        arrays |= held
    if lacking := weight_map.keys() - arrays.keys():
        raise WeightsError(f"the shards lack {min(lacking)}, which the index lists")
    return arrays
