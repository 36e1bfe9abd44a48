"""--dry-run: what a command would extract, what is missing, in what time and memory."""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxparc import printing
from jaxparc.bank import facts, features
from jaxparc.bank.entry import Entry
from jaxparc.commands.jobs import Job
from jaxparc.units.unit import is_done


def print_plan(jobs: Sequence[Job]) -> None:
    """Print what extracting features would do; nothing is written.

    The time is an estimate from one batch of the cheapest and of the costliest architecture, with
    weights of zeros; both are compiled for it, which the extraction then need not do.

    Args:
        jobs: one per probe set.
    """
    todo: list[tuple[Entry, int]] = []
    done = 0
    for job in jobs:
        units = dict(zip(map(features.unit_name, job.entries), job.units(), strict=True))
        for entry in job.entries:
            if is_done(units[features.unit_name(entry)]):
                done += 1
            else:
                todo.append((entry, len(job.probe.labels)))
    bad = {entry.name: reason for entry, _ in todo if (reason := _flaw(entry))}
    images = printing.count(len(jobs[0].probe.labels), "image")
    sets = f" of {len(jobs)} probe sets" if len(jobs) > 1 else ""
    models = printing.count(len(todo) - len(bad) * len(jobs), "model")
    print(printing.shown(f"would extract {models}, {images} each{sets}, to {jobs[0].folder}"))
    if done:
        print(f"{done} already done")
    for name, reason in bad.items():
        print(printing.shown(f"would fail: {name}: {reason}"))
    runs = [(entry, count) for entry, count in todo if entry.name not in bad]
    if runs:
        _print_costs(runs, jobs[0].batch_size)


def _flaw(entry: Entry) -> str | None:
    """Return why a model would fail, as far as that is known without reading its weights."""
    if entry.refused is not None:
        return entry.refused
    if entry.weights is not None and not entry.weights.exists():
        return f"{entry.weights} does not exist"
    try:
        entry.counts()
    except ValueError as error:
        return printing.line(error)
    return None


def _gmacs(entry: Entry) -> float:
    """Return the cost of a network of `jaxparc.models`, which is always known."""
    gmacs = entry.counts().gmacs
    assert gmacs is not None
    return gmacs


def _print_costs(runs: Sequence[tuple[Entry, int]], batch_size: int) -> None:
    """Print the estimates of time and memory for models and their numbers of images."""
    others = sorted({entry.kind for entry, _ in runs} - {"architecture"})
    if others:
        count = printing.count(sum(entry.kind in others for entry, _ in runs), "model")
        print(printing.shown(f"{count} of {', '.join(others)}: time and memory unknown"))
    runs = [(entry, count) for entry, count in runs if entry.native]
    if not runs:
        return
    ordered = sorted((entry for entry, _ in runs), key=_gmacs)
    total = sum(_gmacs(entry) * count for entry, count in runs)
    ends = [ordered[0]]
    if _gmacs(ordered[-1]) > _gmacs(ordered[0]):
        ends.append(ordered[-1])
    rates = {entry.name: _rate(entry, batch_size) for entry in ends}
    seconds = [total / rate for rate in rates.values()]
    shown = ", ".join(f"{rate:.0f} GMACs/s by {name}" for name, rate in rates.items())
    span = printing.duration(min(seconds), max(seconds))
    print(f"about {span} on this machine, loading and compilation not included:")
    print(printing.shown(f"{total:,.0f} GMACs at {shown}"))
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:  # only Linux has it
        return
    if peak := re.search(r"VmHWM:\s+(\d+) kB", status):
        used = f"{1024 * int(peak[1]) / 1e9:.1f} GB"
        print(printing.shown(f"memory: {used}, with a batch of {ordered[-1].name}"))


def _rate(entry: Entry, batch_size: int) -> float:
    """Return billion multiply-adds per second of a model with weights of zeros, for one batch."""
    import jax

    from jaxparc import extraction, models
    from jaxparc.weights import torchvision

    spec = models.get(entry.architecture)
    size = entry.size or spec.input_size
    shapes = torchvision.variable_shapes(entry.architecture, num_classes=facts.CLASSES)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    module = spec.module(num_classes=facts.CLASSES)
    network = extraction.compile_network(module, zeros, mean=spec.mean, std=spec.std)
    devices = jax.local_device_count()
    images = np.zeros((-(-batch_size // devices) * devices, size, size, 3), np.uint8)
    jax.block_until_ready(network(images))
    started = time.perf_counter()
    jax.block_until_ready(network(images))
    return _gmacs(entry) * len(images) / (time.perf_counter() - started)
