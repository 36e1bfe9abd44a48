"""Choosing a learning rate on validation images."""

import math

import jax
import numpy as np
import pytest
from learnable import SIZE, source_of, task_of

from jaxparc.training import halving, loop, steps
from jaxparc.training.history import Steps
from jaxparc.training.loop import DivergedError, Fitted
from jaxparc.training.steps import Recipe

RECIPE = Recipe(steps=16, batch_size=32, learning_rate=0.0)


@pytest.mark.parametrize(("rates", "total"), [(1, 100), (2, 125), (3, 175), (4, 200)])
def test_total_steps(rates, total):
    assert halving.total_steps(rates, 100) == total


def test_the_better_half_is_rounded_up_and_keeps_its_order():
    assert halving.better_half({"a": 1.0, "b": 3.0, "c": 2.0}) == ["b", "c"]
    assert halving.better_half({"a": 1.0, "b": 1.0}) == ["a"]
    assert halving.better_half({"a": -math.inf}) == ["a"]


def made_up(monkeypatch, accuracy, diverges=lambda rate, until: False):
    """Trainings that take no time; returns a list of (rate, until), one for each."""
    trained = []

    def fit_together(task, variables, source, points, *, until, watch, **options):
        (point,) = points
        trained.append((point.recipe.learning_rate, until))
        if watch is not None:
            watch(Steps(0, {"loss": np.zeros((1, until or 16))}, 1, 1.0))
        diverged = 3 if diverges(*trained[-1]) else None
        return [Fitted(trained[-1], np.zeros(until or 16), diverged, 1.0)]

    monkeypatch.setattr(loop, "fit_together", fit_together)
    monkeypatch.setattr(loop, "accuracy", lambda task, fitted, *args, **options: accuracy(*fitted))
    return trained


def search(partial, rates=(0.003, 0.01, 0.03), **options):
    return halving.search(None, {}, [0], [0], RECIPE, rates, size=SIZE, partial=partial, **options)


def test_the_worse_half_is_stopped_at_a_quarter_and_at_half(tmp_path, monkeypatch):
    trained = made_up(monkeypatch, lambda rate, until: 1000 * rate + (until or 16))
    seen = []
    chosen = search(
        tmp_path / "p",
        report=seen.append,
        watch=lambda rate, done: seen.append(rate),
    )
    assert trained == [(0.003, 4), (0.01, 4), (0.03, 4), (0.01, 8), (0.03, 8), (0.03, None)]
    assert chosen.learning_rate == 0.03
    assert chosen.variables == (0.03, None)
    assert chosen.tried == ((0.003, 4, 7.0), (0.01, 8, 18.0), (0.03, 16, 46.0))
    assert seen[:2] == [0.003, chosen.tried[0]]
    assert seen[-1] == chosen.tried[-1]


def test_a_resumed_search_measures_nothing_twice(tmp_path, monkeypatch):
    def accuracy(rate, until):
        if rate == 0.03 and until == 4 and not resumed:
            raise KeyboardInterrupt
        return 1000 * rate

    resumed = False
    trained = made_up(monkeypatch, accuracy)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "p")
    trained.clear()
    resumed = True
    assert search(tmp_path / "p").learning_rate == 0.03
    assert trained == [(0.03, 4), (0.01, 8), (0.03, 8), (0.03, None)]
    # a damaged record costs time alone
    (tmp_path / "p" / halving.RECORD).write_text("{")
    assert search(tmp_path / "p").learning_rate == 0.03


def test_diverged_rates_are_hopeless_and_no_failure(tmp_path, monkeypatch):
    trained = made_up(monkeypatch, lambda rate, until: 50.0, lambda rate, until: rate > 0.005)
    chosen = search(tmp_path / "a")
    assert chosen.learning_rate == 0.003
    assert chosen.tried == ((0.003, 16, 50.0), (0.01, 4, None), (0.03, 4, None))
    assert trained[3:] == [(0.003, None)]
    # the last one diverges late: the next best takes its place
    made_up(
        monkeypatch,
        lambda rate, until: 1000 * rate,
        lambda rate, until: (rate, until) == (0.03, None),
    )
    assert search(tmp_path / "b").learning_rate == 0.01
    made_up(monkeypatch, lambda rate, until: 0.0, lambda rate, until: True)
    with pytest.raises(DivergedError, match=r"any learning rate of 0.003, 0.01, 0.03; expected"):
        search(tmp_path / "c")


def test_trainings_too_short_for_rungs_take_the_first_rate(tmp_path, monkeypatch):
    trained = made_up(monkeypatch, lambda rate, until: 1.0)
    recipe = Recipe(steps=1, batch_size=32, learning_rate=0.0)
    chosen = halving.search(
        None, {}, [0], [0], recipe, (0.1, 0.2), size=SIZE, partial=tmp_path / "p"
    )
    assert (chosen.learning_rate, trained) == (0.1, [(0.1, None)])


@pytest.mark.slow
def test_the_chosen_training_is_that_of_the_rate_alone(tmp_path):
    task = task_of()
    start = steps.initial(task.module, SIZE, 0)
    source, validation = source_of(), source_of(40, seed=1)
    recipe = Recipe(steps=40, batch_size=32, learning_rate=0.0)
    chosen = halving.search(
        task, start, source, validation, recipe, (1e9, 0.1, 1e-6), size=SIZE, partial=tmp_path
    )
    assert chosen.learning_rate == 0.1
    assert chosen.tried[0].validation is None
    assert chosen.tried[1].validation > 60
    alone, _ = loop.fit(
        task, start, source, Recipe(steps=40, batch_size=32, learning_rate=0.1), size=SIZE
    )
    same = jax.tree.map(np.array_equal, chosen.variables, alone)
    assert all(jax.tree.leaves(same))
