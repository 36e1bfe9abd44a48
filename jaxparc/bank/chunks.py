"""How many models one call of a program scores.

A program is compiled for each number, so there are few: a chunk is filled up to the next one.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax

from jaxparc import backend, parallel
from jaxparc.bank import memory
from jaxparc.bank.arguments import ModelInput
from jaxparc.bank.compiled import Fields
from jaxparc.bank.programs import Chunk, Placed, Programs, Scored
from jaxparc.errors import InputError
from jaxparc.selectors import Method

SIZES = (1, 8, 32, 128)

# Share of an accelerator's memory for a chunk. Two further chunks may be under way, and the
# features of the bank may be on the device.
SHARE = 1 / 8

# Copies of the arrays of a model that the first program holds: as given, stacked, in range, centred
# and standardised.
COPIES = 5

# Bytes per pair of images of two rows of a table of summaries.
TABLE = 16


def devices() -> int:
    """Return how many local devices score a bank."""
    if not backend.choices().scoring_devices or jax.process_count() > 1:
        return 1
    return jax.local_device_count()


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The numbers of models per device that programs are compiled for.

    Attributes:
        n: number of images.
        methods: the methods to compute.
        chunk: the largest number; None for 1 on a CPU, and else the largest in `SIZES` that fits.
        devices: number of devices.
    """

    n: int
    methods: Sequence[Method]
    chunk: int | None = None
    devices: int = 1

    def __post_init__(self) -> None:
        if self.chunk is not None and self.chunk < 1:
            raise InputError(f"chunk is {self.chunk}; expected at least 1")

    @functools.cached_property
    def most(self) -> int:
        """The largest number of models of any widths whose summaries are scored at once."""
        return self._fitting(0)

    @property
    def rows(self) -> int:
        """The number of rows of a table of summaries, in which padding may follow the largest."""
        return 1 if self.most == 1 else 2 * self.most

    def of_shape(self, model: ModelInput) -> int:
        """Return the largest number of models with arrays of the same shapes as these."""
        return min(self.most, self._fitting(sum(4 * x.size for x in model.fields.values())))

    def holding(self, models: int, most: int | None = None) -> int:
        """Return the smallest number of at least this many models, up to a largest."""
        most = self.most if most is None else most
        return min((size for size in SIZES if models <= size < most), default=most)

    def _fitting(self, bytes_of_arrays: int) -> int:
        if self.chunk is not None:
            return self.chunk
        of_pairs = (TABLE + sum(memory.bytes_per_pair(self.methods))) * self.n**2
        limit = SHARE * (parallel.memory() or memory.available())
        fitting = int(limit // (of_pairs + COPIES * bytes_of_arrays))
        most = min(fitting, backend.choices().models_per_call)
        return max(size for size in SIZES if size <= max(1, most))


def by_shape(models: Iterable[ModelInput], sizes: Sizes) -> Iterator[tuple[list[ModelInput], int]]:
    """Yield chunks of models of the same shapes, and the size of the program for each.

    At most one chunk per shape is held.
    """
    waiting: dict[tuple[object, ...], list[ModelInput]] = {}
    most: dict[tuple[object, ...], int] = {}
    shape: tuple[object, ...]
    for model in models:
        shape = tuple((field.shape, field.dtype) for field in model.fields.values())
        if shape not in most:
            most[shape] = sizes.of_shape(model)
        chunk = waiting.setdefault(shape, [])
        chunk.append(model)
        if len(chunk) == most[shape] * sizes.devices:
            yield waiting.pop(shape), most[shape]
    for shape, chunk in waiting.items():
        yield chunk, sizes.holding(-(-len(chunk) // sizes.devices), most[shape])


class Rows:
    """The rows of the table of summaries, which the first program fills and the second scores.

    Args:
        programs: the programs.
        sizes: the numbers of rows that they are compiled for.
    """

    def __init__(self, programs: Programs, sizes: Sizes) -> None:
        self._programs = programs
        self._sizes = sizes
        self._table: Fields | None = None
        self._chunks: list[Chunk] = []
        self._filled = 0

    def add(self, placed: Placed) -> Callable[[], list[Scored]]:
        """Start to read models, and to score all rows once the table is full.

        Returns:
            A function that waits for the scores, and returns those of all models that are scored.
        """
        further = -(-len(placed.models) // self._sizes.devices)
        before = [] if self._filled + further <= self._sizes.most else [self.finish()]
        if self._table is None:
            self._table = self._programs.table(self._sizes.rows)
        chunk, self._table = self._programs.read(placed, self._table, self._filled)
        self._chunks.append(chunk)
        self._filled += further
        after = [self.finish()] if self._filled == self._sizes.most else []
        return lambda: [scored for fetch in (*before, *after) for scored in fetch()]

    def finish(self) -> Callable[[], list[Scored]]:
        """Start to score all rows; return a function that waits for the scores."""
        if not self._chunks:
            return list
        assert self._table is not None
        size = self._sizes.holding(self._filled)
        fetch = self._programs.score(self._chunks, size, self._table)
        self._chunks, self._filled = [], 0
        return fetch
