"""Vision transformers train on several devices; with few blocks, to be quick."""

import numpy as np
import pytest
from learnable import SIZE, source_of

from jaxparc import models, parallel
from jaxparc.models import vit
from jaxparc.training import loop, steps
from jaxparc.training.steps import Recipe, Task


@pytest.mark.parametrize(
    "architecture",
    [
        vit.Architecture(16, 1, depth=2, registers=2, layer_scale=True, pre_norm=True),
        vit.Architecture(16, 1, depth=2, class_token=False),
    ],
    ids=["token", "pool"],
)
def test_ten_steps(architecture, monkeypatch):
    monkeypatch.setitem(vit.ARCHITECTURES, "few blocks", architecture)
    module = models.VisionTransformer(
        "few blocks", num_classes=5, stem="small", axis_name=parallel.AXIS, dropout_rate=0.1
    )
    task = Task(module, (0.5,) * 3, (0.25,) * 3)
    start = steps.initial(task.module, SIZE, 0)
    recipe = Recipe(steps=10, batch_size=32, learning_rate=0.03, warmup=0.2)
    _, losses = loop.fit(task, start, source_of(), recipe, size=SIZE)
    assert np.isfinite(losses).all()
    assert losses[-3:].mean() < 0.9 * losses[:3].mean()
