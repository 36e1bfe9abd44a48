"""`python -m experiments.speed bank`: `score_bank` against plain implementations.

Both sides run in one process, alternate and are warmed up; times are medians, with the range from
the fastest to the slowest repeat. OpenBLAS's threads keep spinning for a while after each call, so
there is a pause between the sides, and the plain side is measured both with its default number of
threads and with one.
"""

import dataclasses
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import jaxparc
from experiments.speed import measured, plain
from jaxparc import selectors

PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "scikit-learn")
POOL = 16  # distinct models; a larger bank repeats them under other names
PAUSE = 0.2  # seconds between the sides


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes to measure.

    Attributes:
        n: number of images.
        models: values of m, the number of models, for PARC f=32.
        widths: values of d, the feature width, for PARC f=32.
        classes: values of c, the number of classes, for PARC f=32.
        m: number of models for the other methods.
        d: feature width for the other methods.
        c: number of classes for the other methods.
        z: number of source classes.
        plain_models: number of models for the plain side.
        repeats: repeats of each side; at most three for more than 100 models.
    """

    n: int = 500
    models: tuple[int, ...] = (1, 8, 65, 512)
    widths: tuple[int, ...] = (512, 1024, 2048, 4096)
    classes: tuple[int, ...] = (10, 37, 200)
    m: int = 65
    d: int = 2048
    c: int = 10
    z: int = 1000
    plain_models: int = 8
    repeats: int = 5


QUICK = dataclasses.replace(Sizes(), models=(8, 65), widths=(2048,), repeats=3)

# Measured together, as users request them, without H-Score: its plain side inverts a d x d matrix.
TOGETHER = ("parc_f32", "parc", "rsa", "dds", "nce", "leep", "knn", "logistic", "heuristic")
ALONE = ("parc", "rsa", "rsa_f32", "dds", "dds_f32", "nce", "leep", "knn", "logistic", "hscore_f32")


def synthetic(sizes: Sizes, d: int, c: int, seed: int) -> plain.Model:
    """Return a model with realistic features: rectified, correlated, with separable classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(sizes.n) % c
    spectrum = np.arange(1, d + 1) ** -0.5
    code = rng.normal(size=(sizes.n, d)) + 0.7 * rng.normal(size=(c, d))[labels]
    units = (code * spectrum).astype(np.float32) @ rng.normal(size=(d, d)).astype(np.float32)
    probs = rng.gamma(0.05, size=(sizes.n, sizes.z)) + 3 * (labels[:, None] == np.arange(sizes.z))
    return plain.Model(
        features=np.maximum(units / units.std(), 0),
        labels=labels,
        num_classes=c,
        probs=(probs / probs.sum(axis=1, keepdims=True)).astype(np.float32),
        reference=np.maximum(units[:, ::-1] / units.std() + 0.5, 0),
    )


def score_bank(models: Sequence[plain.Model], m: int, methods: Sequence[str]) -> jaxparc.BankScores:
    """Score m models, repeating `models`, with this library."""
    names = [str(i) for i in range(m)]
    chosen = [models[i % len(models)] for i in range(m)]
    needs = {need for method in methods for need in selectors.method(method).needs}
    with warnings.catch_warnings(action="ignore"):  # H-Score is at its limit for these widths
        return jaxparc.score_bank(
            dict(zip(names, (one.features for one in chosen), strict=True)),
            chosen[0].labels,
            methods=methods,
            num_classes=chosen[0].num_classes,
            probs=[one.probs for one in chosen] if "probs" in needs else None,
            reference=chosen[0].reference if "reference" in needs else None,
            layers=[one.layers for one in chosen],
            source_images=[one.source_images for one in chosen],
            target_images=int(chosen[0].target_images),
        )


def score_plain(models: Sequence[plain.Model], m: int, methods: Sequence[str]) -> None:
    """Score m models, repeating `models`, one after another with the plain implementations."""
    for i in range(m):
        for method in methods:
            plain.score(method, models[i % len(models)])


def least_work(methods: Sequence[str], n: int, d: int, c: int, z: int) -> tuple[float, float]:
    """Return the minimum operations and bytes per model that the usual algorithms need.

    Work that methods can share counts once.
    """
    operations: dict[str, float] = {}
    read: dict[str, float] = {}
    for method in methods:
        name, _, reduction = method.partition("_f")
        if name in ("nce", "leep"):
            read["probs"] = 4.0 * n * z
        elif name != "heuristic":
            read["features"] = 4.0 * n * d  # every feature is read
        if reduction:
            # one product with f vectors and its transpose; the algorithm decides how many
            operations[f"components {reduction}"] = 4.0 * n * d * int(reduction)
        elif name in ("parc", "rsa", "dds", "hscore"):
            # half of the symmetric product of standardised images; H-Score needs a basis of it
            operations["standardised images"] = 1.0 * n * n * d
        elif name == "knn":
            operations["images"] = 1.0 * n * n * d  # half of the product of unscaled images
        elif name == "logistic":
            # one evaluation of logits and gradient for half of the images, and logits of the rest
            operations["logistic"] = 3.0 * n * d * c
        elif name == "nce":
            operations["nce"] = 1.0 * n * z  # the maximum of every row
        elif name == "leep":
            operations["leep"] = 4.0 * n * z  # each probability enters one sum and leaves it
    return sum(operations.values()), sum(read.values())


