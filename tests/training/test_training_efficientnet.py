"""Fused blocks, squeeze-and-excitation and the neck of MobileNetV3 train on several devices."""

import flax.linen as nn
import numpy as np
import pytest
from learnable import SIZE, source_of

from jaxparc import models, parallel
from jaxparc.models import mobilenet
from jaxparc.models.inverted_residuals import Stage
from jaxparc.training import loop, steps
from jaxparc.training.steps import Recipe, Task

FEW_STAGES = mobilenet.ARCHITECTURES["mobilenetv3_small_100"]._replace(
    stages=(
        Stage(1, 16, 1, 1, fused=True),
        Stage(4, 24, 1, 2, fused=True),
        Stage(3, 24, 1, 1, 5, squeezed=True, activation=nn.relu),
    ),
    last=96,
)


@pytest.mark.slow
def test_ten_steps(monkeypatch):
    monkeypatch.setitem(mobilenet.ARCHITECTURES, "few stages", FEW_STAGES)
    fields = {"num_classes": 5, "width": 0.5, "stem": "small", "axis_name": parallel.AXIS}
    task = Task(models.MobileNet("few stages", **fields), (0.5,) * 3, (0.25,) * 3)
    start = steps.initial(task.module, SIZE, 0)
    recipe = Recipe(steps=10, batch_size=32, learning_rate=0.1, warmup=0.2)
    _, losses = loop.fit(task, start, source_of(), recipe, size=SIZE)
    assert np.isfinite(losses).all()
    assert losses[-3:].mean() < 0.9 * losses[:3].mean()
