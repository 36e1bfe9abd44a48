"""Training and full fine-tuning as pure steps; `loop` feeds them.

All weights are trained by SGD with momentum, linear warm-up and cosine decay. The step functions
are undecorated and receive one device's share of a batch; `parallel` runs them on all devices.
Parameters, momentum and statistics are float32, whatever dtype the network computes in.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxparc import backend, models, parallel
from jaxparc.models import layers

Variables = dict[str, Any]  # "params" and, in networks with batch norm, "batch_stats"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters of one training run.

    Attributes:
        steps: number of batches, over as many epochs as needed.
        batch_size: images per batch, over all devices, so that results do not depend on their
            number.
        learning_rate: peak learning rate, at the end of the warm-up.
        warmup: share of the steps during which the learning rate grows linearly from 0, in [0, 1].
        weight_decay: weight decay of convolution and linear kernels; batch norm and biases have
            none.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 1e-4

    def learning_rates(self) -> np.ndarray:
        """Return the learning rate of every step, (steps,) float32."""
        schedule = optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=self.learning_rate,
            warmup_steps=round(self.warmup * self.steps),
            decay_steps=self.steps,
        )
        return np.asarray(jax.vmap(schedule)(jnp.arange(self.steps, dtype=jnp.float32)), np.float32)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "variables", "momentum"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state that a training step updates: one pytree, replicated on every device."""

    step: Array | np.ndarray
    variables: Variables
    momentum: optax.OptState


class Task(NamedTuple):
    """A network and the meaning of its outputs: the static arguments of a step. Hashable.

    Attributes:
        module: the Linen module.
        mean: mean of each channel, for images in [0, 1].
        std: standard deviation of each channel, for images in [0, 1].
        multi_label: whether an image may have several classes (sigmoid instead of softmax).
        momentum: momentum of SGD.
    """

    module: Any
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    multi_label: bool = False
    momentum: float = 0.9

    @property
    def classes(self) -> int | None:
        """The number of classes if an image may have several; None if it has one."""
        return self.module.num_classes if self.multi_label else None


def losses(logits: Array, labels: Array, *, multi_label: bool) -> Array:
    """Return the cross-entropy per image, (b,) float32; multi-label: summed sigmoid losses.

    Args:
        logits: (b, c) float32.
        labels: (b,) int32 classes or, multi-label, (b, c) float32 zeros and ones.
        multi_label: whether an image may have several classes.
    """
    if multi_label:
        return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


class Rates(NamedTuple):
    """Hyperparameters as arguments of a step, so that every grid point runs the same program.

    Attributes:
        learning: learning rate, () float32, or (k,) for k steps.
        decay: weight decay, () float32, or (k,) for k steps.
    """

    learning: Array | np.ndarray
    decay: Array | np.ndarray


def optimizer(task: Task, weight_decay: Any = 0.0) -> optax.GradientTransformation:
    """Return SGD with momentum and weight decay, without the learning rate."""
    return optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_decays),
        optax.trace(decay=task.momentum),
    )


