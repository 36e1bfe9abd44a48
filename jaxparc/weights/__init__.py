"""Published weights for the networks of `jaxparc.models`: readers of files, and naming schemes.

    loaded = weights.load("resnet50", "resnet50.pth")
    logits, activations = loaded.module.apply(loaded.variables, images)

Weight files are parsed, never executed. A naming scheme is a pure function from a mapping of names
to arrays into Flax variables, and accounts for every name: one that it cannot explain, that is
missing, or that has an unexpected shape is a `WeightsError`.
"""

from jaxparc.weights.errors import WeightsError as WeightsError
from jaxparc.weights.loaded import Loaded as Loaded
from jaxparc.weights.loading import guess as guess
from jaxparc.weights.loading import load as load
from jaxparc.weights.reading import fingerprint as fingerprint
