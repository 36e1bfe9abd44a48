"""The training loop: what it is fed, interrupted, watched, and run for a whole grid."""

import dataclasses
import functools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learnable import SIZE, batches_of, source_of, task_of, without_index

from jaxparc import backend, interrupts, parallel
from jaxparc.models import layers
from jaxparc.training import batches, feed, loop, steps
from jaxparc.training.batches import Order
from jaxparc.training.decoding import Decoded
from jaxparc.training.program import Point, Program
from jaxparc.training.steps import Rates, Recipe


@pytest.mark.slow
def test_every_device_holds_the_same_weights():
    """out_axes=None takes one device's result for all: a forgotten reduction shows here alone."""
    devices = jax.local_device_count()
    if devices == 1:
        pytest.skip("there is one device")
    task = task_of()
    variables, _ = loop.fit(
        task,
        steps.initial(task.module, SIZE, 0),
        source_of(),
        Recipe(steps=3, batch_size=32, learning_rate=0.1),
        size=SIZE,
    )
    for leaf in jax.tree.leaves(variables):
        shards = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(shards) == devices
        assert all(np.array_equal(shards[0], shard) for shard in shards)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    task = task_of("alexnet")  # dropout and all
    start = steps.initial(task.module, SIZE, 0)
    recipe = Recipe(steps=4, batch_size=32, learning_rate=0.02)

    def fit(seed):
        return loop.fit(task, start, source_of(), recipe, size=SIZE, seed=seed)

    (first, losses), (again, same), (other, _) = fit(1), fit(1), fit(2)
    np.testing.assert_array_equal(losses, same)
    assert all(jax.tree.leaves(jax.tree.map(np.array_equal, first, again)))
    assert not all(jax.tree.leaves(jax.tree.map(np.array_equal, first, other)))


def test_training_learns_and_reports_its_images():
    task = task_of()
    source, seen = source_of(), []
    recipe = Recipe(steps=40, batch_size=32, learning_rate=0.1)
    start = steps.initial(task.module, SIZE, 0)
    variables, losses = loop.fit(task, start, source, recipe, size=SIZE, watch=seen.append)
    assert losses.shape == (40,)
    assert losses[-5:].mean() < 0.5 * losses[:5].mean()
    assert loop.accuracy(task, variables, source, size=SIZE, batch_size=32) > 80
    per_call = backend.choices().steps_per_call
    calls = [(i, 32 * per_call) for i in range(0, 40, per_call)]
    assert [(done.first, done.images) for done in seen] == calls
    told = {k: np.concatenate([done.metrics[k] for done in seen], axis=1) for k in seen[0].metrics}
    np.testing.assert_array_equal(told["loss"], losses[None])
    np.testing.assert_array_equal(told["learning_rate"], recipe.learning_rates()[None])
    assert told["accuracy"][0, :5].mean() < 0.5 < told["accuracy"][0, -5:].mean() <= 1


def test_all_weights_move():
    """Full fine-tuning: nothing is frozen, neither by a stopped gradient nor by a mask."""
    task = task_of()
    start = steps.initial(task.module, SIZE, 0)
    recipe = Recipe(steps=3, batch_size=32, learning_rate=0.1)
    variables, _ = loop.fit(task, start, source_of(), recipe, size=SIZE)
    still = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), start, jax.device_get(variables))
    assert not any(jax.tree.leaves(still))


def test_accuracy_counts_every_image_once():
    """The tail of a test set counts as much as the rest: 70 images in batches of 32."""
    task = task_of()
    variables, source = steps.initial(task.module, SIZE, 0), source_of(70)
    batch = next(batches.batches(source, batch_size=70, size=SIZE, train=False))
    logits, _ = task.module.apply(
        variables, layers.normalise(jnp.asarray(batch["image"]), task.mean, task.std)
    )
    expected = 100 * np.mean(np.argmax(logits, axis=-1) == batch["label"])
    assert loop.accuracy(task, variables, source, size=SIZE, batch_size=32) == pytest.approx(
        expected
    )


def test_a_diverging_run_says_so():
    task = task_of()
    recipe = Recipe(steps=6, batch_size=32, learning_rate=1e20, warmup=0.0)
    with pytest.raises(loop.DivergedError, match="loss of step"):
        loop.fit(task, steps.initial(task.module, SIZE, 0), source_of(), recipe, size=SIZE)


@pytest.mark.slow
def test_multi_label_networks_train():
    task = task_of(num_classes=4)._replace(multi_label=True)
    source = source_of(64, num_classes=4)
    several = Decoded(source.images, [[label, (label + 1) % 4] for label in source.labels])
    start = steps.initial(task.module, SIZE, 0)
    recipe = Recipe(steps=40, batch_size=32, learning_rate=0.1)
    variables, losses = loop.fit(task, start, several, recipe, size=SIZE)
    assert losses[-5:].mean() < 0.6 * losses[0]
    assert loop.accuracy(task, variables, several, size=SIZE, batch_size=32) > 80


