"""Training and full fine-tuning: pure steps, and the loop that feeds them.

SGD with momentum, linear warm-up and cosine decay; all weights are trained. The step functions are
undecorated and see one device's share of a batch; `parallel` runs them on all devices.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jaxparc import checkpoints, models, parallel
from jaxparc import input as input_

Variables = dict[str, Any]  # "params" and, in networks with batch norm, "batch_stats"


class DivergedError(RuntimeError):
    """The loss became infinite or NaN."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one network is trained.

    Attributes:
        steps: batches, over as many epochs as that takes.
        batch_size: of all devices together, so that results do not depend on their number.
        learning_rate: at the end of the warm-up.
        warmup: share of all steps over which the learning rate grows linearly from 0.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: float = 0.1

    def learning_rates(self) -> np.ndarray:
        """The learning rate of every step, (steps,) float32."""
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
    """What a training step reads and writes: one pytree, the same on every device."""

    step: Array
    variables: Variables
    momentum: optax.OptState


class Task(NamedTuple):
    """A network and what its outputs mean: everything a step is compiled for. Hashable.

    Attributes:
        module: the Linen module.
        mean: per channel, of images in [0, 1].
        std: per channel.
        multi_label: sigmoid instead of softmax.
        momentum: of SGD.
        weight_decay: of convolution and linear weights; batch norm and biases have none.
    """

    module: Any
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    multi_label: bool = False
    momentum: float = 0.9
    weight_decay: float = 1e-4


def normalise(images: Array, task: Task) -> Array:
    """Images (b, h, w, 3) uint8 to float32, standardised by the network's mean and std."""
    scale = np.float32(1.0) / (np.float32(255.0) * np.asarray(task.std, np.float32))
    shift = np.asarray(task.mean, np.float32) / np.asarray(task.std, np.float32)
    return images.astype(jnp.float32) * scale - shift


def losses(logits: Array, labels: Array, *, multi_label: bool) -> Array:
    """Cross-entropy per image, (b,) float32; multi-label: the sum of the classes' sigmoid losses.

    Args:
        logits: (b, c) float32.
        labels: (b,) int32 classes, or (b, c) float32 zeros and ones.
        multi_label: which of the two.
    """
    if multi_label:
        return optax.sigmoid_binary_cross_entropy(logits, labels).sum(axis=-1)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def optimizer(task: Task) -> optax.GradientTransformation:
    """SGD with momentum and weight decay, before the learning rate."""
    return optax.chain(
        optax.add_decayed_weights(task.weight_decay, mask=_decays),
        optax.trace(decay=task.momentum),
    )


