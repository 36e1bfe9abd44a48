"""Packages that kinds of networks need, and code that users name."""

import importlib
import importlib.metadata
from typing import Any

from jaxparc import extras, printing
from jaxparc.errors import InputError


def required(package: str, extra: str) -> Any:
    """Import a package of an extra.

    Raises:
        InputError: it is not installed, or cannot be imported; the message says what to install.
    """
    try:
        return importlib.import_module(package)
    except Exception as error:  # a package that does not fit another one raises anything
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        reason = "is not installed" if missing else f"cannot be imported ({printing.line(error)})"
        raise InputError(extras.missing(package, extra, reason)) from None


def version(package: str) -> str:
    """Return the version of an installed package; "" if it has none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def called(address: str) -> Any:
    """Call the function of an address "package.module:function", and return what it returns.

    Raises:
        InputError: there is no such function, or it fails.
    """
    function = _function(address)
    try:
        return function()
    except Exception as error:  # whatever a user's function raises
        raise InputError(f"{address}() failed: {printing.line(error)}") from error


def source_of(address: str) -> dict[str, str]:
    """Return what identifies the function of an address: a hash of the file that defines it.

    Raises:
        InputError: there is no such function.
    """
    import hashlib
    import inspect

    function = inspect.unwrap(_function(address))
    try:
        path = inspect.getsourcefile(function)
        with open(path or "", "rb") as file:
            return {"function": address, "sha256": hashlib.sha256(file.read()).hexdigest()}
    except (TypeError, OSError):  # not of a file
        return {"function": address}


def _function(address: str) -> Any:
    module, colon, name = address.partition(":")
    if not (module and colon and name):
        raise InputError(f"{address!r} is no function; expected package.module:function")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # whatever a user's module raises
        raise InputError(
            f"{address}: {module} cannot be imported: {printing.line(error)}"
        ) from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise InputError(f"{address}: {module} has no function {name}")
    return found
