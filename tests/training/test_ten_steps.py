"""Every family of networks trains on several devices: ten steps, and it has learnt."""

import numpy as np
import pytest
from learnable import SIZE, source_of, task_of

from jaxparc.training import loop, steps
from jaxparc.training.steps import Recipe


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("vgg11_bn", 0.05),
        pytest.param("densenet121", 0.1, marks=pytest.mark.slow),
        pytest.param("resnet18d", 0.1, marks=pytest.mark.slow),
        pytest.param("seresnet50", 0.1, marks=pytest.mark.slow),
        pytest.param("resnext50_32x4d", 0.1, marks=pytest.mark.slow),
    ],
)
def test_ten_steps(name, rate):
    task = task_of(name)
    start = steps.initial(task.module, SIZE, 0)
    recipe = Recipe(steps=10, batch_size=32, learning_rate=rate, warmup=0.2)
    _, losses = loop.fit(task, start, source_of(), recipe, size=SIZE)
    assert np.isfinite(losses).all()
    assert losses[-3:].mean() < 0.9 * losses[:3].mean()
