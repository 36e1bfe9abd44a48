"""Training: against one device, against plain restatements, and over every kind of task."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learnable import SIZE, batches_of, source_of, task_of, without_index

from jaxparc import parallel
from jaxparc.models import layers
from jaxparc.training import steps
from jaxparc.training.steps import Rates, Recipe, Task


# JAX before 0.8 warns of arrays whose memory has no use, as there are fewer results.
@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_what_was_copied_outlives_what_is_donated():
    given = {"array": jnp.ones(3), "key": jax.random.key(1), "host": np.ones(3, np.float32)}
    held = parallel.replicate(given, copy=True)
    add = parallel.data_parallel(
        lambda tree, row: tree["array"] + jax.lax.psum(row.sum(), parallel.AXIS),
        (None, 0),
        donate=(0,),
    )
    devices = jax.local_device_count()
    rows = parallel.shard({"one": np.ones(devices, np.float32)})
    np.testing.assert_array_equal(add(held, rows["one"]), np.full(3, 1 + devices))
    assert held["array"].is_deleted()
    np.testing.assert_array_equal(given["array"], given["host"])
    assert jax.random.key_data(given["key"]).shape == (2,)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("resnet18", {}),
        ("alexnet", {"dropout_rate": 0.0}),
    ],
)
@pytest.mark.slow
def test_several_devices_give_the_losses_of_one(name, fields):
    if jax.local_device_count() == 1:
        pytest.skip("there is one device")
    task = task_of(name, **fields)
    state = steps.new_state(task, steps.initial(task.module, SIZE, 0))
    # 72 = 2 x 32 + 8: in the third batch most devices have padding alone
    batches = [*batches_of(source_of(), 32), *batches_of(source_of(seed=1), 32)][:5]
    assert sum(not batch["mask"].all() for batch in batches) == 1
    key = jax.random.key(0)
    learning = Recipe(steps=100, batch_size=32, learning_rate=0.1).learning_rates()

    one = jax.jit(
        jax.vmap(
            functools.partial(steps.train_step, task),
            in_axes=(None, 0, None, None),
            out_axes=None,
            axis_name=parallel.AXIS,
        )
    )
    several = steps.compiled_train_runs(task)
    for rate, batch in zip(learning, map(without_index, batches), strict=False):
        rates = Rates(rate, np.float32(1e-4))
        stack, stacked_rates = jax.tree.map(lambda x: x[None], (batch, rates))
        grid_of_one = jax.tree.map(lambda x: np.asarray(x)[None], (state, stacked_rates))
        # every step from one state: rounding grows a thousandfold per step in GoogLeNet
        of_all = parallel.replicate(grid_of_one[0], copy=True)
        of_all, told_by_all = several(
            of_all, [parallel.shard(stack, axis=1)], grid_of_one[1], key[None]
        )
        of_all = jax.tree.map(lambda x: np.asarray(x)[0], of_all)
        of_one, told = one(state, stack, rates, key)
        for name in ("loss", "accuracy"):
            np.testing.assert_allclose(told_by_all[name], [[told[name]]], rtol=0, atol=1e-5)
        before, of_one, of_all = jax.device_get((state, of_one, of_all))
        change, off = (
            optax.tree.norm(jax.tree.map(np.subtract, x.variables, of_one.variables))
            for x in (before, of_all)
        )
        assert off <= 1e-4 * change
        state = of_one
    assert int(of_all.step) == 5


def test_normalise_is_the_usual_formula():
    task = task_of()
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    expected = (images / 255.0 - np.array(task.mean)) / np.array(task.std)
    np.testing.assert_allclose(
        layers.normalise(jnp.asarray(images), task.mean, task.std), expected, rtol=1e-5, atol=1e-6
    )


def test_learning_rates_warm_up_and_decay_as_a_cosine():
    rates = Recipe(steps=20, batch_size=1, learning_rate=0.4, warmup=0.25).learning_rates()
    step = np.arange(20)
    cosine = 0.4 * (1 + np.cos(np.pi * (step - 5) / 15)) / 2
    np.testing.assert_allclose(rates, np.where(step < 5, 0.08 * step, cosine), atol=1e-7)


@pytest.mark.parametrize("name", ["alexnet", "resnet18"])
def test_weight_decay_is_on_kernels_alone(name):
    """One step on no gradient: what shrinks is what decays."""
    task = task_of(name)
    state = steps.new_state(task, steps.initial(task.module, SIZE, 0))
    params = state.variables["params"]
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(steps.optimizer(task, 0.1).update)(zeros, state.momentum, params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        assert bool(np.any(update)) == (path[-1].key == "kernel"), path


def test_multi_label_loss_is_the_sum_of_binary_cross_entropies():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(6, 4)).astype(np.float32)
    labels = (rng.random((6, 4)) < 0.4).astype(np.float32)
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    expected = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).sum(axis=1)
    np.testing.assert_allclose(steps.losses(logits, labels, multi_label=True), expected, rtol=1e-5)


def test_a_new_head_leaves_the_rest_alone():
    task = task_of()
    old = steps.initial(task.module, SIZE, 0)
    new = steps.with_new_head(old, 9, seed=1)
    width = old["params"]["head"]["kernel"].shape[0]
    assert new["params"]["head"]["kernel"].shape == (width, 9)
    assert new["params"]["head"]["bias"].shape == (9,)
    assert {**new["params"], "head": 0}.keys() == old["params"].keys()
    assert new["params"]["conv1"] is old["params"]["conv1"]
    assert new["batch_stats"] is old["batch_stats"]


def test_optax_trace_and_a_scalar_rate_are_sgd_with_momentum():
    """Two steps against optax's own sgd, which has the rate inside."""
    params = {"a": {"kernel": np.float32([1.0, -2.0])}}
    gradients = {"a": {"kernel": np.float32([0.3, 0.1])}}
    task = Task(None, (0, 0, 0), (1, 1, 1))
    ours, theirs = steps.optimizer(task), optax.sgd(0.1, momentum=0.9)
    state, expected_state, p, q = ours.init(params), theirs.init(params), params, params
    for _ in range(2):
        updates, state = ours.update(gradients, state, p)
        p = jax.tree.map(lambda x, u: x - np.float32(0.1) * u, p, updates)
        updates, expected_state = theirs.update(gradients, expected_state, q)
        q = optax.apply_updates(q, updates)
    np.testing.assert_allclose(p["a"]["kernel"], q["a"]["kernel"], rtol=1e-6)


def test_a_batch_that_does_not_divide_is_refused():
    devices = jax.local_device_count()
    if devices == 1:
        pytest.skip("there is one device")
    message = f"the batch has {devices + 1} rows; expected a multiple of {devices} devices"
    with pytest.raises(ValueError, match=message):
        parallel.shard({"image": np.zeros((devices + 1, 2, 2, 3), np.uint8)})
