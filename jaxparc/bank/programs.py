"""How `score_bank` scores a chunk of models with two compiled programs.

Two programs score a chunk of models in float32. The first reads the arrays of the models, whose
widths differ, and is compiled once per width: it returns the summaries that selectors compare
images by, and the scores of the methods that need the features or probabilities themselves. The
second computes all other scores from the summaries, which have the same shapes for every model, so
it is compiled once per bank.

Nothing is waited for before the results of a chunk are fetched. Along with the scores they say for
which models float32, or a summary, was too coarse; these are scored again one by one.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import parallel
from jaxparc.bank import arguments, compiled, preparation
from jaxparc.bank.arguments import ModelInput
from jaxparc.bank.compiled import Column, Fields
from jaxparc.bank.preparation import Prepared
from jaxparc.selectors import Method, Probe, components

T = TypeVar("T")

ARRAYS = ("features", "probs")  # fields of a Probe whose shapes differ between models

NUMBERS = ("layers", "source_images", "width")  # of a model that the second program reads

FLAGS = {"features": (3,), "probs": ()}  # shapes of the flags of `preparation`, by field

# Rows of the results of a model, which are followed by what each image contributes, if wanted.
SCORE, COARSE, COARSE_IF_ROUNDED, UNRESOLVED, CONTRIBUTIONS = range(5)


class Part(NamedTuple):
    """What one program computes from the arrays of a model.

    Attributes:
        fields: the arrays that it reads, from `ARRAYS`.
        summaries: the summaries that it returns, from `probe.SUMMARIES`.
        methods: the methods that it computes, as positions in `Programs.distinct`.
    """

    fields: tuple[str, ...]
    summaries: tuple[str, ...]
    methods: tuple[int, ...]


class Placed(NamedTuple):
    """Models of the same shapes, whose arrays are on the devices or on the way there.

    Attributes:
        models: the models, in rows of one per device.
        size: number of rows, with padding.
        rows: for every part of the first program, the arrays that it reads, by row.
    """

    models: Sequence[ModelInput]
    size: int
    rows: list[tuple[Fields, ...]]


class Chunk(NamedTuple):
    """Models of the same shapes that the first program has read.

    Attributes:
        models: the models, in rows of one per device.
        results: (methods, results (m, 4 + u, k)) of every part; see `Part.methods`.
        flags: by field, the flags of `preparation`, (m, ...).
    """

    models: Sequence[ModelInput]
    results: list[tuple[tuple[int, ...], Any]]
    flags: dict[str, Any]


class Scored(NamedTuple):
    """The scores of a model.

    Attributes:
        model: the model.
        scores: (k,) float64.
        contributions: what each image contributes to them, (k, n) float64, up to a constant, or
            (k, 0) if that is not wanted.
        flaw: why no score is defined on its features, or None.
    """

    model: ModelInput
    scores: np.ndarray
    contributions: np.ndarray
    flaw: str | None


@dataclasses.dataclass(frozen=True)
class Programs:
    """The programs that score models on one probe set.

    Attributes:
        methods: the k requested methods.
        shared: fields of `Probe` that all models share: labels (n,) or (n, c), target_images, and
            reference if a method needs it.
        num_classes: c; see `Probe`.
        kind: see `Probe`.
        absent: see `Probe`.
        devices: the number of devices: 1, or all local devices, each of which scores a model of
            every row.
        contributions: whether to return what each image contributes to the scores.
    """

    methods: tuple[Method, ...]
    shared: Fields
    num_classes: int
    kind: str
    absent: int
    devices: int = 1
    contributions: bool = False

    @functools.cached_property
    def distinct(self) -> tuple[Method, ...]:
        """The methods, without those that differ only in "+l" and "+p", which are added later."""
        return tuple({m.function: m for m in self.methods}.values())

    @functools.cached_property
    def parts(self) -> tuple[Part, ...]:
        """The parts of the first program."""
        n = len(self.shared["labels"])
        methods: dict[tuple[str, ...], list[int]] = {}
        summaries: dict[str, None] = {}
        for place, method in enumerate(self.distinct):
            fields = tuple(field for field in ARRAYS if field in method.needs)
            iterates = method.n_dims is None or components.iterates_over(n, method.n_dims)
            if fields and (method.summaries is None or not iterates):
                methods.setdefault(fields, []).append(place)
            elif method.summaries:
                methods.setdefault(fields, [])
                summaries |= dict.fromkeys(method.summaries)
        return tuple(
            Part(fields, tuple(summaries) if fields == ("features",) else (), tuple(places))
            for fields, places in methods.items()
        )

    @functools.cached_property
    def from_summaries(self) -> tuple[int, ...]:
        """The methods of the second program, as positions in `distinct`."""
        read = {place for part in self.parts for place in part.methods}
        return tuple(place for place in range(len(self.distinct)) if place not in read)

    @functools.cached_property
    def targets(self) -> tuple[Any, ...]:
        """Per distinct method, the part of the score that all models share, or None.

        Computed in float64 if the reference or the labels are, and returned in float32.
        """
        prepare = compiled.targets(tuple(m.target for m in self.distinct), *self._options)
        if all(field.dtype != np.float64 for field in self.shared.values()):
            return prepare(self.shared)
        with parallel.on_cpu(), parallel.enable_x64(True):  # some accelerators lack float64
            found = prepare(self.shared)
            return jax.tree.map(lambda one: np.asarray(one).astype(np.float32), found)

    @functools.cached_property
    def _placed(self) -> tuple[Fields, tuple[Any, ...]]:
        """The fields that all models share, without the reference, and targets, on the devices."""
        place = jax.device_put if self.devices == 1 else parallel.replicate
        return place((self._of_models, self.targets))

    def place(self, models: Sequence[ModelInput], size: int) -> Placed:
        """Start to copy the arrays of models of the same shapes to the devices.

        Args:
            models: at most `size` models per device.
            size: number of models per device that the program is compiled for.
        """
        rows = [self._rows(models, part.fields, size) for part in self.parts]
        return Placed(models, size, rows)

    def table(self, rows: int) -> Fields:
        """Return a table of summaries, in which the first program writes rows of one per device."""
        names = {name for part in self.parts for name in part.summaries}
        if not names:
            return {}
        images = jax.ShapeDtypeStruct((len(self.shared["labels"]), 2), np.float32)
        summaries = jax.eval_shape(
            lambda x: {name: Probe(features=x).summary(name) for name in names}, images
        )
        shapes = {"scale": jax.ShapeDtypeStruct((), np.float32), "summaries": summaries}
        if self.devices == 1:
            return jax.tree.map(lambda one: jnp.zeros((rows, *one.shape), one.dtype), shapes)
        return jax.tree.map(
            lambda one: parallel.spread([np.zeros((rows, *one.shape), one.dtype)] * self.devices),
            shapes,
        )

    def read(self, placed: Placed, table: Fields, row: int) -> tuple[Chunk, Fields]:
        """Start the first program on models of the same shapes, without waiting for it.

        Args:
            placed: the models.
            table: table of summaries, which must not be used afterwards.
            row: first row of the table to write, of as many as the program is compiled for; those
                beyond the models are undefined.

        Returns:
            The models, and the table.
        """
        models, size, rows = placed
        shared, targets = self._placed
        chunk = Chunk(models, [], {})
        numbers = self._stacked(models, size, ("scale",))
        for part, arrays in zip(self.parts, rows, strict=True):
            columns = self._columns(part.methods)
            run = compiled.part(part[:2], columns, size, self.devices, *self._options)
            written, found, flags = run(
                table if part.summaries else {},
                arrays,
                numbers,
                np.int32(row),
                shared,
                self._of(targets, part.methods),
            )
            table = written or table
            chunk.results.append((part.methods, found))
            chunk.flags.update(flags)
        return chunk, table

    def score(
        self, chunks: Sequence[Chunk], size: int, table: Fields
    ) -> Callable[[], list[Scored]]:
        """Start the second program on models of any shapes, without waiting for it.

        Args:
            chunks: chunks in the order of their rows in the table.
            size: number of rows of the table that the program is compiled for.
            table: table of their summaries.

        Returns:
            A function that waits for the results, computes again what was too coarse, and returns
            the scores of every model.
        """
        found = None
        if self.from_summaries:
            shared, targets = self._placed
            columns = self._columns(self.from_summaries)
            run = compiled.scores(columns, size, self.devices, *self._options)
            rows = [
                model
                for chunk in chunks
                for model in self._padded(chunk.models, -(-len(chunk.models) // self.devices))
            ]
            numbers = self._stacked(rows, size, NUMBERS)
            found = run(table, numbers, shared, self._of(targets, self.from_summaries))
        return functools.partial(self._fetched, chunks, found)

    def _fetched(self, chunks: Sequence[Chunk], found: Array | None) -> list[Scored]:
        """Wait for the results of both programs; return the scores of all models."""
        outputs = [(chunk.results, chunk.flags) for chunk in chunks]
        second, first = jax.device_get((found, outputs))
        scored = []
        start = 0
        for chunk, (results, of_fields) in zip(chunks, first, strict=True):
            m = len(chunk.models)
            rows = CONTRIBUTIONS + len(self.shared["labels"]) * self.contributions
            values = np.zeros((m, rows, len(self.distinct)))
            flags = {field: np.zeros((m, *shape), bool) for field, shape in FLAGS.items()}
            for methods, result in results:
                if methods:
                    values[:, :, methods] = self._in_order(result)[:m]
            for field, of_models in of_fields.items():
                flags[field][:] = self._in_order(of_models)[:m]
            if second is not None:
                values[:, :, self.from_summaries] = self._in_order(second)[start : start + m]
            start += -(-m // self.devices) * self.devices
            scored += self._checked(chunk.models, values, flags)
        return scored

    def _checked(
        self, models: Sequence[ModelInput], values: np.ndarray, flags: dict[str, np.ndarray]
    ) -> list[Scored]:
        """Return the scores in `values` (m, 4 + u, k), computing again what was too coarse."""
        suspect = values[:, COARSE:CONTRIBUTIONS].any(axis=(1, 2))
        suspect |= flags["probs"] | flags["features"].any(axis=1)
        scored = []
        for place, model in enumerate(models):
            flaw, prepared = None, model.prepared
            if suspect[place] or (prepared and (prepared.flaw or prepared.coarse)):
                if flags["probs"][place]:
                    arguments.check_probabilities(model)
                if prepared is not None:
                    flaw = self._score_again(model, values[place], *flags["features"][place])
            found = values[place][:, self._places]
            scored.append(Scored(model, found[SCORE], found[CONTRIBUTIONS:].T, flaw))
        return scored

    def _score_again(
        self,
        model: ModelInput,
        values: np.ndarray,
        not_finite: bool,
        constant: bool,
        coarse: bool,
    ) -> str | None:
        """Replace scores in `values` (4 + u, k) that are not precise enough, or not defined.

        Returns:
            Why no score is defined on the features, or None.
        """
        assert model.prepared is not None
        prepared = model.prepared
        reads_images = np.array([method.reads_images for method in self.distinct])
        flaw = prepared.flaw or (preparation.NOT_FINITE if not_finite else None)
        flaw = flaw or (preparation.CONSTANT if constant else None)
        coarse |= prepared.coarse
        if flaw is None and not coarse and values[UNRESOLVED].any():
            places = np.flatnonzero(values[UNRESOLVED])
            values[:, places] = self._from_features(model, tuple(places.tolist()))
        if flaw is None:
            again = reads_images & coarse
            again |= values[COARSE].astype(bool)
            again |= values[COARSE_IF_ROUNDED].astype(bool) & prepared.rounded
            if again.any():
                if not prepared.examined:
                    prepared = preparation.prepare(f"model {model.name!r}", prepared.original)
                flaw = prepared.flaw
                places = np.flatnonzero(again)
                values[:, places] = self._in_float64(model, prepared, tuple(places.tolist()))
        if flaw is not None:
            values[:, reads_images] = np.nan
        return flaw

    def _in_order(self, found: np.ndarray) -> np.ndarray:
        """Return results, which are stacked by device if there are several, by model."""
        if self.devices == 1:
            return found
        by_row = np.swapaxes(found, 0, 1)
        return by_row.reshape(len(by_row) * self.devices, *found.shape[2:])

    @functools.cached_property
    def _places(self) -> list[int]:
        """The positions of the methods in `distinct`."""
        functions = [method.function for method in self.distinct]
        return [functions.index(method.function) for method in self.methods]

    def _rows(
        self, models: Sequence[ModelInput], names: Sequence[str], size: int
    ) -> tuple[Fields, ...]:
        """Return arrays of models as rows of one model per device, on the devices."""
        fields = [{name: model.fields[name] for name in names} for model in models]
        if self.devices > 1:
            padded = self._padded(fields, size)
            rows = [padded[i : i + self.devices] for i in range(0, len(padded), self.devices)]
            return tuple(
                {name: parallel.spread([one[name] for one in row]) for name in names}
                for row in rows
            )
        return tuple(self._padded([self._here(row) for row in fields], size))

    def _here(self, fields: Fields) -> Fields:
        """Return arrays on the device that scores."""
        found = {}
        for name, array in fields.items():
            is_here = isinstance(array, Array) and array.devices() == {self._device}
            found[name] = array if is_here else jax.device_put(array, self._device)
        return found

    @functools.cached_property
    def _device(self) -> jax.Device:
        """The device that scores, if there is one."""
        (device,) = self._placed[0]["labels"].devices()
        return device

    def _stacked(self, models: Sequence[ModelInput], size: int, names: Sequence[str]) -> Fields:
        """Return numbers of models, (size,) each, or (devices, size) on several devices."""
        padded = self._padded(models, size)
        found = {name: np.stack([one.numbers[name] for one in padded]) for name in names}
        if self.devices == 1:
            return found
        return {name: number.reshape(size, -1).T for name, number in found.items()}

    def _padded(self, models: Sequence[T], size: int) -> list[T]:
        """Return `size` models per device, repeating the last."""
        return [*models, *[models[-1]] * (size * self.devices - len(models))]

    def _from_features(self, model: ModelInput, places: tuple[int, ...]) -> np.ndarray:
        """Return the results of some methods, (4 + u, k), with components found from the features.

        On a CPU: accelerators take far longer for decompositions of single matrices.
        """
        n_dims = tuple({self.distinct[place].n_dims or 0: None for place in places})
        run = compiled.scores(self._columns(places), 1, 1, *self._options)
        numbers = {name: model.numbers[name][None] for name in NUMBERS}
        with parallel.on_cpu():
            shared, targets = self._on_host
            features = np.asarray(model.fields["features"])
            table = compiled.components_of(n_dims)(features, model.numbers["scale"])
            return np.asarray(run(table, numbers, shared, self._of(targets, places)))[0]

    def _in_float64(
        self, model: ModelInput, prepared: Prepared, places: tuple[int, ...]
    ) -> np.ndarray:
        """Return the results of one model by some methods, (4 + u, k), in float64."""
        wide = {
            "features": prepared.float64(),
            "scale": np.ldexp(np.float64(1), prepared.exponent),
        }
        numbers = {key: model.numbers[key] for key in ("layers", "source_images")}
        probs = {key: np.asarray(model.fields[key]) for key in ("probs",) if key in model.fields}
        with parallel.on_cpu(), parallel.enable_x64(True):
            run = compiled.scores_in_float64(self._columns(places), *self._options)
            shared, targets = self._on_host
            of_bank = jax.tree.map(lambda found: found.astype(np.float64), targets)
            of_methods = self._of(of_bank, places)
            return np.asarray(run(wide | numbers | probs, shared, of_methods))

    @functools.cached_property
    def _on_host(self) -> tuple[Fields, tuple[Any, ...]]:
        """The same as `_placed`, in NumPy."""
        return self._of_models, jax.tree.map(np.asarray, self.targets)

    @property
    def _of_models(self) -> Fields:
        """The shared fields that the programs of models read: targets stand for the reference."""
        return {key: value for key, value in self.shared.items() if key != "reference"}

    def _columns(self, places: Sequence[int]) -> tuple[Column, ...]:
        return tuple(Column.of(self.distinct[place], self.contributions) for place in places)

    def _of(self, targets: tuple[Any, ...], places: Sequence[int]) -> tuple[Any, ...]:
        return tuple(targets[place] for place in places)

    @property
    def _options(self) -> tuple[int, str, int]:
        return self.num_classes, self.kind, self.absent
