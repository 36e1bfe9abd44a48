"""What the speed tables ran: this library against plain implementations, in one process.

    python -m experiments.speed bank --out docs/measured/bank_cpu
    python -m experiments.speed input --out docs/measured/input_cpu
    python -m experiments.speed extract --out docs/measured/extract_cpu

Both sides alternate, warmed up; times are medians, with the spread from the fastest to the slowest
repeat. OpenBLAS's threads keep spinning for a while after each of its calls, so there is a pause
between the sides, and the plain side is measured with the threads it has by default and with one.
"""

import argparse
import contextlib
import ctypes
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
from rich.table import Table

import jaxparc
from experiments.speed import extract as speed_extract
from experiments.speed import input as speed_input
from experiments.speed import measured as _measured
from experiments.speed import plain
from experiments.speed import train as speed_train
from jaxparc import printing, selectors

PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "scikit-learn")
POOL = 16  # different models; a larger bank has them again under other names
PAUSE = 0.2  # seconds between the sides


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What `bank` measures.

    Attributes:
        n: images.
        models: m, of the table of PARC f=32.
        widths: d, likewise.
        classes: c, likewise.
        m: models of the other methods.
        d: width of the other methods.
        c: classes of the other methods.
        z: source classes.
        plain_models: models of the plain side.
        repeats: of each side; three of a bank of hundreds.
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

# Together as people ask for them; H-Score inverts a d x d matrix on the plain side, for seconds.
TOGETHER = ("parc_f32", "parc", "rsa", "dds", "nce", "leep", "knn", "logistic", "heuristic")
ALONE = ("parc", "rsa", "rsa_f32", "dds", "dds_f32", "nce", "leep", "knn", "logistic", "hscore_f32")


def look(sizes: Sizes, d: int, c: int, seed: int) -> plain.Look:
    """A model as a network would be: rectified, correlated units, classes a little apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(sizes.n) % c
    spectrum = np.arange(1, d + 1) ** -0.5
    code = rng.normal(size=(sizes.n, d)) + 0.7 * rng.normal(size=(c, d))[labels]
    units = (code * spectrum).astype(np.float32) @ rng.normal(size=(d, d)).astype(np.float32)
    probs = rng.gamma(0.05, size=(sizes.n, sizes.z)) + 3 * (labels[:, None] == np.arange(sizes.z))
    return plain.Look(
        features=np.maximum(units / units.std(), 0),
        labels=labels,
        num_classes=c,
        probs=(probs / probs.sum(axis=1, keepdims=True)).astype(np.float32),
        reference=np.maximum(units[:, ::-1] / units.std() + 0.5, 0),
    )


def score_bank(looks: Sequence[plain.Look], m: int, methods: Sequence[str]) -> jaxparc.BankScores:
    """This library on m models, those of `looks` again and again."""
    names = [str(i) for i in range(m)]
    chosen = [looks[i % len(looks)] for i in range(m)]
    needs = {need for method in methods for need in selectors.method(method).needs}
    with warnings.catch_warnings(action="ignore"):  # H-Score is void at these widths
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


def score_plain(looks: Sequence[plain.Look], m: int, methods: Sequence[str]) -> None:
    """The plain implementations on m models, one method and model after the other."""
    for i in range(m):
        for method in methods:
            plain.score(method, looks[i % len(looks)])


def least_work(methods: Sequence[str], n: int, d: int, c: int, z: int) -> tuple[float, float]:
    """Operations and bytes per model that the usual algorithms do not do without, once each.

    What methods asked for together can share counts once.
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
            # products with f vectors, there and back, once; how often is the algorithm's affair
            operations[f"components {reduction}"] = 4.0 * n * d * int(reduction)
        elif name in ("parc", "rsa", "dds", "hscore"):
            # half of a symmetric product of all standardised images; its rank is H-Score's basis
            operations["standardised images"] = 1.0 * n * n * d
        elif name == "knn":
            operations["images"] = 1.0 * n * n * d  # half of a product of all images, unscaled
        elif name == "logistic":
            # logits and gradient of half of the images, once, and logits of the others
            operations["logistic"] = 3.0 * n * d * c
        elif name == "nce":
            operations["nce"] = 1.0 * n * z  # the largest of every row
        elif name == "leep":
            operations["leep"] = 4.0 * n * z  # each probability into one sum, and out of it
    return sum(operations.values()), sum(read.values())


@dataclasses.dataclass
class Row:
    """One line of the table; milliseconds are per model."""

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
        """Of the plain side's median, threads as they come, to ours."""
        return _ratio(self.plain, self.ours)

    def ratio_best(self) -> float | None:
        """Likewise, of the faster plain side."""
        ratios = [r for r in (self.ratio(), _ratio(self.plain_one_thread, self.ours)) if r]
        return min(ratios) if ratios else None


def _ratio(theirs: list[float], ours: list[float]) -> float | None:
    return statistics.median(theirs) / statistics.median(ours) if theirs else None