def _decays(params: Any) -> Any:
    """True for the leaves that weight decay applies to: the kernels."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def train_step(
    task: Task, state: TrainState, batch: Mapping[str, Array], rate: Array, key: Array
) -> tuple[TrainState, Array]:
    """One step of SGD on one device's share of a batch.

    Args:
        task: what is trained.
        state: the same on every device.
        batch: `image` (b, h, w, 3) uint8, `label` (b,) or (b, c), `mask` (b,) bool.
        rate: () float32, the learning rate.
        key: of the whole run; step and device are folded in.

    Returns:
        The next state and the () float32 mean loss over the real rows of all devices.
    """
    key = jax.random.fold_in(key, state.step)
    key = jax.random.fold_in(key, jax.lax.axis_index(parallel.AXIS))
    count = jax.lax.psum(batch["mask"].sum(dtype=jnp.float32), parallel.AXIS)

    def loss_of(params: Any) -> tuple[Array, Any]:
        (logits, _), updated = task.module.apply(
            {**state.variables, "params": params},
            normalise(batch["image"], task),
            train=True,
            mask=batch["mask"],
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        per_row = losses(logits, batch["label"], multi_label=task.multi_label)
        return jnp.where(batch["mask"], per_row, 0.0).sum() / count, updated

    params = state.variables["params"]
    (loss, updated), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    loss, gradients = jax.lax.psum((loss, gradients), parallel.AXIS)
    updated = jax.lax.pmean(updated, parallel.AXIS)
    updates, momentum = optimizer(task).update(gradients, state.momentum, params)
    params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
    variables = {**state.variables, **updated, "params": params}
    return TrainState(state.step + 1, variables, momentum), loss


def eval_step(task: Task, variables: Variables, batch: Mapping[str, Array]) -> tuple[Array, Array]:
    """Sums over the real rows of all devices: right answers and rows, () float32 each.

    Multi-label: an image counts by its share of labels that are right (logit > 0 where it is 1).
    """
    logits, _ = task.module.apply(variables, normalise(batch["image"], task))
    if task.multi_label:
        right = jnp.mean(((logits > 0) == (batch["label"] > 0)).astype(jnp.float32), axis=-1)
    else:
        right = (jnp.argmax(logits, axis=-1) == batch["label"]).astype(jnp.float32)
    sums = jnp.where(batch["mask"], right, 0.0).sum(), batch["mask"].sum(dtype=jnp.float32)
    return jax.lax.psum(sums, parallel.AXIS)


@functools.lru_cache(maxsize=32)
def compiled_train_step(task: Task) -> Callable[..., tuple[TrainState, Array]]:
    """`train_step` over all devices, compiled once per task and batch shape."""
    return parallel.data_parallel(functools.partial(train_step, task), (None, 0, None, None))


@functools.lru_cache(maxsize=32)
def compiled_eval_step(task: Task) -> Callable[..., tuple[Array, Array]]:
    """`eval_step` over all devices, compiled once per task and batch shape."""
    return parallel.data_parallel(functools.partial(eval_step, task), (None, 0))


def fit(
    task: Task,
    variables: Variables,
    source: input_.Source,
    recipe: Recipe,
    *,
    size: int,
    mirror: bool = False,
    seed: int = 0,
    workers: int = 0,
    on_images: Callable[[int], None] | None = None,
    partial: Path | None = None,
    every: float = 600.0,
) -> tuple[Variables, np.ndarray]:
    """Train all weights of a network.

    Deterministic: the same arguments give the same weights on one machine, also if the training was
    stopped in between and goes on from `partial`.

    Args:
        task: the network.
        variables: to start from.
        source: the training images.
        recipe: steps, batch size, learning rate.
        size: side of the images, in pixels.
        mirror: whether a mirror image keeps its meaning.
        seed: of order, augmentation and dropout.
        workers: processes that decode the images, as `input.batches` takes it.
        on_images: called with the number of images after each step.
        partial: where the state is saved on the way, and found again; it is left there at the end.
            A state of another network, recipe, seed or number of images, or a damaged one, is not
            taken.
        every: seconds from one save to the next. KeyboardInterrupt, as of SIGTERM, saves at once.

    Returns:
        The trained variables, on the devices, and (steps,) float32 losses.

    Raises:
        DivergedError: the loss is no longer finite.
        OSError: the state cannot be saved.
    """
    step = compiled_train_step(task)
    params = variables["params"]
    state = TrainState(jnp.zeros((), jnp.int32), variables, optimizer(task).init(params))
    told = _told(task, recipe, size, mirror, seed, len(source))
    history: list[Any] = []
    if partial is not None:
        state, history = _resumed(partial, told, state)
    state = parallel.replicate(state)
    key = parallel.replicate(jax.random.key(seed))
    batches = placed(
        source,
        recipe.batch_size,
        size=size,
        train=True,
        epochs=-(-recipe.steps * recipe.batch_size // len(source)),
        workers=workers,
        mirror=mirror,
        seed=seed,
        num_classes=task.module.num_classes if task.multi_label else None,
        start=len(history),
    )
    # One assignment: whenever the loop is interrupted, state and number are of the same step.
    done = state, len(history)
    saved = time.monotonic()
    try:
        for rate, batch in zip(recipe.learning_rates()[len(history) :], batches, strict=False):
            state, loss = step(state, batch, rate, key)
            history.append(loss)
            done = state, len(history)
            if on_images is not None:
                on_images(recipe.batch_size)
            if partial is not None and time.monotonic() - saved > every:
                _save(partial, told, done[0], history[: done[1]])
                saved = time.monotonic()
    except KeyboardInterrupt:
        if partial is not None:
            _save(partial, told, done[0], history[: done[1]])
        raise
    lost = np.asarray(jax.device_get(history), np.float32)
    if not np.isfinite(lost).all():
        raise DivergedError(f"the loss of step {np.argmin(np.isfinite(lost))} is not finite")
    return state.variables, lost


def _told(
    task: Task, recipe: Recipe, size: int, mirror: bool, seed: int, images: int
) -> dict[str, Any]:
    """What a saved state belongs to; JSON gives it back as it is."""
    return {
        "task": repr(task),
        "recipe": dataclasses.asdict(recipe),
        "size": size,
        "mirror": mirror,
        "seed": seed,
        "images": images,
    }


def _save(partial: Path, told: dict[str, Any], state: TrainState, history: list[Any]) -> None:
    losses = [float(loss) for loss in jax.device_get(history)]
    momentum = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state.momentum))}
    arrays = {"variables": state.variables, "momentum": momentum}
    checkpoints.save(partial, jax.device_get(arrays), {"told": told, "losses": losses})


def _resumed(
    partial: Path, told: dict[str, Any], fresh: TrainState
) -> tuple[TrainState, list[Any]]:
    """The saved state and its losses, or the fresh one and none."""
    try:
        arrays, metadata = checkpoints.restore(partial)
    except checkpoints.CheckpointError:  # not there, or damaged
        return fresh, []
    if metadata.get("told") != told:
        return fresh, []
    leaves, structure = jax.tree.flatten(fresh.momentum)
    momentum = [arrays["momentum"][str(i)] for i in range(len(leaves))]
    losses = [np.float32(loss) for loss in metadata["losses"]]
    state = TrainState(
        jnp.asarray(len(losses), jnp.int32),
        arrays["variables"],
        jax.tree.unflatten(structure, momentum),
    )
    return state, losses


def accuracy(
    task: Task, variables: Variables, source: input_.Source, *, size: int, batch_size: int
) -> float:
    """Percent of the images that are classified right: over all of them, the last batch included.

    Args:
        task: the network.
        variables: its weights.
        source: images with labels.
        size: side of the images, in pixels.
        batch_size: of all devices together.
    """
    step = compiled_eval_step(task)
    sums = [
        step(variables, batch)
        for batch in placed(
            source,
            batch_size,
            size=size,
            train=False,
            num_classes=task.module.num_classes if task.multi_label else None,
        )
    ]
    right, count = np.array(jax.device_get(sums), np.float64).sum(axis=0).tolist()
    return 100.0 * right / count


def placed(source: input_.Source, batch_size: int, **options: Any) -> Iterator[dict[str, Array]]:
    """Batches on the devices, ahead of their use; what the steps do not read stays on the host.

    Args:
        source: images with labels.
        batch_size: of all devices together.
        options: of `input.batches`.

    Returns:
        An iterator of what `train_step` takes.
    """
    host = input_.batches(source, batch_size=batch_size, **options)
    read = ({k: batch[k] for k in ("image", "label", "mask")} for batch in host)
    return input_.prefetch(read, parallel.shard)


@functools.lru_cache(maxsize=8)
def _compiled_init(module: Any, size: int) -> Callable[[Array], Variables]:
    image = jnp.zeros((1, size, size, 3), jnp.float32)
    # It runs once and is mostly random bits, whose optimised compilation takes five times as long.
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(lambda key: module.init(key, image), compiler_options=options)


def initial(module: Any, size: int, seed: int) -> Variables:
    """Randomly initialised variables of a network for images of a size, on the host."""
    return jax.device_get(dict(_compiled_init(module, size)(jax.random.key(seed))))


def with_new_head(variables: Variables, num_classes: int, seed: int) -> Variables:
    """The same weights under a freshly initialised last linear layer.

    Args:
        variables: of any network of `models`.
        num_classes: c of the new head.
        seed: of its initialisation.
    """
    kernel = variables["params"]["head"]["kernel"]
    head = models.new_head(jax.random.key(seed), kernel.shape[0], num_classes)
    return {**variables, "params": {**variables["params"], "head": jax.device_get(head)}}
