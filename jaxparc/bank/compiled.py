"""The compiled programs of `score_bank`: the only place that jits and vmaps selectors.

Programs are kept by their options; see `Programs` for what they are used for. Fields are those of a
`Probe`. The last three options of most are `Probe.num_classes`, `kind` and `absent`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import backend, parallel
from jaxparc.bank import preparation
from jaxparc.selectors import Method, Probe
from jaxparc.selectors.probe import components_name

Fields: TypeAlias = dict[str, Any]


class Column(NamedTuple):
    """The functions of a method; see `Method`. `contributions` is None if they are not wanted."""

    function: Callable[..., Array]
    contributions: Callable[..., Array] | None
    needs_float64: Callable[[Probe], Array] | None
    needs_float64_if_rounded: Callable[[Probe], Array] | None
    unresolved: Callable[[Probe], Array] | None

    @classmethod
    def of(cls, method: Method, contributions: bool) -> "Column":
        """Return the functions of a method, with or without its contributions."""
        found = cls(*(getattr(method, name) for name in cls._fields))
        return found if contributions else found._replace(contributions=None)


def evaluated(probe: Probe, columns: Sequence[Column], targets: tuple[Any, ...]) -> Array:
    """Return the scores of methods, what their checks found, and contributions, (4 + u, k).

    The number u of contributions is that of the images, or 0 if they are not wanted. All methods
    are in one program, so that XLA computes shared intermediates once.
    """
    probe = probe.computing_once()
    dtype = jnp.result_type(float)  # float64 if enabled, else float32

    def of_column(column: Column, target: Any) -> Array:
        given = {} if target is None else {"target": target}
        function, contributions, *checks = column
        first = [function(probe, **given), *(check and check(probe) for check in checks)]
        found = jnp.stack([jnp.asarray(False if one is None else one, dtype) for one in first])
        if contributions is None:
            return found
        return jnp.concatenate([found, contributions(probe, **given).astype(dtype)])

    return jnp.stack(list(map(of_column, columns, targets)), axis=1)


def _over_models(function: Callable[[Fields], Any], fields: Fields) -> Any:
    """Map a function over models; return its results, stacked."""
    if len(jax.tree.leaves(fields)[0]) == 1:  # as is, since vmap turns conditions into selections
        found = function(jax.tree.map(lambda leaf: leaf[0], fields))
        return jax.tree.map(lambda leaf: leaf[None], found)
    return jax.vmap(function)(fields)


@functools.lru_cache(maxsize=256)
def part(
    reads: tuple[tuple[str, ...], tuple[str, ...]],
    columns: tuple[Column, ...],
    size: int,
    devices: int,
    num_classes: int,
    kind: str,
    absent: int,
) -> Callable[..., Any]:
    """Return the first program, for `size` models of one shape on each device.

    It is a function of (table, models, numbers, row, shared, targets), where `row` is the first row
    of the table to write. It returns the table, results (m, 4 + u, k), and by field the flags of
    `preparation`. `reads` are the fields and summaries of the `Part`.
    """
    _, summaries = reads

    def run(
        table: Fields,
        models: tuple[Fields, ...],
        numbers: Fields,
        row: Array,
        shared: Fields,
        targets: tuple[Any, ...],
    ) -> Any:
        def of_model(given: Fields) -> Any:
            fields: Fields = {}
            flags: Fields = {}
            if "features" in given:
                features, scale, flags["features"] = preparation.examine(given["features"])
                fields |= {"features": features, "scale": given["scale"] * scale}
            if "probs" in given:
                fields["probs"], flags["probs"] = preparation.normalise(given["probs"])
            probe = Probe(
                **fields, **shared, num_classes=num_classes, kind=kind, absent=absent
            ).computing_once()
            summary: Fields = {}
            if summaries:
                of_names = {name: probe.summary(name) for name in summaries}
                summary = {"scale": fields["scale"], "summaries": of_names}
            found = evaluated(probe, columns, targets) if columns else None
            return summary, found, flags

        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
        summary, found, flags = _over_models(of_model, stacked | numbers)
        table = jax.tree.map(
            lambda whole, rows: jax.lax.dynamic_update_slice_in_dim(whole, rows, row, 0),
            table,
            summary,
        )
        return table, found, flags

    own = (True, True, True, False, False, False)
    return _on_devices(run, size, devices, own, donate_argnums=0)


@functools.lru_cache(maxsize=256)
def scores(
    columns: tuple[Column, ...],
    size: int,
    devices: int,
    num_classes: int,
    kind: str,
    absent: int,
) -> Callable[..., Array]:
    """Return the second program, for the first `size` rows of a table.

    It is a function of (table, numbers, shared, targets) that returns results (m, 4 + u, k).
    """

    def run(table: Fields, numbers: Fields, shared: Fields, targets: tuple[Any, ...]) -> Array:
        def of_model(fields: Fields) -> Array:
            probe = Probe(**fields, **shared, num_classes=num_classes, kind=kind, absent=absent)
            return evaluated(probe, columns, targets)

        rows = jax.tree.map(lambda leaf: leaf[:size], table)
        return _over_models(of_model, rows | numbers)

    return _on_devices(run, size, devices, (True, True, False, False))


@functools.lru_cache(maxsize=256)
def components_of(n_dims: tuple[int, ...]) -> Callable[[np.ndarray, np.float32], Fields]:
    """Return the program that finds components from the features (n, d) of one model.

    It is a function of the features and the scale that returns a table of one row.
    """

    @functools.partial(jax.jit, **_options_of(1))
    def run(features: Array, scale: Array) -> Fields:
        features, further, _ = preparation.examine(features)
        probe = Probe(features=features).computing_once()
        summaries = {components_name(f): probe.principal(f) for f in n_dims}
        table = {"scale": scale * further, "summaries": summaries}
        return jax.tree.map(lambda leaf: leaf[None], table)

    return run


def _options_of(size: int) -> dict[str, Any]:
    """Return the options for compiling a program of `size` models."""
    choices = backend.choices()
    options = backend.known({**choices.scoring, **(choices.scoring_at_once if size > 1 else {})})
    return {"compiler_options": options} if options else {}


def _on_devices(
    run: Callable[..., Any], size: int, devices: int, own: tuple[bool, ...], **options: Any
) -> Callable[..., Any]:
    """Compile a program for one device, or for all; see `parallel.on_each_device`."""
    options |= _options_of(size)
    if devices == 1:
        return jax.jit(run, **options)
    return parallel.on_each_device(run, own, **options)


@functools.lru_cache(maxsize=256)
def scores_in_float64(
    columns: tuple[Column, ...], num_classes: int, kind: str, absent: int
) -> Callable[..., Array]:
    """Return the program that scores one model in float64, with the features as they are."""

    @jax.jit
    def run(fields: Fields, shared: Fields, targets: tuple[Any, ...]) -> Array:
        if "probs" in fields:
            fields = fields | {"probs": preparation.normalise(fields["probs"])[0]}
        probe = Probe(**fields, **shared, num_classes=num_classes, kind=kind, absent=absent)
        return evaluated(probe, columns, targets)

    return run


@functools.lru_cache(maxsize=256)
def targets(
    targets: tuple[Callable[[Probe], Array] | None, ...],
    num_classes: int,
    kind: str,
    absent: int,
) -> Callable[[Fields], tuple[Any, ...]]:
    """Return the program that computes, per method, the part all models share, or None."""

    @jax.jit
    def run(shared: Fields) -> tuple[Any, ...]:
        probe = Probe(**shared, num_classes=num_classes, kind=kind, absent=absent)
        probe = probe.computing_once()
        return tuple(None if target is None else target(probe) for target in targets)

    return run
