"""What `score_bank` compiles: the one place that jits and maps selectors.

All methods asked for are one program per shape of features, in float32; where a method says that
this was too coarse for a model, the same functions run in float64.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc.bank import arguments as given
from jaxparc.selectors import Method
from jaxparc.selectors.probe import Probe

Fields: TypeAlias = dict[str, Any]  # of a Probe


class Model(NamedTuple):
    """One model of a bank on its way: its place, fields of a `Probe`, and the features' look."""

    place: int
    fields: dict[str, Any]
    look: given.Look | None


@dataclasses.dataclass(frozen=True)
class Programs:
    """What is compiled for a probe set, whatever the model.

    Attributes:
        methods: that are asked for.
        num_classes: c, of `Probe`.
        vectors: likewise.
        absent: likewise.
    """

    methods: tuple[Method, ...]
    num_classes: int
    vectors: bool
    absent: int

    def targets(self, shared: Fields) -> tuple[Any, ...]:
        """Per method, what all models of a bank share, None if nothing.

        In float64 if a reference is: its size and offset do not matter either.
        """
        prepare = _compiled_targets(tuple(m.target for m in self.methods), *self._options())
        if shared.get("reference", np.zeros(0, np.float32)).dtype != np.float64:
            return prepare(shared)
        with _float64():
            return jax.tree.map(lambda found: np.asarray(found, np.float32), prepare(shared))

    def scores(
        self, models: list[Model], shared: Fields, targets: tuple[Any, ...]
    ) -> dict[int, np.ndarray]:
        """By a model's place, (k,) scores: in float32, and in float64 where that is too coarse."""
        functions = tuple(m.function for m in self.methods)
        checks = tuple((m.lost, m.steep) for m in self.methods)
        run = _compiled(functions, checks, *self._options())
        found = np.asarray(run(tuple(m.fields for m in models), shared, targets))
        scores: dict[int, np.ndarray] = {}
        for model, (score, lost, steep) in zip(models, found, strict=True):
            look = model.look
            if model.place in scores:  # a chunk may be filled up
                continue
            scores[model.place] = np.array(score)
            if look is None or look.flaw:
                continue
            again = lost.astype(bool) | (steep.astype(bool) & look.rounded)
            if look.coarse:
                again |= [m.reads_images for m in self.methods]
            if again.any():
                scores[model.place][again] = self._again(model, shared, targets)[again]
        return scores

    def _again(self, model: Model, shared: Fields, targets: tuple[Any, ...]) -> np.ndarray:
        """(k,) scores in float64, by the same functions."""
        assert model.look is not None
        functions = tuple(m.function for m in self.methods)
        wide = {
            "features": model.look.float64(),
            "scale": np.ldexp(np.float64(1), model.look.exponent),
        }
        with _float64():
            run = _compiled(functions, ((None, None),) * len(functions), *self._options())
            of_bank = jax.tree.map(lambda found: np.asarray(found, np.float64), targets)
            found = run((model.fields | wide,), shared, of_bank)
            return np.asarray(found)[0, 0]

    def _options(self) -> tuple[int, bool, int]:
        return self.num_classes, self.vectors, self.absent


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    """On the CPU if JAX may use it, as some accelerators have no such numbers."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        device = None
    with jax.enable_x64(True), jax.default_device(device):
        yield


@functools.lru_cache(maxsize=256)
def _compiled(
    functions: tuple[Callable[..., Array], ...],
    checks: tuple[tuple[Callable[..., Array] | None, ...], ...],
    num_classes: int,
    vectors: bool,
    absent: int,
) -> Callable[..., Array]:
    """The program that gives (models, 3, k) for models of one shape: scores, and what checks say.

    One program for all methods, so that XLA computes what they share once. What is `shared` by the
    models, and the `targets` made from it, are not mapped.
    """

    @jax.jit
    def run(models: tuple[Fields, ...], shared: Fields, targets: tuple[Any, ...]) -> Array:
        def score(model: Fields) -> Array:
            if "probs" in model:
                rows = model["probs"]
                model = model | {"probs": rows / jnp.sum(rows, axis=1, keepdims=True)}
            probe = Probe(
                **model, **shared, num_classes=num_classes, vectors=vectors, absent=absent
            )
            scores = [
                function(probe) if target is None else function(probe, target=target)
                for function, target in zip(functions, targets, strict=True)
            ]
            said = [
                [jnp.bool_(False) if check is None else check(probe) for check in both]
                for both in zip(*checks, strict=True)
            ]
            dtype = jnp.result_type(float)  # of this precision
            rows = [[jnp.asarray(one, dtype) for one in row] for row in (scores, *said)]
            return jnp.stack([jnp.stack(row) for row in rows])

        if len(models) == 1:
            return score(models[0])[None]
        return jax.vmap(score)(jax.tree.map(lambda *leaves: jnp.stack(leaves), *models))

    return run


@functools.lru_cache(maxsize=256)
def _compiled_targets(
    targets: tuple[Callable[[Probe], Array] | None, ...],
    num_classes: int,
    vectors: bool,
    absent: int,
) -> Callable[[Fields], tuple[Any, ...]]:
    """The program that gives, per method, what all models of a bank share; None if nothing."""

    @jax.jit
    def run(shared: Fields) -> tuple[Any, ...]:
        probe = Probe(**shared, num_classes=num_classes, vectors=vectors, absent=absent)
        return tuple(None if target is None else target(probe) for target in targets)

    return run
