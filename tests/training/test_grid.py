"""A grid of runs: the same results whatever the plan, as many at once as fit, measured."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxparc import models, parallel
from jaxparc.training import batches as input_
from jaxparc.training import feed, grid
from jaxparc.training import loop as fitting
from jaxparc.training import steps as train

SIZE = 16
RECIPE = train.Recipe(steps=4, batch_size=16, learning_rate=0.02)
POINTS = [
    fitting.Point(dataclasses.replace(RECIPE, learning_rate=rate), seed=1)
    for rate in (0.005, 0.01, 0.02)
]


@pytest.fixture(scope="module")
def given():
    spec = models.get("alexnet")
    module = spec.module(
        num_classes=3, width=0.0625, stem="small", axis_name=parallel.AXIS, dropout_rate=0.0
    )
    task = train.Task(module, spec.mean, spec.std)
    rng = np.random.default_rng(0)
    side = input_.resized(SIZE)
    source = input_.Decoded(rng.integers(0, 256, (40, side, side, 3), np.uint8), [0, 1, 2, 1] * 10)
    return task, train.initial(module, SIZE, 0), source


def groups(given, monkeypatch, **options):
    """How many runs each call of `fit_together` had, and what came out."""
    fit, sizes = fitting.fit_together, []

    def count(task, variables, source, points, **rest):
        if rest.get("until") is None:
            sizes.append(len(points))
        return fit(task, variables, source, points, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "fit_together", count)
        ended = list(grid.fit_grid(*given, POINTS, size=SIZE, **options))
    assert [i for i, _ in ended] == [0, 1, 2]
    return sizes, [fitted.losses for _, fitted in ended]


@pytest.mark.slow
def test_the_plans_give_the_same_losses(given, monkeypatch):
    apart, expected = groups(given, monkeypatch, plan="apart")
    together, found = groups(given, monkeypatch, plan="together")
    auto, again = groups(given, monkeypatch)
    assert (apart, together, auto) == ([1, 1, 1], [3], [1, 1, 1])  # auto, on a CPU
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(again, expected)


def test_everyone_is_told_of_their_own_run(given):
    told = {0: [], 1: [], 2: []}
    ended = grid.fit_grid(
        *given, POINTS, size=SIZE, plan="together", watch=lambda i, done: told[i].append(done)
    )
    for i, fitted in ended:
        losses = np.concatenate([done.metrics["loss"][0] for done in told[i]])
        np.testing.assert_array_equal(losses, fitted.losses)
        assert sum(done.images for done in told[i]) == 4 * 16
    # runs at once took the same time, which each is told as its own
    seconds = [[done.seconds for done in of_run] for of_run in told.values()]
    assert seconds[0] == seconds[1] == seconds[2]
    assert min(seconds[0]) > 0


def test_only_as_many_run_at_once_as_the_device_holds(given, monkeypatch):
    task, variables, source = given
    data = feed.resident(source, None)
    shape = {"batch_size": 16, "size": SIZE, "data": data}
    assert grid.room(task, variables, **shape) > 1000  # a CPU does not say what it holds
    monkeypatch.setattr(parallel, "memory", lambda: 1 << 40)
    many = grid.room(task, variables, **shape)
    each = 0.9 * (1 << 40) / many
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert each > 2 * weights  # parameters and momentum at least
    resident = sum(array.nbytes for array in data.values())
    monkeypatch.setattr(parallel, "memory", lambda: int((2.5 * each + resident) / 0.9))
    assert grid.room(task, variables, **shape) == 2
    assert groups(given, monkeypatch, plan="together")[0] == [2, 1]
    monkeypatch.setattr(parallel, "memory", lambda: 1000)
    assert grid.room(task, variables, **shape) == 1


@pytest.mark.parametrize(("together", "expected"), [(2.9, True), (3.1, False)])
def test_the_faster_plan_is_found_by_measuring(together, expected):
    """A fit whose calls take a second alone, and `together` seconds for three."""
    now = [0.0]

    def fit(points, *, watch, until):
        for first in range(0, until, 10):
            compiling = 100.0 if first == 0 else 0.0
            now[0] += compiling + (1.0 if len(points) == 1 else together)
            watch(fitting.Steps(first, {}, 0, 0.0))

    assert grid.pays(fit, POINTS, clock=lambda: now[0]) == expected


def test_what_is_too_short_to_be_measured_is_run_apart():
    def fit(points, *, watch, until):
        watch(fitting.Steps(0, {}, 0, 0.0))

    assert grid.pays(fit, POINTS) is False


@pytest.mark.slow
def test_elsewhere_than_on_a_cpu_the_plan_is_measured_once(given, monkeypatch):
    measured = []

    def pays(fit, points):
        measured.append(len(points))
        return True

    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    monkeypatch.setattr(grid, "pays", pays)
    monkeypatch.setattr(grid, "_PAYS", {})
    for _ in range(2):
        assert groups(given, monkeypatch, per_call=2)[0] == [3]
    assert measured == [3]


def test_an_unknown_plan_is_refused(given):
    with pytest.raises(ValueError, match="unknown plan 'all'; known: auto, apart, together"):
        list(grid.fit_grid(*given, POINTS, size=SIZE, plan="all"))