def _decays(params: Any) -> Any:
    """Return a mask of the leaves that weight decay applies to: the kernels."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def new_state(task: Task, variables: Variables) -> TrainState:
    """Return the state before the first step."""
    shapes = jax.eval_shape(optimizer(task).init, variables["params"])
    # Created on the host, where zeros of a new shape need no compilation.
    momentum = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    return TrainState(np.zeros((), np.int32), variables, momentum)


def train_step(
    task: Task, state: TrainState, batch: Mapping[str, Array], rates: Rates, key: Array
) -> tuple[TrainState, dict[str, Array]]:
    """Take one step of SGD on one device's share of a batch.

    Args:
        task: the network.
        state: the same on every device.
        batch: `image` (b, h, w, 3) uint8, `label` (b,) or (b, c), `mask` (b,) bool.
        rates: hyperparameters of this step, () each.
        key: key of the whole run; step and device are folded in.

    Returns:
        The next state, and the mean `loss` and the `accuracy`, in [0, 1], () float32 each, over the
        rows of all devices that are not padding.
    """
    key = jax.random.fold_in(key, state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(parallel.AXIS))
    rows = batch["mask"].sum(dtype=jnp.float32)
    count = jax.lax.psum(rows, parallel.AXIS)

    def loss_of(params: Any) -> tuple[Array, Any]:
        (logits, _), updated = task.module.apply(
            {**state.variables, "params": params},
            layers.normalise(batch["image"], task.mean, task.std),
            train=True,
            mask=batch["mask"],
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        per_row = losses(logits, batch["label"], multi_label=task.multi_label)
        return jnp.where(batch["mask"], per_row, 0.0).sum() / count, (logits, updated)

    params = state.variables["params"]
    (loss, (logits, updated)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    accuracy = _correct(task, logits, batch).sum() / count
    loss, accuracy, gradients = jax.lax.psum((loss, accuracy, gradients), parallel.AXIS)
    # With batch norm per device, statistics differ between devices and are weighted by their rows.
    updated = jax.lax.psum(jax.tree.map(lambda x: rows / count * x, updated), parallel.AXIS)
    updates, momentum = optimizer(task, rates.decay).update(gradients, state.momentum, params)
    params = jax.tree.map(lambda p, u: p - rates.learning * u, params, updates)
    variables = {**state.variables, **updated, "params": params}
    return TrainState(state.step + 1, variables, momentum), {"loss": loss, "accuracy": accuracy}


def train_steps(
    task: Task, state: TrainState, batches: Mapping[str, Array], rates: Rates, key: Array
) -> tuple[TrainState, dict[str, Array]]:
    """Take several steps in one program.

    Args:
        task: the network.
        state: the same on every device.
        batches: the batches of k steps, (k, b, ...).
        rates: (k,) each.
        key: key of the whole run.

    Returns:
        The state after the last step and the metrics of `train_step`, (k,) each.
    """

    def one(state: TrainState, given: tuple[Any, Rates]) -> tuple[TrainState, dict[str, Array]]:
        batch, rates = given
        return train_step(task, state, batch, rates, key)

    given = batches, rates
    if len(rates.learning) > 1:
        return jax.lax.scan(one, state, given)
    # No loop for one step: on a CPU, XLA's convolutions are up to twenty times slower in loops.
    state, metrics = one(state, jax.tree.map(lambda x: x[0], given))
    return state, jax.tree.map(lambda x: x[None], metrics)


def train_runs(
    task: Task,
    states: TrainState,
    batches: Sequence[Mapping[str, Array]],
    rates: Rates,
    keys: Array,
) -> tuple[TrainState, dict[str, Array]]:
    """Take the steps of g runs in parallel.

    Args:
        task: the network.
        states: (g, ...).
        batches: the batches of k steps, (k, b, ...), for each run, or for all runs if only one.
        rates: (g, k) each.
        keys: (g,), the keys of the runs.

    Returns:
        The states and metrics of `train_steps`, (g, ...).
    """
    if len(keys) == 1:  # no vmap: even with a single run it makes XLA's convolutions slower
        state, rate, key = jax.tree.map(lambda x: x[0], (states, rates, keys))
        ended = train_steps(task, state, batches[0], rate, key)
        return jax.tree.map(lambda x: x[None], ended)
    shared = len(batches) == 1
    stacked = batches[0] if shared else jax.tree.map(lambda *x: jnp.stack(x), *batches)
    run = functools.partial(train_steps, task)
    return jax.vmap(run, (0, None if shared else 0, 0, 0))(states, stacked, rates, keys)


def _correct(task: Task, logits: Array, batch: Mapping[str, Array]) -> Array:
    """Return whether each row is classified correctly, (b,) float32; 0 where padded.

    Multi-label: the share of an image's labels that are predicted correctly (logit > 0 for 1).
    """
    if task.multi_label:
        right = jnp.mean(((logits > 0) == (batch["label"] > 0)).astype(jnp.float32), axis=-1)
    else:
        right = (jnp.argmax(logits, axis=-1) == batch["label"]).astype(jnp.float32)
    return jnp.where(batch["mask"], right, 0.0)


def eval_step(task: Task, variables: Variables, batch: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return the number of correct rows and of rows, without padding, () float32 each."""
    images = layers.normalise(batch["image"], task.mean, task.std)
    logits, _ = task.module.apply(variables, images)
    sums = _correct(task, logits, batch).sum(), batch["mask"].sum(dtype=jnp.float32)
    return jax.lax.psum(sums, parallel.AXIS)


# The steps below are compiled once per task and shape of the batches. The state is donated.


@functools.lru_cache(maxsize=32)
def compiled_train_runs(task: Task) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Return `train_runs` compiled for all devices, with batches sharded along axis 1."""
    run = functools.partial(train_runs, task)
    return parallel.data_parallel(run, (None, 1, None, None), donate=(0,))


@functools.lru_cache(maxsize=32)
def compiled_eval_step(task: Task) -> Callable[..., tuple[Array, Array]]:
    """Return `eval_step` compiled for all devices, with batches sharded along axis 0."""
    return parallel.data_parallel(functools.partial(eval_step, task), (None, 0))


@functools.lru_cache(maxsize=8)
def _compiled_init(module: Any, size: int) -> Callable[[Array], Variables]:
    image = jnp.zeros((1, size, size, 3), jnp.float32)
    options = dict(backend.choices().run_once)
    return jax.jit(lambda key: module.init(key, image), compiler_options=options)


def initial(module: Any, size: int, seed: int) -> Variables:
    """Return randomly initialised variables of a network, on the host.

    Args:
        module: the network.
        size: side of the images, in pixels.
        seed: seed of the initialisation.
    """
    return jax.device_get(dict(_compiled_init(module, size)(jax.random.key(seed))))


def with_new_head(variables: Variables, num_classes: int, seed: int) -> Variables:
    """Return variables with a newly initialised last linear layer.

    Args:
        variables: the variables of a network of `models`.
        num_classes: c, the number of classes of the new head.
        seed: seed of the head's initialisation.
    """
    kernel = variables["params"]["head"]["kernel"]
    head = models.new_head(jax.random.key(seed), kernel.shape[0], num_classes)
    return {**variables, "params": {**variables["params"], "head": jax.device_get(head)}}
