"""ConvNeXts and Swin transformers train on several devices; with few layers, to be quick."""

import numpy as np
import pytest
from learnable import SIZE, source_of

from jaxparc import parallel
from jaxparc.models import convnext, swin
from jaxparc.training import loop, steps
from jaxparc.training.steps import Recipe, Task


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "file", "module", "architecture"),
    [
        ("convnext", convnext, convnext.ConvNeXt, convnext.Architecture((1, 1, 1, 1), 32)),
        (
            "convnextv2",
            convnext,
            convnext.ConvNeXt,
            convnext.Architecture((1, 1, 1, 1), 32, v2=True, pointwise=True),
        ),
        # shifted windows of 3 on maps of 8x8, which are padded
        ("swin", swin, swin.Swin, swin.Architecture((2, 1, 1, 1), 1, 3)),
    ],
)
def test_ten_steps(name, file, module, architecture, monkeypatch):
    # programs are cached by the name
    monkeypatch.setitem(file.ARCHITECTURES, f"{name} of few layers", architecture)
    fields = {"num_classes": 5, "stem": "small", "axis_name": parallel.AXIS}
    task = Task(module(f"{name} of few layers", **fields), (0.5,) * 3, (0.25,) * 3)
    start = steps.initial(task.module, SIZE, 0)
    recipe = Recipe(steps=10, batch_size=32, learning_rate=0.1, warmup=0.2)
    _, losses = loop.fit(task, start, source_of(), recipe, size=SIZE)
    assert np.isfinite(losses).all()
    assert losses[-3:].mean() < 0.9 * losses[:3].mean()
