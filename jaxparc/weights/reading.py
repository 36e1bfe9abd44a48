"""Checkpoints as a flat mapping of names to NumPy arrays, wherever the weights are nested in them.

`weights.formats` reads the files.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparc import files
from jaxparc.weights import formats
from jaxparc.weights.errors import WeightsError
from jaxparc.weights.stand_ins import Inert

# Keys under which training scripts put the weights in a checkpoint, the likelier first: trained
# weights before their moving average, and, of a distillation, the teacher before the student.
WEIGHT_KEYS = (
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

# Metadata from outside of the weights; in a checkpoint, these names may mean anything.
_RESERVED = (formats.KEY, "config", "transformers", "mean", "std", "geometry", "classes", "width")


class Checkpoint(NamedTuple):
    """The content of a weight file.

    Attributes:
        path: of the file, also where a folder was given.
        arrays: by their names in the file, with their stored dtypes.
        metadata: strings and numbers beside the weights, the innermost taking precedence.
        left_out: names of arrays, other weights and objects beside these weights.
        notes: which of several weights were taken.
    """

    path: Path
    arrays: dict[str, np.ndarray]
    metadata: dict[str, Any]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read(path: str | Path, weights_key: str | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of `checkpoint`."""
    return checkpoint(path, weights_key).arrays


def checkpoint(path: str | Path, weights_key: str | None = None) -> Checkpoint:
    """Read a weight file.

    Args:
        path: of the file, of an index of shards, or of a folder with one of `formats.HUB_FILES`.
        weights_key: the key of the weights in the file, such as "state_dict_ema", or the prefix of
            their names, such as "module.teacher"; by default the first of `WEIGHT_KEYS` that
            exists, repeatedly down to the innermost mapping.

    Raises:
        WeightsError: the format is unknown, or the file is damaged, holds no weights, or declares
            more memory than its size allows; the message names the file.
        OSError: it cannot be read.
    """
    path = formats.resolve(Path(path))
    with _errors_of(path):
        held, metadata = formats.content(path)
        return _weights(path, held, metadata, weights_key)


def fingerprint(path: str | Path) -> str:
    """Return a hash of all files that `checkpoint` reads: an index's shards and config.json too.

    Raises:
        WeightsError: it is not a regular file, or an index that cannot be read.
        OSError: it cannot be read.
    """
    path = formats.resolve(Path(path))
    with _errors_of(path):
        digests = {}
        for part in formats.files_of(path):
            digests[part.name] = files.sha256(part)
    return files.digest(digests)


@contextlib.contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turn whatever libraries raise on damaged files into a `WeightsError` that names the file."""
    try:
        yield
    except WeightsError as error:
        text = str(error)
        raise WeightsError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    except Exception as error:  # each library raises its own kinds on broken bytes
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise WeightsError(f"{path} cannot be read: {error}") from error


def _flat(key: str, item: Any) -> list[tuple[str, Any]]:
    """Return an item with its name, or those of a list (a kernel and a bias) with their indices."""
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
            if name in found:  # such as of the keys 1 and "1"
                raise WeightsError(f"duplicate array {name}")
            found[name] = value
    return found


def _weights(path: Path, content: Any, metadata: dict[str, Any], key: str | None) -> Checkpoint:
    """Return the arrays of a checkpoint, wherever they are nested in its content."""
    left_out: list[str] = []
    notes: list[str] = []
    content, prefix = (content, None) if key is None else _descend(content, key)
    seen: list[int] = []
    while True:
        if not isinstance(content, Mapping):
            what = content.name if isinstance(content, Inert) else type(content).__name__
            raise WeightsError(f"{path} holds a {what}; expected arrays by name")
        if id(content) in seen:
            raise WeightsError(f"{path} holds a mapping that contains itself")
        seen.append(id(content))
        arrays = _arrays_of(content)
        metadata |= {
            k: v
            for k, v in content.items()
            if isinstance(v, str | int | float) and k not in _RESERVED
        }
        nested = [k for k in WEIGHT_KEYS if isinstance(content.get(k), Mapping)]
        full = [k for k in nested if _holds_arrays(content[k])]
        if not full and (arrays or not nested):
            break
        taken = (full or nested)[0]
        others = [k for k in full if k != taken]
        if others:
            notes.append(
                f"{taken} was taken; the file also holds {', '.join(others)} (choose with "
                "weights_key)"
            )
        left_out += [str(k) for k, v in content.items() if k != taken and _is_reported(v)]
        content = content[taken]
    beside = [str(k) for k, v in content.items() if str(k) not in arrays and _is_reported(v)]
    if prefix:
        under = tuple(f"{prefix}{separator}" for separator in "./")
        beside += [name for name in arrays if not name.startswith(under)]
        arrays = {name: array for name, array in arrays.items() if name.startswith(under)}
    if not arrays:
        found = ", ".join(str(k)[:40] for k in [*content][:8]) or "nothing"
        where = "" if key is None else f" under {key!r}"
        inner = [str(k) for k, v in content.items() if isinstance(v, Mapping) and _holds_arrays(v)]
        hint = f"; choose with weights_key: {', '.join(inner[:8])}" if inner else ""
        raise WeightsError(f"{path} holds no arrays{where}, but {found}{hint}")
    return Checkpoint(path, arrays, metadata, (*left_out, *beside), tuple(notes))


def _is_reported(value: Any) -> bool:
    """Return whether something beside the weights is listed as left out."""
    return isinstance(value, Inert) or (not isinstance(value, list) and _holds_arrays(value))


def _holds_arrays(content: Any) -> bool:
    """Return whether a container holds arrays at any depth; each container is visited once."""
    waiting, seen = [content], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, np.ndarray):
            return True
        if isinstance(item, Mapping | list | tuple) and id(item) not in seen:
            seen.add(id(item))
            waiting += item.values() if isinstance(item, Mapping) else item
    return False


def _descend(content: Any, key: str) -> tuple[Any, str | None]:
    """Return what a key names in nested mappings, and the rest of the key: a prefix of names."""
    rest: str | None = key
    while rest and isinstance(content, Mapping):
        inner = [k for k in content if isinstance(k, str) and isinstance(content[k], Mapping)]
        steps = [k for k in inner if rest == k or rest.startswith((f"{k}.", f"{k}/"))]
        if not steps:
            break
        step = max(steps, key=len)
        content, rest = content[step], rest[len(step) + 1 :] or None
    return content, rest
