"""One process of several that train together; `test_distributed` runs it, and compares."""

import sys

import jax
import numpy as np

from jaxparc import models, parallel
from jaxparc.training import decoding, loop, steps
from jaxparc.training.decoding import Decoded
from jaxparc.training.steps import Recipe, Task

SIZE = 16
RECIPE = Recipe(steps=6, batch_size=16, learning_rate=0.05)


def trained(resident):
    """Losses, accuracy and a sum of the weights of a small network with batch norm."""
    spec = models.get("resnet18")
    module = spec.module(num_classes=3, width=0.0625, stem="small", axis_name=parallel.AXIS)
    task = Task(module, spec.mean, spec.std)
    rng = np.random.default_rng(0)
    side = decoding.resized(SIZE)
    # 40 = 2 x 16 + 8: half of the third batch is padding
    source = Decoded(rng.integers(0, 256, (40, side, side, 3), np.uint8), [0, 1, 2, 1] * 10)
    if not resident:
        source = [source[i] for i in range(40)]
    variables, losses = loop.fit(
        task,
        steps.initial(module, SIZE, 0),
        source,
        RECIPE,
        size=SIZE,
        mirror=True,
        seed=1,
    )
    accuracy = loop.accuracy(task, variables, source, size=SIZE, batch_size=16)
    weights = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(jax.device_get(variables)))
    return losses, accuracy, weights


if __name__ == "__main__":
    address, process, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    jax.config.update("jax_num_cpu_devices", 2)
    parallel.initialize(address, 2, process)
    assert (jax.local_device_count(), jax.device_count()) == (2, 4)
    for resident in (True, False):
        losses, accuracy, weights = trained(resident)
        np.savez(
            f"{out}/{process}_{resident}.npz", losses=losses, accuracy=accuracy, weights=weights
        )
