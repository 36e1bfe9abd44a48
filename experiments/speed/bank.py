"""`python -m experiments.speed bank`: `score_bank` against plain implementations.

Both sides run in one process, alternate and are warmed up; times are medians, with the range from
the fastest to the slowest repeat. OpenBLAS's threads keep spinning for a while after each call, so
there is a pause between the sides, and the plain side is measured both with its default number of
threads and with one. Features and probabilities are in host memory or on the device, where they
are put before the time starts; every model has its own, up to the limit of `Banks`.
"""

import argparse
import dataclasses
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp

from experiments.speed import banks, ceilings, machine, measured, plain
from experiments.speed.banks import TINY as TINY
from experiments.speed.banks import Banks, Sizes
from experiments.speed.banks import default as default
from experiments.speed.measured import Case, Section

PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "scikit-learn")
PAUSE = 0.2  # seconds between the sides


@dataclasses.dataclass
class Row:
    """One row of the table.

    Attributes:
        what: the method, or the methods that are scored together.
        m: number of models.
        d: feature width.
        c: number of classes.
        place: where the features are, "host" or "device".
        ours: milliseconds per model for every repeat of this library.
        plain: the same for the plain side with its default threads; empty if not measured.
        plain_one_thread: the same with one thread.
        peak_mib: peak memory in MiB, above the memory in use before; None if unknown.
        operations: minimum number of operations per model; see `banks.least_work`.
        bytes: minimum number of bytes per model; see `banks.least_work`.
        share: `operations` per second over the device's matrix rate.
        copy_share: `bytes` per second over the rate of copies from host to device; None if the
            features are on the device already, or it is a CPU.
    """

    what: str
    m: int
    d: int
    c: int
    place: str
    ours: list[float]
    plain: list[float]
    plain_one_thread: list[float]
    peak_mib: float | None
    operations: float
    bytes: float
    share: float
    copy_share: float | None = None

    def models_per_second(self) -> float:
        """Return the median rate of this library."""
        return 1e3 / statistics.median(self.ours)

    def ratio(self) -> float | None:
        """Return the plain median (default threads) over ours; None if not measured."""
        return _ratio(self.plain, self.ours)

    def ratio_best(self) -> float | None:
        """Return the faster plain median over ours; None if not measured."""
        ratios = [r for r in (self.ratio(), _ratio(self.plain_one_thread, self.ours)) if r]
        return min(ratios) if ratios else None


def _ratio(theirs: list[float], ours: list[float]) -> float | None:
    return statistics.median(theirs) / statistics.median(ours) if theirs else None


def measure(
    sizes: Sizes,
    methods: Sequence[str],
    models: Sequence[plain.Model],
    pool: Sequence[plain.Model],
    *,
    what: str | None = None,
    place: str = "host",
    one_thread: bool = True,
    known: Row | None = None,
) -> Row:
    """Measure both sides of one case in alternation.

    Args:
        sizes: number of models of the plain side, and repeats.
        methods: methods that are computed together.
        models: models for this library, all in `place`.
        pool: models for the plain side, on the host.
        what: name of the row; by default the method's.
        place: where the features are.
        one_thread: whether the plain side is measured with one thread too.
        known: a row with the same plain side, which is not measured again.
    """
    import threadpoolctl

    m, n, (_, d), c = len(models), sizes.n, pool[0].features.shape, pool[0].num_classes
    repeats = min(sizes.repeats, 3) if m > 100 else sizes.repeats
    theirs = repeats if sizes.plain_repeats is None else sizes.plain_repeats
    theirs = 0 if known else theirs
    few = [pool[i % len(pool)] for i in range(min(m, sizes.plain_models))]
    banks.score_bank(models, methods)  # compiles
    if theirs and one_thread:
        banks.score_plain(few[:1], methods)  # imports
    times: dict[str, list[float]] = {"ours": [], "plain": [], "one": []}
    before = machine.resident() if machine.forget_peak() else None
    peak = None
    for repeat in range(max(repeats, theirs)):
        if repeat < repeats:
            times["ours"].append(_seconds(lambda: banks.score_bank(models, methods)) / m)
            if repeat == 0 and (high := machine.peak()) is not None and before is not None:
                peak = high - before
        if repeat < theirs:
            times["plain"].append(_seconds(lambda: banks.score_plain(few, methods)) / len(few))
            if one_thread:
                with threadpoolctl.threadpool_limits(1):
                    seconds = _seconds(lambda: banks.score_plain(few, methods))
                times["one"].append(seconds / len(few))
    operations, read = banks.least_work(methods, n, d, c, sizes.z)
    ours, theirs_, theirs_one = ([1e3 * t for t in times[side]] for side in times)
    seconds = statistics.median(times["ours"])
    copy_rate = ceilings.host_copy_rate() if place == "host" else None
    return Row(
        what or methods[0],
        m,
        d,
        c,
        place,
        ours=ours,
        plain=known.plain if known else theirs_,
        plain_one_thread=known.plain_one_thread if known else theirs_one,
        peak_mib=peak,
        operations=operations,
        bytes=read,
        share=operations / seconds / ceilings.matrix_rate(jnp.dtype(jnp.float32)),
        copy_share=read / seconds / copy_rate if copy_rate else None,
    )


def _seconds(run: Callable[[], Any]) -> float:
    time.sleep(PAUSE)
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