@dataclasses.dataclass
class Row:
    """One row of the table.

    Attributes:
        what: the method, or the methods that are scored together.
        m: number of models.
        d: feature width.
        c: number of classes.
        ours: milliseconds per model for every repeat of this library.
        plain: the same for the plain side with its default threads; empty if not measured.
        plain_one_thread: the same with one thread.
        peak_mib: peak memory in MiB, above the memory in use before; None if unknown.
        operations: minimum number of operations per model; see `least_work`.
        bytes: minimum number of bytes per model; see `least_work`.
        share: `operations` per second over the device's matrix rate.
    """

    what: str
    m: int
    d: int
    c: int
    ours: list[float]
    plain: list[float]
    plain_one_thread: list[float]
    peak_mib: float | None
    operations: float
    bytes: float
    share: float

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
    m: int,
    rate: float,
    *,
    what: str | None = None,
    plain_repeats: int | None = None,
) -> Row:
    """Measure both sides of one case in alternation."""
    import threadpoolctl

    repeats = min(sizes.repeats, 3) if m > 100 else sizes.repeats
    theirs = repeats if plain_repeats is None else plain_repeats
    few = min(m, sizes.plain_models)
    score_bank(models, m, methods)  # compiles
    if theirs > 1:
        score_plain(models, 1, methods)  # imports
    times: dict[str, list[float]] = {"ours": [], "plain": [], "one": []}
    before = measured.resident() if measured.forget_peak() else None
    peak = None
    for repeat in range(max(repeats, theirs)):
        if repeat < repeats:
            times["ours"].append(_seconds(lambda: score_bank(models, m, methods)) / m)
            if repeat == 0 and (high := measured.peak()) is not None and before is not None:
                peak = high - before
        if repeat < theirs:
            times["plain"].append(_seconds(lambda: score_plain(models, few, methods)) / few)
            if plain_repeats is None:
                with threadpoolctl.threadpool_limits(1):
                    seconds = _seconds(lambda: score_plain(models, few, methods))
                times["one"].append(seconds / few)
    n, d, c = sizes.n, models[0].features.shape[1], models[0].num_classes
    operations, read = least_work(methods, n, d, c, sizes.z)
    milliseconds = [[1e3 * t for t in times[side]] for side in ("ours", "plain", "one")]
    return Row(
        what or methods[0],
        m,
        d,
        c,
        ours=milliseconds[0],
        plain=milliseconds[1],
        plain_one_thread=milliseconds[2],
        peak_mib=peak,
        operations=operations,
        bytes=read,
        share=operations / statistics.median(times["ours"]) / rate,
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


def rows(sizes: Sizes, *, slow: bool, rate: float) -> Iterator[Row]:
    """Measure all cases, one after another."""
    pools: dict[tuple[int, int], list[plain.Model]] = {}

    def pool(d: int, c: int) -> list[plain.Model]:
        if (d, c) not in pools:
            pools.clear()
            pools[d, c] = [synthetic(sizes, d, c, seed) for seed in range(POOL)]
        return pools[d, c]

    for d in sizes.widths:
        for m in sizes.models:
            yield measure(sizes, ["parc_f32"], pool(d, sizes.c), m, rate)
    for c in sizes.classes:
        if c != sizes.c:
            yield measure(sizes, ["parc_f32"], pool(sizes.d, c), sizes.m, rate)
    models = pool(sizes.d, sizes.c)
    for method in ALONE:
        yield measure(sizes, [method], models, sizes.m, rate)
    yield measure(sizes, TOGETHER, models, sizes.m, rate, what="all but hscore")
    few = dataclasses.replace(sizes, plain_models=1)
    yield measure(few, ["hscore"], models, sizes.m, rate, plain_repeats=1 if slow else 0)


HEADER = (
    "method",
    "m",
    "d",
    "c",
    "ms/model",
    "plain",
    "plain, 1 thread",
    "ratio",
    "to the faster",
    "peak MiB",
    "least Mop",
    "least MB",
    "of matrix rate",
)


def cells(row: Row) -> tuple[str, ...]:
    """Return the cells of a row as the tables print it."""
    return (
        row.what,
        f"{row.m}",
        f"{row.d}",
        f"{row.c}",
        *(measured.spread(times) for times in (row.ours, row.plain, row.plain_one_thread)),
        *("–" if ratio is None else f"{ratio:.1f}" for ratio in (row.ratio(), row.ratio_best())),
        "–" if row.peak_mib is None else f"{row.peak_mib:.0f}",
        f"{row.operations / 1e6:.0f}",
        f"{row.bytes / 1e6:.1f}",
        f"{100 * row.share:.0f} %",
    )


def bank(sizes: Sizes, *, slow: bool = True, out: Path | None = None) -> list[Row]:
    """Measure and print all cases, and write OUT.md and OUT.json.

    Args:
        sizes: sizes of the cases.
        slow: whether to measure the plain side of H-Score without PCA.
        out: path without a suffix; None to write nothing.
    """
    rate = measured.matrix_rate(jnp.dtype(jnp.float32))
    compilation = first_call(sizes)
    return measured.run(
        "bank",
        PACKAGES,
        sizes,
        rows(sizes, slow=slow, rate=rate),
        HEADER,
        cells,
        f"n={sizes.n}, milliseconds per model: median (fastest–slowest)",
        out,
        note=f"Float32 matrix rate {rate / 1e9:.0f} GFLOP/s. The first call of the default method "
        f"takes {compilation:.2f} s more than the second. n = {sizes.n}.",
        about={"matrix_gflops": rate / 1e9, "first_call_seconds": compilation},
    )


def add(commands: measured.Commands) -> None:
    """Add the command and its flags."""
    about = "score_bank against plain implementations"
    command = measured.command(commands, "bank", about, "sizes")
    command.add_argument(
        "--skip-slow", action="store_true", help="skip plain H-Score, which takes up to a minute"
    )
    command.set_defaults(
        run=lambda args: bank(
            QUICK if args.quick else Sizes(), slow=not args.skip_slow, out=args.out
        )
    )
