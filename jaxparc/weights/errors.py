"""The exception of this package."""


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit the network."""
