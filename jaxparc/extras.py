"""Which extra installs a package that is missing.

The extras of networks of other libraries are named where these are imported: `bank.kinds`.
"""

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


def advice(error: BaseException) -> str | None:
    """Return a line that says what to install; None if no extra would mend this error."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
        return None
    distribution = _DISTRIBUTIONS.get(package, package.replace("_", "-"))
    return f'{distribution} is not installed: pip install "jaxparc[{EXTRAS[package]}]"'
