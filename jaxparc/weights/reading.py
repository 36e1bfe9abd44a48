"""Files of weights, whatever wrote them, as a flat mapping of names to NumPy arrays.

Nothing of a file is run. Formats are told by content: PyTorch's two, safetensors, npz, pickles of
NumPy arrays (Detectron2's .pkl), and those of `weights.keras`; also shards under an index, and the
folders in which model hubs keep a network.
"""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparc import array_files, files
from jaxparc.weights import WeightsError, keras, pickles, torch_files
from jaxparc.weights.budget import Budget
from jaxparc.weights.pickles import Inert

# Where training scripts put the weights among the rest of a checkpoint, the likelier first: of an
# average beside the weights that were trained, the latter; of a distillation, the teacher.
NESTS = (
    "state_dict",
    "model_state_dict",
    "classy_state_dict",
    "base_model",
    "model",
    "module",
    "trunk",
    "blobs",
    "teacher",
    "student",
    "network",
    "net",
    "params",
    "model_weights",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "ema",
)

# In a folder, the first one that is there.
HUB_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "model.json",
)

KEY = "jaxparc"  # of what our own files say of themselves, in their metadata


# Facts of what lies around the weights: under these names a checkpoint may hold anything.
_TOLD_BESIDE = (KEY, "config", "mean", "std")


# Settings of a hub's network that decide nothing, or that the shapes tell.
_HARMLESS = {"num_classes", "in_chans", "drop_rate", "drop_path_rate", "drop_block_rate"}


class Checkpoint(NamedTuple):
    """What a file holds.

    Attributes:
        path: of the file, in a folder too.
        arrays: by their names in the file, as they are stored.
        facts: strings and numbers beside the weights, those of the innermost nest last.
        left_out: names of arrays, other weights and objects beside these weights.
        notes: what its reader should know: which of several weights were taken.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read(path: str | Path, weights_key: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of `checkpoint`."""
    return checkpoint(path, weights_key).arrays


def checkpoint(path: str | Path, weights_key: str | None = None) -> Checkpoint:
    """Reads a file of weights.

    Args:
        path: of the file; of shards that of their index; or of the folder of either, with a name of
            `HUB_FILES`.
        weights_key: where in the file the weights are, such as "state_dict_ema", or the beginning
            of their names, such as "module.teacher"; by default the first of `NESTS` that is there,
            down to the innermost.

    Raises:
        WeightsError: it is of no known format, or damaged, or holds no weights, or asks for more
            memory than a file of its size may; the message names the file.
        OSError: it cannot be read.
    """
    path = _file(Path(path))
    try:
        content, facts = _content(path)
        return _weights(path, content, facts, weights_key)
    except WeightsError as error:
        said = str(error)
        raise WeightsError(said if said.startswith(str(path)) else f"{path}: {said}") from None
    except Exception as error:  # each library raises its own kinds on broken bytes
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise WeightsError(f"{path} cannot be read: {error}") from error


def _file(path: Path) -> Path:
    """The file itself, of a folder too."""
    if path.is_dir():
        there = [name for name in HUB_FILES if (path / name).exists()]
        if not there:
            found = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
            raise WeightsError(
                f"{path} holds {found}; expected a file, or a folder with {', '.join(HUB_FILES)}"
            )
        path = path / there[0]
    try:
        files.require_regular(path)
    except ValueError as error:
        raise WeightsError(str(error)) from None
    return path


def _content(path: Path) -> tuple[Any, dict[str, Any]]:
    """All that a file holds, and what is known of it besides."""
    start = _start(path)
    facts = _config(path)
    if not start.lstrip().startswith(b"{"):
        content, told = _single(path, start)
        return content, facts | told
    described = json.loads(path.read_bytes())
    if isinstance(described.get("weight_map"), dict):
        return _sharded(path, described["weight_map"]), facts
    return keras.of_tfjs(path, described), facts


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(16)


def _single(path: Path, start: bytes) -> tuple[Any, dict[str, Any]]:
    """The content of a file that names no others, and what it says of itself."""
    reader = _reader(path, start)
    content = reader(path)
    return content if reader is _safetensors else (content, {})


def _config(path: Path) -> dict[str, Any]:
    """What timm's config.json says of the network beside it, in the folder of a hub."""
    if path.name not in HUB_FILES or not (config := path.with_name("config.json")).is_file():
        return {}
    try:
        told = json.loads(files.read_text(config))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{config} cannot be read: {error}") from None
    if not isinstance(told, dict) or not isinstance(told.get("architecture"), str):
        return {}
    images = told.get("pretrained_cfg")
    images = images if isinstance(images, dict) else {}
    colours = {key: images[key] for key in ("mean", "std") if key in images}
    settings = told.get("model_args")
    settings = {*settings} - _HARMLESS if isinstance(settings, dict) else {}
    if settings:
        raise WeightsError(
            f"its config.json sets {min(settings)}, which no network here has; load the weights "
            "from a folder without it if that is of no matter"
        )
    return {"config": told["architecture"], **colours}


def _reader(path: Path, start: bytes) -> Callable[[Path], Any]:
    if start.startswith(torch_files.ZIP):
        with path.open("rb") as file:
            try:
                names = zipfile.ZipFile(file).namelist()
            except Exception as error:  # not BadZipFile alone: versions, sizes, names
                raise WeightsError(f"{path} is damaged: {error}") from error
        if keras.MEMBER in names:
            return keras.of_archive
        return _npz if any(name.endswith(".npy") for name in names) else torch_files.read
    # Before pickles: the first byte of the header's length may be theirs.
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length < path.stat().st_size:
        return _safetensors
    if start.startswith(b"\x80"):
        return _pickle
    if start.startswith(b"\x89HDF"):
        return keras.of_hdf5
    raise WeightsError(
        f"{path} begins with {start!r}; known: PyTorch's files, safetensors, npz, pickles of NumPy "
        "arrays, HDF5, Keras's archives, model.json of TensorFlow.js, and indices of shards"
    )


