"""Published weights for the networks of `jaxparc.models`: readers of files, and naming schemes.

A scheme is a pure function from a mapping of names to arrays into Flax variables, and accounts for
every name: one that it cannot explain, misses, or finds in another shape is a `WeightsError`.
"""

from jaxparc.errors import InputError


class WeightsError(InputError):
    """Weights that do not fit the network."""
