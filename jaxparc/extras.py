"""Which extra installs a package that is missing.

The extras of networks of other libraries are named where these are imported: `bank.kinds`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

EXTRAS = MappingProxyType(
    {
        "flax": "bank",
        "PIL": "bank",
        "safetensors": "bank",
        "optax": "train",
        "orbax": "train",
        "grain": "train",
        "tensorflow_datasets": "train",
        "importlib_resources": "train",
    }
)
_DISTRIBUTIONS = {"PIL": "pillow", "orbax": "orbax-checkpoint"}


class MissingPackageError(ModuleNotFoundError):
    """A package is not installed; the message says which extra installs it."""


@contextmanager
def advising(extra: str | None = None) -> Iterator[None]:
    """Say what to install where a package is missing; also a decorator.

    Args:
        extra: the extra that installs all that is used in this context; None for that of the
            package alone.

    Raises:
        MissingPackageError: instead of a ModuleNotFoundError that an extra would mend.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (advice := advice_for(error, extra)) is None:
            raise
        raise MissingPackageError(advice, name=error.name) from error


def advice_for(error: BaseException, extra: str | None = None) -> str | None:
    """Return a line that says what to install; None if no extra would mend this error.

    Args:
        error: any exception.
        extra: see `advising`.
    """
    if not isinstance(error, ModuleNotFoundError):
        return None
    package = (error.name or "").removesuffix(".checkpoint")  # orbax is but a namespace
    if package not in EXTRAS:  # or a module of another version of it
        return None
    distribution = _DISTRIBUTIONS.get(package, package.replace("_", "-"))
    return missing(distribution, extra or EXTRAS[package])


def missing(distribution: str, extra: str, reason: str = "is not installed") -> str:
    """Return the message about a package that cannot be used."""
    return f'{distribution} {reason}: pip install "jaxparc[{extra}]"'