_FIRST = """
import time, numpy as np, jaxparc
x = np.random.default_rng(0).random(({n}, {d}), np.float32)
y = np.arange({n}) % {c}
started = time.perf_counter()
jaxparc.score_bank({{"a": x}}, y)
first = time.perf_counter() - started
started = time.perf_counter()
jaxparc.score_bank({{"a": x}}, y)
print(first, time.perf_counter() - started)
"""


def first_call(sizes: Sizes) -> float:
    """Return the seconds by which the first call exceeds the second, in a new process."""
    code = _FIRST.format(n=sizes.n, d=sizes.d, c=sizes.c)
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    first, second = map(float, done.stdout.split())
    return first - second


NINE = "nine methods"
EIGHTEEN = "eighteen methods"


def cases(sizes: Sizes, given: Banks) -> list[Case]:
    """Return all cases, in the order of the table.

    The most important ones have features of width `sizes.d`: PARC f=32, and all methods together
    on features that are on the device, if there is such a place.
    """
    measured_before: dict[tuple[tuple[str, ...], int, int], Row] = {}

    def case(
        methods: Sequence[str],
        m: int,
        d: int,
        c: int,
        place: str,
        priority: int,
        what: str | None = None,
        of: Sizes = sizes,
        one_thread: bool = True,
    ) -> Case:
        def rows() -> list[Row]:
            key = tuple(methods), d, c
            # The plain side does not depend on the place of the features.
            known = measured_before.get(key) if place != sizes.places[0] else None
            models, pool = given.placed(d, c, place, m), given.pool(d, c)
            row = measure(
                of,
                methods,
                models,
                pool,
                what=what,
                place=place,
                one_thread=one_thread,
                known=known,
            )
            measured_before[key] = row
            return [row]

        name = f"{what or methods[0]}, m={m}, d={d}, c={c}, {place}"
        return Case(name, f"bank, {len(methods)} methods", rows, priority)

    first, d, c, m = sizes.places[0], sizes.d, sizes.c, sizes.m
    found = [
        case(["parc_f32"], models, width, c, place, 0 if width == d else 1)
        for width in sizes.widths
        for models in sizes.models
        for place in sizes.places
    ]
    found += [case(["parc_f32"], m, d, k, first, 2) for k in sizes.classes if k != c]
    found += [case([method], m, d, c, first, 2) for method in sizes.alone]
    found += [
        case(
            banks.TOGETHER,
            m,
            width,
            c,
            place,
            0 if (width, place) == (d, first) else 1,
            what=NINE,
        )
        for width in sizes.together
        for place in sizes.places
    ]
    if sizes.together:
        found.append(case([*banks.TOGETHER, *banks.LATER], m, d, c, first, 1, what=EIGHTEEN))
    slow = dataclasses.replace(sizes, plain_models=1, plain_repeats=int(sizes.slow))
    found.append(case(["hscore"], m, d, c, first, 3, of=slow, one_thread=False))
    return found


HEADER = (
    "method",
    "m",
    "d",
    "c",
    "features on",
    "ms/model",
    "models/s",
    "plain",
    "plain, 1 thread",
    "ratio",
    "to the faster",
    "peak MiB",
    "least Mop",
    "least MB",
    "of matrix rate",
    "of copy rate",
)


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row as the tables print it."""
    return (
        row.what,
        f"{row.m}",
        f"{row.d}",
        f"{row.c}",
        row.place,
        measured.spread(row.ours),
        f"{row.models_per_second():,.0f}",
        *(measured.spread(times) for times in (row.plain, row.plain_one_thread)),
        *("–" if ratio is None else f"{ratio:.1f}" for ratio in (row.ratio(), row.ratio_best())),
        "–" if row.peak_mib is None else f"{row.peak_mib:.0f}",
        f"{row.operations / 1e6:.0f}",
        f"{row.bytes / 1e6:.1f}",
        f"{100 * row.share:.0f} %",
        "–" if row.copy_share is None else f"{100 * row.copy_share:.0f} %",
    )


def section(sizes: Sizes) -> Section:
    """Return the section of the sizes."""
    given = Banks(sizes)
    rate = ceilings.matrix_rate(jnp.dtype(jnp.float32))
    about = {"matrix_gflops": rate / 1e9}
    note = f"n = {sizes.n}. Float32 matrix rate {rate / 1e9:.0f} GFLOP/s."
    if sizes.first_call:
        about["first_call_seconds"] = seconds = first_call(sizes)
        note += f" The first call of the default method takes {seconds:.2f} s more than the second."
    note += f" {NINE!r} is {', '.join(banks.TOGETHER)} in one call; {EIGHTEEN!r} has also"
    note += f" {', '.join(banks.LATER)}."
    return Section(
        name="bank",
        packages=PACKAGES,
        sizes=sizes,
        cases=cases(sizes, given),
        header=HEADER,
        cells=cells,
        title=f"n={sizes.n}, milliseconds per model: median (fastest–slowest)",
        note=note,
        about=about,
        free=given.free,
    )


def add(command: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    measured.add_quick(command, "sizes")
    measured.add_out(command)
    command.add_argument(
        "--skip-slow", action="store_true", help="skip plain H-Score, which takes up to a minute"
    )
    command.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    sizes = default(args.quick)
    if args.skip_slow:
        sizes = dataclasses.replace(sizes, slow=False)
    measured.run(section(sizes), args.out, args.ran)
