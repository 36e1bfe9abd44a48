"""The exception of this package."""

from jaxparc.errors import InputError


class WeightsError(InputError):
    """Weights that cannot be read or do not fit the network."""