def _npz(path: Path) -> dict[str, Any]:
    budget = Budget(path.stat().st_size)
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            budget.take(info.file_size, info.filename)
    return array_files.read(path)


def _pickle(path: Path) -> Any:
    data = path.read_bytes()
    try:
        content = pickles.load(data, inert=True)
    except pickles.RefusedError as error:
        raise WeightsError(f"{path} is refused, and nothing of it was run: {error}") from None
    is_torch = isinstance(content, int) and content == torch_files.MAGIC
    return torch_files.read(path) if is_torch else content


def _safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    from safetensors import safe_open

    with safe_open(path, framework="flax") as file:  # NumPy's reader lacks bfloat16
        told = file.metadata() or {}
        arrays = {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    return arrays, {KEY: told[KEY]} if KEY in told else {}


def _sharded(index: Path, weight_map: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays of several files, as an index lists them."""
    found: dict[str, Any] = {}
    for name in sorted(set(map(str, weight_map.values()))):
        shard = keras.beside(index, name)
        content, _ = _single(shard, _start(shard))
        if not isinstance(content, Mapping):
            raise WeightsError(f"{shard} holds a {type(content).__name__}, no weights by name")
        if twice := found.keys() & content.keys():
            raise WeightsError(f"{min(twice)} is in {shard.name} and in another shard too")
        found |= content
    if lacking := weight_map.keys() - found.keys():
        raise WeightsError(f"its shards lack {min(lacking)}")
    return found


def _flat(key: str, item: Any) -> list[tuple[str, Any]]:
    """An item and its name, or those of a list (a kernel and a bias) with their numbers."""
    if not isinstance(item, list | tuple):
        return [(key, item)]
    return [(f"{key}/{i}", value) for i, value in enumerate(item)]


def _arrays_of(content: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for key, item in content.items():
        for name, value in _flat(
            key.decode("latin1") if isinstance(key, bytes) else str(key), item
        ):
            if not isinstance(value, np.ndarray):
                continue
            if name in found:  # as 1 and "1"
                raise WeightsError(f"two of its arrays are called {name}")
            found[name] = value
    return found


def _weights(path: Path, content: Any, facts: dict[str, Any], key: str | None) -> Checkpoint:
    """The arrays of a checkpoint, out of whatever they are nested in."""
    left_out: list[str] = []
    notes: list[str] = []
    content, prefix = (content, None) if key is None else _at(content, key)
    seen: list[int] = []
    while True:
        if not isinstance(content, Mapping):
            what = content.name if isinstance(content, Inert) else type(content).__name__
            raise WeightsError(f"{path} holds a {what}, no weights by name")
        if id(content) in seen:
            raise WeightsError(f"{path} holds itself")
        seen.append(id(content))
        arrays = _arrays_of(content)
        facts |= {
            k: v
            for k, v in content.items()
            if isinstance(v, str | int | float) and k not in _TOLD_BESIDE
        }
        nests = [n for n in NESTS if isinstance(content.get(n), Mapping)]
        full = [n for n in nests if _holds_arrays(content[n])]
        if not full and (arrays or not nests):
            break
        taken = (full or nests)[0]
        others = [n for n in full if n != taken]
        if others:
            notes.append(
                f"{taken} was taken; it also holds {', '.join(others)} (weights_key chooses)"
            )
        left_out += [str(k) for k, v in content.items() if k != taken and _counts(v)]
        content = content[taken]
    beside = [str(k) for k, v in content.items() if str(k) not in arrays and _counts(v)]
    if prefix:
        under = tuple(f"{prefix}{separator}" for separator in "./")
        beside += [name for name in arrays if not name.startswith(under)]
        arrays = {name: array for name, array in arrays.items() if name.startswith(under)}
    if not arrays:
        found = ", ".join(str(k)[:40] for k in [*content][:8]) or "nothing"
        where = "" if key is None else f" under {key!r}"
        nested = [str(k) for k, v in content.items() if isinstance(v, Mapping) and _holds_arrays(v)]
        hint = f"; weights_key chooses among {', '.join(nested[:8])}" if nested else ""
        raise WeightsError(f"{path} holds no arrays{where}, but {found}{hint}")
    return Checkpoint(path, arrays, facts, (*left_out, *beside), tuple(notes))


def _counts(value: Any) -> bool:
    """Whether something beside the weights is worth telling."""
    return isinstance(value, Inert) or (not isinstance(value, list) and _holds_arrays(value))


def _holds_arrays(content: Any) -> bool:
    """Whether there are arrays in a mapping, or in mappings within it; each is looked at once."""
    waiting, seen = [content], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, np.ndarray):
            return True
        if isinstance(item, Mapping | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            waiting += item.values() if isinstance(item, Mapping) else item
    return False


def _at(content: Any, key: str) -> tuple[Any, str | None]:
    """What a key names in nested mappings, and the rest of it, with which names begin."""
    rest: str | None = key
    while rest and isinstance(content, Mapping):
        inner = [k for k in content if isinstance(k, str) and isinstance(content[k], Mapping)]
        steps = [k for k in inner if rest == k or rest.startswith((f"{k}.", f"{k}/"))]
        if not steps:
            break
        step = max(steps, key=len)
        content, rest = content[step], rest[len(step) + 1 :] or None
    return content, rest
