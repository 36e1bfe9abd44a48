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


def advice(error: BaseException | None) -> str | None:
    """Return a line that says what to install; None if no extra would mend this error."""
    package = (getattr(error, "name", None) or "").split(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package not in EXTRAS:
        return None
    distribution = _DISTRIBUTIONS.get(package, package.replace("_", "-"))
    return f'{distribution} is not installed: pip install "jaxparc[{EXTRAS[package]}]"'