# Interrupted


RECIPE = Recipe(steps=6, batch_size=32, learning_rate=0.02)


@pytest.fixture(scope="module")
def uninterrupted():
    """AlexNet, with dropout: weights and losses of six steps, two epochs of three batches."""
    task = task_of("alexnet")
    start = steps.initial(task.module, SIZE, 0)
    weights, losses = loop.fit(task, start, source_of(), RECIPE, size=SIZE, seed=1)
    return task, start, weights, losses


def interrupted(task, start, partial, after, recipe=RECIPE, **options):
    """Trains until Ctrl-C, or SIGTERM, comes after some steps."""
    seen = []

    def count(done):
        seen.append(done)
        if len(seen) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.fit(
            task,
            start,
            source_of(),
            recipe,
            size=SIZE,
            seed=1,
            partial=partial,
            watch=count,
            **options,
        )


def assert_equal(found, expected):
    weights, losses = found
    jax.tree.map(np.testing.assert_array_equal, weights, expected[2])
    np.testing.assert_array_equal(losses, expected[3])


@pytest.mark.parametrize("after", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_an_interrupted_training_ends_as_if_it_had_not_been(after, uninterrupted, tmp_path):
    task, start, *_ = uninterrupted
    interrupted(task, start, tmp_path / "partial", after)
    made = []
    found = loop.fit(
        task,
        start,
        source_of(),
        RECIPE,
        size=SIZE,
        seed=1,
        partial=tmp_path / "partial",
        watch=made.append,
    )
    # what was done before is told at once; the step on its way when the interrupt came is done
    assert [(done.first, done.images) for done in made] == [
        (0, 0),
        *((i, 32) for i in range(after + 1, 6)),
    ]
    assert_equal(found, uninterrupted)


@pytest.mark.slow
def test_interrupted_twice_and_saved_on_the_way(uninterrupted, tmp_path):
    task, start, *_ = uninterrupted
    interrupted(task, start, tmp_path / "p", 2, every=0)
    interrupted(task, start, tmp_path / "p", 2, every=0)  # the first telling is of the past
    made = []
    options = {"size": SIZE, "seed": 1, "partial": tmp_path / "p", "watch": made.append}
    assert_equal(loop.fit(task, start, source_of(), RECIPE, **options), uninterrupted)
    assert [done.images for done in made] == [0] + [32] * (6 - made[0].metrics["loss"].shape[1])
    assert made[0].metrics["loss"].shape[1] == 3


@pytest.mark.slow
def test_a_state_of_another_run_or_a_damaged_one_is_not_taken(uninterrupted, tmp_path):
    task, start, *_ = uninterrupted
    other = Recipe(steps=6, batch_size=32, learning_rate=0.03)
    for recipe, spoil in ((other, False), (RECIPE, True)):
        partial = tmp_path / f"{spoil}"
        interrupted(task, start, partial, 2, recipe)
        if spoil:
            victim = max(
                (f for f in partial.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size
            )
            victim.write_bytes(victim.read_bytes()[:-7])
        made = []
        options = {"size": SIZE, "seed": 1, "partial": partial, "watch": made.append}
        assert_equal(loop.fit(task, start, source_of(), RECIPE, **options), uninterrupted)
        assert len(made) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_the_end_of_a_step(number):
    came = []
    before = signal.signal(number, lambda *_: came.append(number))
    try:
        with interrupts.Deferral() as deferral:
            with deferral.deferred():
                signal.raise_signal(number)
                assert not came
            assert came == [number]
            with deferral.deferred(False):
                signal.raise_signal(number)
                assert came == [number] * 2
        signal.raise_signal(number)
        assert came == [number] * 3
    finally:
        signal.signal(number, before)


def test_a_signal_during_a_step_that_raises_is_not_lost():
    def step():
        with interrupts.Deferral() as deferral, deferral.deferred():
            signal.raise_signal(signal.SIGINT)
            raise RuntimeError("the step failed")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            step()
        assert str(caught.value.__context__) == "the step failed"
        # a handler that raises nothing leaves the error as it is
        came = []
        signal.signal(signal.SIGINT, lambda *_: came.append(1))
        with pytest.raises(RuntimeError, match="the step failed"):
            step()
        assert came == [1]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("donated", [True, False])
def test_an_interrupt_during_a_step_that_raises_saves_what_is_whole(
    donated, uninterrupted, tmp_path, monkeypatch
):
    task, start, *_ = uninterrupted
    step = Program.__call__

    def failing(program, state, batches, first, count):
        if first < 2:
            return step(program, state, batches, first, count)
        if donated:
            jax.tree.map(lambda leaf: leaf.delete(), state)
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("out of memory")

    options = {"size": SIZE, "seed": 1, "partial": tmp_path / "p"}
    with monkeypatch.context() as patch:
        patch.setattr(Program, "__call__", failing)
        with pytest.raises(KeyboardInterrupt):
            loop.fit(task, start, source_of(), RECIPE, **options)
    assert (tmp_path / "p").exists() != donated
    made = []
    assert_equal(
        loop.fit(task, start, source_of(), RECIPE, watch=made.append, **options), uninterrupted
    )
    assert len(made) == (6 if donated else 5)


# How images and steps come


def records_of(source):
    return [source[i] for i in range(len(source))]


@pytest.mark.parametrize("mirror", [False, True])
def test_images_on_the_devices_are_those_of_the_host(mirror):
    """The same crops, bit for bit, whoever makes them; padded rows count nowhere."""
    source = source_of(41)
    options = {"batch_size": 16, "size": SIZE, "train": True, "mirror": mirror, "seed": 3}
    data = jax.tree.map(np.asarray, feed.resident(source, None))
    order = Order(41, **options)
    assert order.batches == 3
    take = jax.jit(functools.partial(feed.crops, SIZE))
    for number, expected in enumerate(batches.batches(source, **options, epochs=2)):
        taken = take(data, order(number))
        real = expected["mask"]
        np.testing.assert_array_equal(taken["mask"], real)
        for name in ("image", "label"):
            np.testing.assert_array_equal(taken[name][real], expected[name][real])
    assert number == 5


@pytest.mark.slow
def test_training_is_the_same_wherever_images_come_from_and_steps_go():
    task = task_of("alexnet")
    start = steps.initial(task.module, SIZE, 0)
    source = source_of()
    assert feed.resident(source, None) is not None
    _, expected = loop.fit(task, start, source, RECIPE, size=SIZE, seed=1, mirror=True)
    from_host = loop.fit(task, start, records_of(source), RECIPE, size=SIZE, seed=1, mirror=True)
    np.testing.assert_allclose(from_host[1], expected, rtol=1e-5)
    seen = []
    options = {"seed": 1, "mirror": True, "per_call": 4, "watch": seen.append}
    _, losses = loop.fit(task, start, source, RECIPE, size=SIZE, **options)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert [done.images for done in seen] == [128, 32, 32]


@pytest.mark.slow
def test_data_sets_of_all_sizes_share_one_program(monkeypatch):
    task = task_of("alexnet", num_classes=3)
    start = steps.initial(task.module, SIZE, 0)
    traced = []
    step = steps.train_step
    monkeypatch.setattr(steps, "train_step", lambda *given: (traced.append(1), step(*given))[1])
    for n in (40, 48, 72):
        source = source_of(n, num_classes=3)
        assert feed.resident(source, None) is not None
        loop.fit(task, start, source, RECIPE, size=SIZE)
    assert len(traced) == 1


def test_images_that_do_not_fit_stay_on_the_host(monkeypatch):
    source = source_of(seed=9)
    size = source.images.nbytes + 4 * len(source)
    monkeypatch.setattr(feed, "RESIDENT", size - 1)
    assert feed.resident(source, None) is None
    monkeypatch.setattr(feed, "RESIDENT", size)
    assert feed.resident(source, None)["images"].shape == source.images.shape


@pytest.mark.slow
def test_bfloat16_trains_as_float32_does_and_keeps_float32_weights():
    source = source_of()
    recipe = Recipe(steps=30, batch_size=32, learning_rate=0.05)
    ended = {}
    for dtype in (jnp.float32, jnp.bfloat16):
        task = task_of(dtype=dtype)
        start = steps.initial(task.module, SIZE, 0)
        variables, losses = loop.fit(task, start, source, recipe, size=SIZE)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
        ended[dtype] = losses
    assert not np.array_equal(*ended.values())
    np.testing.assert_allclose(ended[jnp.bfloat16][:5], ended[jnp.float32][:5], rtol=0.1)
    assert ended[jnp.bfloat16][-5:].mean() < 0.5 * ended[jnp.bfloat16][:5].mean()


@pytest.mark.slow
def test_batch_norm_per_device_counts_real_rows_alone():
    """Half of the devices have padding alone: as if they were not there."""
    devices = jax.local_device_count()
    if devices == 1:
        pytest.skip("there is one device")
    module = task_of().module.clone(axis_name=None)
    task = task_of()._replace(module=module)
    start = steps.initial(module, SIZE, 0)
    batch = without_index(batches_of(source_of(8), 16)[0])
    assert batch["mask"].tolist() == [True] * 8 + [False] * 8
    rates = Rates(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.float32))
    stack = jax.tree.map(lambda x: x[None], batch)
    state, _ = steps.compiled_train_runs(task)(
        parallel.replicate(Program(task, [Point(RECIPE)]).initial(start), copy=True),
        [parallel.shard(stack, axis=1)],
        rates,
        jax.random.key(0)[None],
    )
    shares = []
    for images in np.split(batch["image"][:8], devices // 2):
        normalised = layers.normalise(jnp.asarray(images), task.mean, task.std)
        _, updated = module.apply(start, normalised, train=True, mutable=["batch_stats"])
        shares.append(updated["batch_stats"])
    expected = jax.tree.map(lambda *s: jnp.mean(jnp.stack(s), axis=0, keepdims=True), *shares)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        dict(state.variables["batch_stats"]),
        dict(expected),
    )


# A grid


def points_of(**changes):
    """A base and what differs from it, one at a time."""
    points = [Point(RECIPE, seed=1)]
    for name, value in changes.items():
        if name == "seed":
            points.append(Point(RECIPE, seed=value))
        else:
            points.append(Point(dataclasses.replace(RECIPE, **{name: value}), seed=1))
    return points


@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.01, "weight_decay": 0.1},
        pytest.param({"seed": 5}, marks=pytest.mark.slow),
    ],
)
def test_a_grid_in_one_program_gives_what_separate_runs_give(changes):
    task = task_of("alexnet")
    start = steps.initial(task.module, SIZE, 0)
    points = points_of(**changes)
    together = loop.fit_together(task, start, source_of(), points, size=SIZE)
    assert len(together) == len(points)
    for point, fitted in zip(points, together, strict=True):
        variables, losses = loop.fit(
            task, start, source_of(), point.recipe, seed=point.seed, size=SIZE
        )
        np.testing.assert_allclose(fitted.losses, losses, rtol=2e-3, atol=1e-4)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), fitted.variables, variables
        )
    assert not np.allclose(together[0].losses, together[1].losses, rtol=1e-3)


