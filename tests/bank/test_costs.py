"""What a model costs."""

import jax
import numpy as np
import pytest

from jaxparc import models
from jaxparc.bank import facts
from jaxparc.bank.toml_file import Entry


# torchvision's and the published numbers of parameters, and the last layer's
@pytest.mark.parametrize(
    ("architecture", "published", "head"),
    [
        ("resnet18", 11_689_512, 512 * 1000 + 1000),
        ("resnet50", 25_557_032, 2048 * 1000 + 1000),
        ("mobilenet_v2", 3_504_872, 1280 * 1000 + 1000),
        ("squeezenet1_1", 1_235_496, 512 * 1000 + 1000),
        ("alexnet", 61_100_840, 4096 * 1000 + 1000),
    ],
)
def test_parameters_are_those_published_without_the_head(architecture, published, head, tmp_path):
    assert facts.parameters(Entry("a", architecture, tmp_path / "w")) == published - head


def test_parameters_of_variables_leave_out_the_head():
    module = models.get("resnet18").module(num_classes=5, width=0.0625)
    variables = module.init(jax.random.key(0), np.zeros((1, 32, 32, 3)), train=False, mask=None)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert facts.count_parameters(variables) == count - 32 * 5 - 5


def test_a_stopwatch_leaves_out_the_first_call(monkeypatch):
    clock = iter([10.0, 30.0])  # at the second call, and at the end
    monkeypatch.setattr(facts.time, "perf_counter", lambda: next(clock))
    watch = facts.Stopwatch(lambda batch: 2 * batch)
    assert watch(1) == 2
    assert watch.rate(100) is None
    assert [watch(2), watch(3)] == [4, 6]
    assert watch.rate(100) == 5


def test_facts_are_known_as_far_as_they_are(tmp_path):
    entry = Entry("a", "resnet18", tmp_path / "w", licence="MIT")
    found = facts.facts_of(entry, tmp_path, "x")
    assert found == (11_176_512, None, None, "MIT", None)
    entry.weights.write_bytes(bytes(2500))
    facts.write(tmp_path, "a", "x", {"images_per_second": 3.5, "parameters": 9})
    assert facts.facts_of(entry, tmp_path, "x") == (9, 3.5, 0.0025, "MIT", None)
    assert facts.facts_of(entry, tmp_path, "y") == (11_176_512, None, 0.0025, "MIT", None)
