"""Save the state of an unfinished training, and resume it as if it had not been interrupted."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxparc.training import checkpoints
from jaxparc.training.program import Point
from jaxparc.training.steps import Task, TrainState


def fingerprint(
    task: Task, points: Sequence[Point], *, size: int, mirror: bool, images: int
) -> dict[str, Any]:
    """Return the settings that identify a training, as values that survive a JSON round trip.

    Args:
        task: the network.
        points: points of the grid.
        size: side of the images, in pixels.
        mirror: whether training may mirror images.
        images: number of training images.
    """
    return {
        "task": repr(task),
        "points": [{"seed": p.seed, **dataclasses.asdict(p.recipe)} for p in points],
        "size": size,
        "mirror": mirror,
        "images": images,
    }


def save(
    folder: Path,
    identity: Mapping[str, Any],
    state: TrainState,
    metrics: Mapping[str, np.ndarray],
) -> None:
    """Save a state; of several processes, only the first one does.

    Args:
        folder: folder to write; replaced if it exists.
        identity: the training's `fingerprint`.
        state: the state of g runs, (g, ...).
        metrics: metrics of all steps up to this state, (g, steps) float32 each.

    Raises:
        OSError: the folder cannot be written.
    """
    if jax.process_index() != 0:
        return
    momentum = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state.momentum))}
    arrays = {"variables": state.variables, "momentum": momentum}
    history = {name: values.tolist() for name, values in metrics.items()}
    metadata = {"fingerprint": identity, "history": history}
    checkpoints.save(folder, jax.device_get(arrays), metadata)


def restore(
    folder: Path, identity: Mapping[str, Any], initial: TrainState
) -> tuple[TrainState, dict[str, np.ndarray]] | None:
    """Return the saved state of a training and its metrics.

    Args:
        folder: folder that `save` wrote.
        identity: the training's `fingerprint`.
        initial: a state of the same structure.

    Returns:
        The state and the metrics, (g, steps) float32 each; None if the state is missing, damaged or
        belongs to another training.
    """
    try:
        arrays, metadata = checkpoints.restore(folder)
    except checkpoints.CheckpointError:  # missing or damaged
        return None
    if metadata.get("fingerprint") != identity:
        return None
    metrics = {name: np.array(v, np.float32) for name, v in metadata["history"].items()}
    leaves, structure = jax.tree.flatten(initial.momentum)
    momentum = [arrays["momentum"][str(i)] for i in range(len(leaves))]
    step = np.full_like(initial.step, metrics["loss"].shape[1])
    state = TrainState(step, arrays["variables"], jax.tree.unflatten(structure, momentum))
    return state, metrics
