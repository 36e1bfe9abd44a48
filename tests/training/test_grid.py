"""A grid of runs: the same results whatever the plan, as many at once as fit, measured."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxparc import backend, models, parallel
from jaxparc.training import decoding, feed, grid, loop, steps
from jaxparc.training.decoding import Decoded
from jaxparc.training.history import Steps
from jaxparc.training.program import Point
from jaxparc.training.steps import Recipe, Task

SIZE = 16
RECIPE = Recipe(steps=4, batch_size=16, learning_rate=0.02)
POINTS = [
    Point(dataclasses.replace(RECIPE, learning_rate=rate), seed=1) for rate in (0.005, 0.01, 0.02)
]


@pytest.fixture(scope="module")
def given():
    spec = models.get("alexnet")
    module = spec.module(
        num_classes=3, width=0.0625, stem="small", axis_name=parallel.AXIS, dropout_rate=0.0
    )
    task = Task(module, spec.mean, spec.std)
    rng = np.random.default_rng(0)
    side = decoding.resized(SIZE)
    source = Decoded(rng.integers(0, 256, (40, side, side, 3), np.uint8), [0, 1, 2, 1] * 10)
    return task, steps.initial(module, SIZE, 0), source


def groups(given, monkeypatch, *, expected=(0, 1, 2), **options):
    """The number of runs in each call of `fit_together`, and the losses that came out."""
    fit, sizes = loop.fit_together, []

    def count(task, variables, source, points, **rest):
        if rest.get("until") is None:
            sizes.append(len(points))
        return fit(task, variables, source, points, **rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "fit_together", count)
        ended = list(grid.fit_grid(*given, POINTS, size=SIZE, **options))
    assert [i for i, _ in ended] == list(expected)
    return sizes, [fitted.losses for _, fitted in ended]


@pytest.mark.slow
def test_the_plans_give_the_same_losses(given, monkeypatch):
    apart, expected = groups(given, monkeypatch, plan="apart")
    together, found = groups(given, monkeypatch, plan="together")
    with monkeypatch.context() as patch:
        patch.setattr(backend, "choices", lambda: backend.CPU)
        auto, again = groups(given, monkeypatch)
    assert (apart, together, auto) == ([1, 1, 1], [3], [1, 1, 1])
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
    task, variables, _ = given
    shape = {"batch_size": 16, "size": SIZE}
    assert grid.runs_that_fit(task, variables, **shape) > 1000  # a CPU does not say what it holds
    each = grid.peak_bytes(task, variables, **shape)
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(variables))
    assert each > 2 * weights  # parameters and momentum at least
    rows = 16 // jax.local_device_count()  # of a device
    ahead = 3 * backend.choices().steps_per_call * rows * SIZE * SIZE * 3  # 3 calls

    def memory(runs):
        """Of which 0.9 is for training, and an eighth is for resident splits."""
        monkeypatch.setattr(parallel, "memory", lambda: int((runs * each + ahead) / (0.9 - 1 / 8)))

    memory(2.5)
    assert grid.runs_that_fit(task, variables, **shape) == 2
    assert groups(given, monkeypatch, plan="together")[0] == [2, 1]
    memory(0.5)
    assert grid.runs_that_fit(task, variables, **shape) == 1


@pytest.mark.slow
def test_runs_in_one_program_take_no_more_memory_than_apart(given):
    """What `runs_that_fit` counts on."""
    task, variables, _ = given
    shape = {"batch_size": 16, "size": SIZE}
    one, three = (grid.peak_bytes(task, variables, runs=runs, **shape) for runs in (1, 3))
    assert 2 * one < three <= 3.1 * one


def test_resident_splits_share_one_budget(given, monkeypatch):
    """However many splits come by, they never take more than the grid leaves them."""
    *_, source = given
    each = source.images.nbytes + 4 * len(source)
    monkeypatch.setattr(parallel, "memory", lambda: 8 * int(2.5 * each))
    assert feed.budget() == int(2.5 * each)
    monkeypatch.setattr(feed, "_resident", {})
    splits = [Decoded(source.images, source.labels) for _ in range(4)]
    for split in splits:
        assert feed.resident(split, None)["images"].nbytes == source.images.nbytes
        assert feed.resident_bytes() <= feed.budget()
    placed = feed.resident(splits[2], None)
    assert feed.resident(splits[0], None) is not None  # in the place of 3, used longest ago
    assert feed.resident(splits[2], None) is placed
    assert feed.resident_bytes() == 2 * each
    # one that can never fit drives out no other
    large = np.concatenate([source.images] * 3)
    assert feed.resident(Decoded(large, source.labels * 3), None) is None
    assert feed.resident(splits[2], None) is placed


@pytest.mark.parametrize(("together", "expected"), [(2.9, True), (3.1, False)])
def test_the_faster_plan_is_found_by_measuring(together, expected):
    """A fit whose calls take a second alone, and `together` seconds for three."""
    now = [0.0]

    def fit(points, *, watch, until):
        for first in range(0, until, 10):
            compiling = 100.0 if first == 0 else 0.0
            now[0] += compiling + (1.0 if len(points) == 1 else together)
            watch(Steps(first, {}, 0, 0.0))

    assert grid.vmapped_is_faster(fit, POINTS, clock=lambda: now[0]) == expected


def test_what_is_too_short_to_be_measured_is_run_apart():
    def fit(points, *, watch, until):
        watch(Steps(0, {}, 0, 0.0))

    assert grid.vmapped_is_faster(fit, POINTS) is False


def measured_as(monkeypatch, faster):
    """An accelerator, by pretence, where the plans are measured so; returns the measurements."""
    measured = []

    def measure(fit, points):
        measured.append(len(points))
        return faster

    monkeypatch.setattr(backend, "choices", lambda: backend.ACCELERATOR)
    monkeypatch.setattr(grid, "vmapped_is_faster", measure)
    monkeypatch.setattr(grid, "_VMAPPED_IS_FASTER", {})
    return measured


@pytest.mark.slow
def test_elsewhere_than_on_a_cpu_the_plan_is_measured_once(given, monkeypatch):
    measured = measured_as(monkeypatch, faster=True)
    for _ in range(2):
        assert groups(given, monkeypatch, per_call=2)[0] == [3]
    assert measured == [3]


def test_an_unknown_plan_is_refused(given):
    with pytest.raises(ValueError, match="unknown plan 'all'; known: auto, apart, together"):
        list(grid.fit_grid(*given, POINTS, size=SIZE, plan="all"))


# The plan of an interrupted grid


@pytest.mark.slow
@pytest.mark.parametrize(("faster", "runs"), [(True, 3), (False, 1)])
def test_a_resumed_grid_keeps_the_plan_that_it_chose(faster, runs, given, tmp_path, monkeypatch):
    """Also if it would now be measured the other way round."""
    measured_as(monkeypatch, faster)
    options = {"size": SIZE, "per_call": 1}
    expected = dict(grid.fit_grid(*given, POINTS, **options))

    def stop(number, done):
        if done.first == 1:
            raise KeyboardInterrupt

    options["partial"] = tmp_path / "partial"
    with pytest.raises(KeyboardInterrupt):
        list(grid.fit_grid(*given, POINTS, watch=stop, **options))
    measured = measured_as(monkeypatch, not faster)
    made = []
    found = dict(
        grid.fit_grid(*given, POINTS, watch=lambda _, done: made.append(done.images), **options)
    )
    assert measured == []
    assert made[0] == 0  # it resumed
    for i, fitted in found.items():
        assert fitted.runs_at_once == expected[i].runs_at_once == runs
        np.testing.assert_array_equal(fitted.losses, expected[i].losses)
        jax.tree.map(np.testing.assert_array_equal, fitted.variables, expected[i].variables)


def test_a_recorded_plan_of_another_grid_or_a_damaged_one_is_ignored(tmp_path):
    grid._record(tmp_path, {"plan": "auto", "points": 3}, 2)
    assert grid._recorded(tmp_path, {"plan": "auto", "points": 3}) == 2
    assert grid._recorded(tmp_path, {"plan": "together", "points": 3}) is None
    assert grid._recorded(tmp_path, {"plan": "auto", "points": 2}) is None
    path = tmp_path / grid.PLAN_FILE
    path.write_text(path.read_text()[:-9])
    assert grid._recorded(tmp_path, {"plan": "auto", "points": 3}) is None
    assert grid._recorded(tmp_path / "nothing", {}) is None
    assert grid._recorded(None, {}) is None


def test_points_that_are_done_are_trained_only_beside_others(given, monkeypatch):
    together, (first, last) = groups(
        given, monkeypatch, plan="together", runs_at_once=2, done={1}, expected=(0, 2)
    )
    assert together == [2, 1]
    whole = groups(given, monkeypatch, plan="together", runs_at_once=2)[1]
    np.testing.assert_array_equal((first, last), (whole[0], whole[2]))
    assert groups(given, monkeypatch, plan="apart", done={0, 1}, expected=[2])[0] == [1]
    assert groups(given, monkeypatch, runs_at_once=2, done={0, 1}, expected=[2])[0] == [1]


def test_runs_at_once_below_one_is_refused(given):
    with pytest.raises(ValueError, match="runs_at_once is 0; expected at least 1"):
        list(grid.fit_grid(*given, POINTS, size=SIZE, runs_at_once=0))
