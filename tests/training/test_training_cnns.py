"""DenseNets, VGGs, RegNets and ResNet variants train on several devices, with few layers."""

import numpy as np
import pytest
from learnable import SIZE, source_of

from jaxparc import models, parallel
from jaxparc.models import densenet, regnet, resnet, vgg
from jaxparc.training import loop, steps
from jaxparc.training.steps import Recipe, Task

# ResNeXt-D with squeeze-and-excitation: all options at once
RESNET = resnet.Architecture(
    (1, 1, 1, 1), groups=32, group_channels=4, deep=True, squeeze_excite=True
)
REGNET = regnet.Architecture((1, 1, 1, 1), (64, 128, 256, 512), 16)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "module", "architecture", "rate"),
    [
        (densenet, models.DenseNet, densenet.Architecture((2, 2, 2, 2)), 0.1),
        (vgg, models.VGG, vgg.Architecture((1, 1, 1, 1, 1), batch_norm=True), 0.004),
        (resnet, models.ResNet, RESNET, 0.1),
        pytest.param(regnet, models.RegNet, REGNET, 0.1, marks=pytest.mark.slow),
    ],
    ids=["densenet", "vgg", "resnet", "regnet"],
)
def test_ten_steps(file, module, architecture, rate, monkeypatch):
    monkeypatch.setitem(file.ARCHITECTURES, "few layers", architecture)
    fields = {"num_classes": 5, "width": 0.125, "stem": "small", "axis_name": parallel.AXIS}
    task = Task(module("few layers", **fields), (0.5,) * 3, (0.25,) * 3)
    start = steps.initial(task.module, SIZE, 0)
    recipe = Recipe(steps=10, batch_size=32, learning_rate=rate, warmup=0.2)
    _, losses = loop.fit(task, start, source_of(), recipe, size=SIZE)
    assert np.isfinite(losses).all()
    assert losses[-3:].mean() < 0.9 * losses[:3].mean()
