"""Weights on disk, in Orbax's format, with checksums.

Orbax silently restores some damaged files as wrong weights, and for others leaves threads behind
that fail later. A manifest therefore holds the SHA-256 of every file, which is verified before
Orbax reads them, and of every leaf, which is verified before any is returned:

    <checkpoint>/weights/        Orbax
    <checkpoint>/manifest.json   files; shape, dtype and SHA-256 of leaves; the caller's metadata

A checkpoint is written under a temporary name and renamed once it is complete.
"""

import contextlib
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxparc import files

MANIFEST = "manifest.json"


class CheckpointError(files.DamagedFileError):
    """A checkpoint is missing, damaged or was not written by `save`; the message has its path."""


def save(path: Path, variables: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Write a checkpoint; anything at `path` is replaced.

    Args:
        path: the checkpoint's folder.
        variables: nested dictionaries of arrays.
        metadata: JSON values, returned by `restore`.

    Raises:
        OSError: the checkpoint cannot be written, as on a full disk.
    """
    path = path.absolute()  # as Orbax requires
    temporary = path.with_name(f".{path.name}.incomplete")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    # Without a mesh, Orbax cannot save arrays that are replicated over several local devices.
    host = jax.tree.map(np.asarray, dict(variables))
    try:
        with _quiet(), ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(temporary / "weights", host)
            checkpointer.wait_until_finished()
    except Exception as error:
        # Orbax reports a full disk as a ValueError with the system's error code in its text.
        if code := re.search(r"os_error_code='(\d+)'", str(error)):
            number = int(code[1])
            raise OSError(number, os.strerror(number), str(path)) from error
        raise
    manifest = {
        "files": _files(temporary / "weights"),
        "leaves": _leaves(host),
        "metadata": dict(metadata),
    }
    files.write_sealed(temporary / MANIFEST, manifest)
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the tracebacks that Orbax logs from its threads, as it also raises the errors."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def restore(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint and verify every byte of it.

    Returns:
        The variables, as NumPy arrays on the host, and the metadata.

    Raises:
        CheckpointError: the checkpoint is missing, was not written by `save`, or is damaged.
    """
    path = path.absolute()
    manifest = _manifest(path)
    found = _files(path / "weights")
    for name in sorted({*found, *manifest["files"]}):
        if found.get(name) != manifest["files"].get(name):
            raise CheckpointError(
                f"checkpoint {path} is damaged: weights/{name} differs from {MANIFEST}"
            )
    shapes = _nested(
        {
            name: jax.ShapeDtypeStruct(tuple(leaf["shape"]), np.dtype(leaf["dtype"]))
            for name, leaf in manifest["leaves"].items()
        }
    )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(path / "weights", shapes)
    except Exception as error:  # Orbax raises many types, including Exception itself
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"checkpoint {path} cannot be read: {reason}") from error
    restored = jax.tree.map(np.asarray, restored)
    for name, leaf in _leaves(restored).items():
        if leaf != manifest["leaves"][name]:
            raise CheckpointError(f"checkpoint {path} is damaged: {name} differs from {MANIFEST}")
    return restored, manifest["metadata"]


def remove(path: Path) -> None:
    """Remove a checkpoint, if it exists."""
    shutil.rmtree(path, ignore_errors=True)


def metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of a checkpoint, without reading its weights.

    Raises:
        CheckpointError: the checkpoint is missing or was not written by `save`.
    """
    return _manifest(path.absolute())["metadata"]


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = files.read_sealed(path / MANIFEST)
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} is missing: it has no {MANIFEST}") from error
    except files.DamagedFileError as error:
        raise CheckpointError(f"checkpoint {path} is damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.keys() != {"files", "leaves", "metadata"}:
        raise CheckpointError(
            f"checkpoint {path} has a {MANIFEST} of another format; expected jaxparc's"
        )
    return manifest


def _files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below a folder, by relative path."""
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _leaves(tree: Any) -> dict[str, dict[str, Any]]:
    """Return shape, dtype and SHA-256 of every leaf, by path."""
    return {
        "/".join(key.key for key in path): {
            "shape": list(leaf.shape),
            "dtype": leaf.dtype.name,
            "sha256": hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest(),
        }
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree
