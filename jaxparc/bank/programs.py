"""The compiled programs of `score_bank`: the only place that jits and vmaps selectors.

All requested methods are compiled into one program per shape of features, in float32; where a
method reports that float32 was too coarse for a model, the same functions run in float64.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc.bank.arguments import ModelInput
from jaxparc.selectors import Method, Probe

Fields: TypeAlias = dict[str, Any]  # of a Probe


def models_per_call() -> int:
    """Return how many models one call scores: one on a CPU, where batching them is slower."""
    return 1 if jax.default_backend() == "cpu" else 32


@dataclasses.dataclass(frozen=True)
class Programs:
    """The programs that score models on one probe set.

    Attributes:
        methods: the k requested methods.
        num_classes: c; see `Probe`.
        vectors: see `Probe`.
        absent: see `Probe`.
        models_per_call: number of models that one call scores.
    """

    methods: tuple[Method, ...]
    num_classes: int
    vectors: bool
    absent: int
    models_per_call: int

    @functools.cached_property
    def distinct(self) -> tuple[Method, ...]:
        """The methods, without those that differ only in "+ layers", which is added afterwards."""
        return tuple({m.function: m for m in self.methods}.values())

    def targets(self, shared: Fields) -> tuple[Any, ...]:
        """Return, per distinct method, the part of the score that all models share, or None.

        Computed in float64 if the reference is float64, and returned in float32.

        Args:
            shared: fields of `Probe` that all models share.
        """
        prepare = _compiled_targets(tuple(m.target for m in self.distinct), *self._options())
        if shared.get("reference", np.zeros(0, np.float32)).dtype != np.float64:
            return prepare(shared)
        with _float64():
            return jax.tree.map(lambda found: np.asarray(found, np.float32), prepare(shared))

    def scores(
        self, models: Sequence[ModelInput], shared: Fields, targets: tuple[Any, ...]
    ) -> list[np.ndarray]:
        """Score models of one shape.

        Args:
            models: at most `models_per_call` models.
            shared: fields of `Probe` that all models share.
            targets: the result of `targets`.

        Returns:
            Per model, (k,) float64; computed in float32, and recomputed in float64 where float32 is
            too coarse.
        """
        functions = tuple(m.function for m in self.distinct)
        checks = tuple((m.needs_float64, m.needs_float64_if_rounded) for m in self.distinct)
        run = _compiled(functions, checks, *self._options())
        # Padded with the last model: a chunk of another size would need another compilation.
        fields = [m.fields for m in models]
        fields += fields[-1:] * (self.models_per_call - len(fields))
        found = np.asarray(run(tuple(fields), shared, targets))
        columns = [functions.index(m.function) for m in self.methods]
        scores = []
        for model, (score, coarse, coarse_if_rounded) in zip(models, found, strict=False):
            row = np.array(score, np.float64)
            prepared = model.prepared
            if prepared is not None and not prepared.flaw:
                again = coarse.astype(bool) | (coarse_if_rounded.astype(bool) & prepared.rounded)
                if prepared.coarse:
                    again |= [m.reads_images for m in self.distinct]
                if again.any():
                    row[again] = self._in_float64(model, shared, targets)[again]
            scores.append(row[columns])
        return scores

    def _in_float64(
        self, model: ModelInput, shared: Fields, targets: tuple[Any, ...]
    ) -> np.ndarray:
        """Return the scores of one model in float64, (k,), by the same functions."""
        assert model.prepared is not None
        functions = tuple(m.function for m in self.distinct)
        wide = {
            "features": model.prepared.float64(),
            "scale": np.ldexp(np.float64(1), model.prepared.exponent),
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
    """Enable float64, on the CPU if JAX may use it: some accelerators lack float64."""
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
    """Return the program for models of one shape.

    All methods are in one program, so that XLA computes shared intermediates once. The fields
    `shared` by the models, and the `targets` computed from them, are not mapped.

    Returns:
        A function of (models, shared, targets) that returns (m, 3, k): the scores, and the results
        of both columns of `checks`.
    """

    @jax.jit
    def run(models: tuple[Fields, ...], shared: Fields, targets: tuple[Any, ...]) -> Array:
        def score(model: Fields) -> Array:
            if "probs" in model:
                rows = model["probs"]
                model = model | {"probs": rows / jnp.sum(rows, axis=1, keepdims=True)}
            probe = Probe(
                **model, **shared, num_classes=num_classes, vectors=vectors, absent=absent
            ).computing_once()
            scores = [
                function(probe) if target is None else function(probe, target=target)
                for function, target in zip(functions, targets, strict=True)
            ]
            coarse = [
                [jnp.bool_(False) if check is None else check(probe) for check in column]
                for column in zip(*checks, strict=True)
            ]
            dtype = jnp.result_type(float)  # float64 if enabled, else float32
            rows = [[jnp.asarray(one, dtype) for one in row] for row in (scores, *coarse)]
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
    """Return the program that computes, per method, the part all models share, or None."""

    @jax.jit
    def run(shared: Fields) -> tuple[Any, ...]:
        probe = Probe(**shared, num_classes=num_classes, vectors=vectors, absent=absent)
        probe = probe.computing_once()
        return tuple(None if target is None else target(probe) for target in targets)

    return run