@pytest.mark.slow
def test_of_a_grid_the_points_that_diverge_do_not_stop_the_others():
    task = task_of("alexnet")
    start = steps.initial(task.module, SIZE, 0)
    wild = dataclasses.replace(RECIPE, learning_rate=1e20)
    points = [Point(wild), Point(RECIPE)]
    lost, kept = loop.fit_together(task, start, source_of(), points, size=SIZE)
    assert lost.diverged is not None
    assert lost.diverged < 6
    assert kept.diverged is None
    assert len(kept.losses) == 6
    both = loop.fit_together(task, start, source_of(), [points[0]] * 2, size=SIZE)
    assert all(len(fitted.losses) < 6 for fitted in both)  # nothing is left to train


@pytest.mark.slow
def test_an_interrupted_grid_goes_on(tmp_path):
    task = task_of("alexnet")
    start = steps.initial(task.module, SIZE, 0)
    points = points_of(learning_rate=0.01)
    expected = loop.fit_together(task, start, source_of(), points, size=SIZE)

    def stop(done):
        if done.first == 2:
            raise KeyboardInterrupt

    options = {"size": SIZE, "partial": tmp_path / "p"}
    with pytest.raises(KeyboardInterrupt):
        loop.fit_together(task, start, source_of(), points, watch=stop, **options)
    made = []
    found = loop.fit_together(task, start, source_of(), points, watch=made.append, **options)
    assert made[0].images == 0
    assert made[0].metrics["loss"].shape == (2, 4)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.losses, b.losses)
        jax.tree.map(np.testing.assert_array_equal, a.variables, b.variables)


@pytest.mark.slow
def test_a_training_stops_where_it_is_told_to_and_goes_on_from_there(uninterrupted, tmp_path):
    task, start, *_ = uninterrupted
    options = {"size": SIZE, "seed": 1, "partial": tmp_path / "p"}
    _, losses = loop.fit(task, start, source_of(), RECIPE, until=2, **options)
    np.testing.assert_array_equal(losses, uninterrupted[3][:2])
    _, again = loop.fit(task, start, source_of(), RECIPE, until=2, **options)
    np.testing.assert_array_equal(again, losses)
    assert_equal(loop.fit(task, start, source_of(), RECIPE, **options), uninterrupted)


def test_points_of_different_lengths_are_refused():
    task = task_of("alexnet")
    points = [Point(RECIPE), Point(dataclasses.replace(RECIPE, steps=7))]
    with pytest.raises(
        ValueError,
        match=r"points of a grid have \(steps, batch size\) \[\(6, 32\), \(7, 32\)\]; expected one",
    ):
        loop.fit_together(task, {}, source_of(), points, size=SIZE)
