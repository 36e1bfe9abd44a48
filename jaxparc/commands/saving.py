"""Write the weights that a command computes, without losing them if the destination fails."""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from jaxparc.errors import OperationError
from jaxparc.weights import native


def require_writable(path: Path) -> None:
    """Check that a file can be written, before its content is computed.

    Raises:
        OperationError: the file cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            kind = "a folder" if path.is_dir() else "not a regular file"
            raise OperationError(f"cannot write {path}: it is {kind}")
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        trial = folder / f".{path.name}.{os.getpid()}.incomplete"
        try:
            trial.write_bytes(bytes(4096))
        finally:
            trial.unlink(missing_ok=True)
    except OSError as error:
        raise OperationError(f"cannot write {path}: {error.strerror}") from error


def save(loaded: Any, path: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write weights; if that fails, write them elsewhere rather than lose them.

    Args:
        loaded: the network and its weights, as `native.save` takes them.
        path: path of the file.
        about: as `native.save` takes it.

    Raises:
        OperationError: the weights could not be written to `path`; the message says where they
            were written instead, if anywhere.
    """
    failure = _write(loaded, path, about)
    if failure is None:
        return
    tried = []
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        other = folder / f"{path.stem[:100]}-{os.getpid()}{path.suffix}"
        if _write(loaded, other, about) is None:
            raise OperationError(f"cannot write {path}: {failure}; the weights are in {other}")
        tried.append(str(folder))
    raise OperationError(f"cannot write {path}: {failure}; nor in {' or '.join(tried)}")


def _write(loaded: Any, path: Path, about: Mapping[str, Any] | None) -> str | None:
    """Write weights; return why that failed, or None if it succeeded."""
    try:
        native.save(loaded, path, about)
    except SafetensorError as error:  # its text contains the system's error code
        code = re.search(r"(?:os error|Os { code:) (\d+)", str(error))
        return os.strerror(int(code[1])) if code else str(error)
    except OSError as error:
        return error.strerror
    return None