def measure(
    sizes: Sizes,
    methods: Sequence[str],
    looks: Sequence[plain.Look],
    m: int,
    rate: float,
    *,
    what: str | None = None,
    plain_repeats: int | None = None,
) -> Row:
    """Both sides of one case, alternating."""
    import threadpoolctl

    repeats = min(sizes.repeats, 3) if m > 100 else sizes.repeats
    theirs = repeats if plain_repeats is None else plain_repeats
    few = min(m, sizes.plain_models)
    score_bank(looks, m, methods)  # compiles
    if theirs > 1:
        score_plain(looks, 1, methods)  # imports
    times: dict[str, list[float]] = {"ours": [], "plain": [], "one": []}
    before = _resident() if _forget_peak() else None
    peak = None
    for repeat in range(max(repeats, theirs)):
        if repeat < repeats:
            times["ours"].append(_seconds(lambda: score_bank(looks, m, methods)) / m)
            if repeat == 0 and (high := _peak()) is not None and before is not None:
                peak = high - before
        if repeat < theirs:
            times["plain"].append(_seconds(lambda: score_plain(looks, few, methods)) / few)
            if plain_repeats is None:
                with threadpoolctl.threadpool_limits(1):
                    seconds = _seconds(lambda: score_plain(looks, few, methods))
                times["one"].append(seconds / few)
    n, d, c = sizes.n, looks[0].features.shape[1], looks[0].num_classes
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


def _forget_peak() -> bool:
    """Start a new high-water mark, from no more than what is in use; whether that can be done."""
    try:
        # What the allocator keeps of earlier calls would hide this one's need: it reads as 0.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return False
    return True


def _peak() -> float | None:
    return _status("VmHWM")


def _resident() -> float | None:
    return _status("VmRSS")


def _status(key: str) -> float | None:
    """MiB, of Linux's account of this process."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) / 1024
    return None


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
    """Seconds that the default method's first call takes more than its second, in a new process."""
    code = _FIRST.format(n=sizes.n, d=sizes.d, c=sizes.c)
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    first, second = map(float, done.stdout.split())
    return first - second


def rows(sizes: Sizes, *, slow: bool, rate: float) -> Iterator[Row]:
    """All cases, one after the other."""
    pools: dict[tuple[int, int], list[plain.Look]] = {}

    def pool(d: int, c: int) -> list[plain.Look]:
        if (d, c) not in pools:
            pools.clear()
            pools[d, c] = [look(sizes, d, c, seed) for seed in range(POOL)]
        return pools[d, c]

    for d in sizes.widths:
        for m in sizes.models:
            yield measure(sizes, ["parc_f32"], pool(d, sizes.c), m, rate)
    for c in sizes.classes:
        if c != sizes.c:
            yield measure(sizes, ["parc_f32"], pool(sizes.d, c), sizes.m, rate)
    looks = pool(sizes.d, sizes.c)
    for method in ALONE:
        yield measure(sizes, [method], looks, sizes.m, rate)
    yield measure(sizes, TOGETHER, looks, sizes.m, rate, what="all but hscore")
    few = dataclasses.replace(sizes, plain_models=1)
    yield measure(few, ["hscore"], looks, sizes.m, rate, plain_repeats=1 if slow else 0)


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
    """A row as the tables print it."""
    return (
        row.what,
        f"{row.m}",
        f"{row.d}",
        f"{row.c}",
        *(_measured.spread(times) for times in (row.ours, row.plain, row.plain_one_thread)),
        *("–" if ratio is None else f"{ratio:.1f}" for ratio in (row.ratio(), row.ratio_best())),
        "–" if row.peak_mib is None else f"{row.peak_mib:.0f}",
        f"{row.operations / 1e6:.0f}",
        f"{row.bytes / 1e6:.1f}",
        f"{100 * row.share:.0f} %",
    )


def bank(sizes: Sizes, *, slow: bool = True, out: Path | None = None) -> list[Row]:
    """Measure, print as it goes, and write OUT.md and OUT.json."""
    console = _measured.console()
    about = _measured.settings(PACKAGES)
    started = time.monotonic()
    rate = _measured.matrix_rate(jnp.dtype(jnp.float32))
    compilation = first_call(sizes)
    console.print(f"{about['device']}, {about['processor']}, {about['cores']} cores")
    console.print(f"float32 matrix rate {rate / 1e9:.0f} GFLOP/s; first call + {compilation:.2f} s")
    done = []
    for row in rows(sizes, slow=slow, rate=rate):
        done.append(row)
        console.print("  ".join(cells(row)), highlight=False)
    table = Table(*HEADER, title=f"n={sizes.n}, milliseconds per model: median (fastest–slowest)")
    for row in done:
        table.add_row(*cells(row))
    console.print(table)
    about |= {
        "matrix_gflops": rate / 1e9,
        "first_call_seconds": compilation,
        "sizes": dataclasses.asdict(sizes),
        "seconds": time.monotonic() - started,
    }
    console.print(f"measured in {about['seconds']:.0f} s")
    if out is not None:
        rows_ = [dataclasses.asdict(row) for row in done]
        console.print(_measured.write(out, about, rows_, markdown(done, about)))
    return done


def markdown(done: Sequence[Row], about: dict[str, Any]) -> str:
    """The table, and what it was measured with."""
    lines = [
        _measured.ran("bank", about),
        "",
        f"Float32 matrix rate {about['matrix_gflops']:.0f} GFLOP/s. The first call of the default "
        f"method takes {about['first_call_seconds']:.2f} s more than the second. "
        f"n = {about['sizes']['n']}.",
        "",
        *_measured.table(HEADER, map(cells, done)),
    ]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.speed", description=__doc__.splitlines()[0]
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    about = "score_bank against plain implementations"
    command = _measured.command(commands, "bank", about, "sizes")
    command.add_argument(
        "--skip-slow", action="store_true", help="no plain H-Score, which takes seconds to a minute"
    )
    command.set_defaults(
        run=lambda args: bank(
            QUICK if args.quick else Sizes(), slow=not args.skip_slow, out=args.out
        )
    )
    speed_input.add(commands)
    speed_extract.add(commands)
    speed_train.add(commands)
    with printing.ending():
        args = parser.parse_args(argv)
        args.run(args)
