"""Train several runs of one network in one compiled program.

The state, the metrics and the rates of g runs have a leading axis of size g, even if g is 1.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import parallel
from jaxparc.errors import InputError
from jaxparc.training import steps
from jaxparc.training.steps import Recipe, Task, TrainState, Variables


class Point(NamedTuple):
    """A point of a grid: the settings that distinguish one run of a network from the others.

    Attributes:
        recipe: hyperparameters of the run.
        seed: seed of order, augmentation and dropout.
    """

    recipe: Recipe
    seed: int = 0


class Program:
    """The training of a network at g points of a grid.

    Attributes:
        runs: g, the number of runs.
        steps: number of steps of every run.
        batch_size: images per batch of every run, over all devices.
        learning_rates: (g, steps) float32.
        seeds: seeds of the batches: one if the runs share their batches, else g.

    Raises:
        InputError: the points differ in steps or batch size.
    """

    def __init__(self, task: Task, points: Sequence[Point]) -> None:
        shapes = {(point.recipe.steps, point.recipe.batch_size) for point in points}
        if len(shapes) != 1:
            raise InputError(
                f"points of a grid have (steps, batch size) {sorted(shapes)}; expected one pair"
            )
        ((self.steps, self.batch_size),) = shapes
        self.runs = len(points)
        self.learning_rates = np.stack([point.recipe.learning_rates() for point in points])
        seeds = [point.seed for point in points]
        self.seeds = seeds if len(set(seeds)) > 1 else seeds[:1]
        self._task = task
        decays = np.array([point.recipe.weight_decay for point in points], np.float32)
        self._decays = np.broadcast_to(decays[:, None], self.learning_rates.shape)
        self._keys = parallel.replicate(jnp.stack([jax.random.key(seed) for seed in seeds]))

    def initial(self, variables: Variables) -> TrainState:
        """Return the state before the first step, (g, ...), on the host.

        Args:
            variables: the weights that all runs start from.
        """
        state = steps.new_state(self._task, variables)
        return jax.tree.map(
            lambda x: np.broadcast_to(np.asarray(x), (self.runs, *np.shape(x))), state
        )

    def __call__(
        self, state: TrainState, batches: Sequence[Mapping[str, Array]], first: int, count: int
    ) -> tuple[TrainState, dict[str, Array]]:
        """Dispatch some steps of all runs, and return before they are done.

        Args:
            state: (g, ...), on the devices; donated.
            batches: one stack of `count` batches for each of `seeds`.
            first: number of the first step.
            count: k, the number of steps.

        Returns:
            The next state, (g, ...), and the metrics of `steps.train_step`, (g, k) float32 each.
        """
        now = slice(first, first + count)
        rates = steps.Rates(self.learning_rates[:, now], self._decays[:, now])
        return steps.compiled_train_runs(self._task)(state, batches, rates, self._keys)

    def split(self, state: TrainState) -> list[Variables]:
        """Return the variables of each run, on the devices."""
        return list(_unstack(state.variables))


@jax.jit
def _unstack(variables: Variables) -> tuple[Variables, ...]:
    runs = len(jax.tree.leaves(variables)[0])
    return tuple(jax.tree.map(lambda x, i=i: x[i], variables) for i in range(runs))
