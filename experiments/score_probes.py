"""Stage 4: score every transfer by every selector, from the probe files.

Trains missing sources and extracts missing features first. Writes a file per target and probe set
to scores/, and from these scores.csv and times.csv, the seconds of every unit of every stage.
"""

import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxparc
from experiments import extract_probes, train_sources, transfer_results
from experiments.runner import command_line
from experiments.runner.run import Run, Stage, StageError, run_units
from jaxparc import array_files, files, labels, selectors
from jaxparc.evaluation import Transfer
from jaxparc.training import checkpoints
from jaxparc.units.progress import say
from jaxparc.units.unit import Unit, is_done, read_result, write_result


def stage(run: Run) -> int:
    """Compute missing scores; return the number of failures, including missing probe files."""
    banks = [
        _Bank(run, target, probe_set)
        for target in run.benchmark.target_names
        for probe_set in range(run.benchmark.probe_sets)
    ]
    units = [
        Unit(bank.name, bank.path, bank.check, bank.score)
        for bank in banks
        if not run.allow_missing or any(t.source != t.target for t in bank.present())
    ]
    failures = run_units(run, "score_probes", units)
    for bank in banks if not run.allow_missing else ():
        for transfer in sorted(set(bank.transfers) - set(bank.present())):
            say(f"not scored: {extract_probes.unit_name(transfer, bank.probe_set)} is missing")
            failures += 1
    _write_scores(run)
    _write_times(run)
    return failures


def _unit_name(target: str, probe_set: int) -> str:
    return f"{target}, probe set {probe_set}"


def _path(run: Run, target: str, probe_set: int) -> Path:
    return run.out / "scores" / f"{target}_{probe_set}.json"


# Transfer, of a model or the reference -> the arrays of its probe file.
Probes = Mapping[Transfer, Mapping[str, np.ndarray]]


def read(run: Run, transfers: Sequence[Transfer], probe_set: int) -> Probes:
    """Read the probe files of transfers to one target.

    Missing files are left out; damaged ones are moved aside and left out.

    Raises:
        StageError: no model has a probe file, except possibly the reference.
    """
    found = {t: _load(run, t, probe_set) for t in transfers}
    probes = {t: arrays for t, arrays in found.items() if arrays is not None}
    if all(t.source == t.target for t in probes):
        targets = ", ".join(dict.fromkeys(t.target for t in transfers))
        raise StageError(f"{targets}, probe set {probe_set}: no model has a probe file")
    return probes


def _load(run: Run, transfer: Transfer, probe_set: int) -> dict[str, np.ndarray] | None:
    """Return the arrays of a probe file; None if it is missing, or damaged and moved aside."""
    unit = extract_probes.unit_of(run, transfer, probe_set)
    loaded: list[dict[str, np.ndarray]] = []

    def load(path: Path, name: str) -> None:
        loaded.append(unit.check(path, name))

    return loaded[0] if is_done(dataclasses.replace(unit, check=load)) else None


class _Bank:
    """The models to score on one probe set of a target, and the unit that scores them.

    Probe files are read only once: for scoring or, if the scores exist, for checking them.
    """

    def __init__(self, run: Run, target: str, probe_set: int) -> None:
        self.run, self.target, self.probe_set = run, target, probe_set
        self.name = _unit_name(target, probe_set)
        self.path = _path(run, target, probe_set)
        self.transfers = [
            t for t in extract_probes.probed_transfers(run.benchmark) if t.target == target
        ]
        self._read = False

    def present(self) -> list[Transfer]:
        """Return the transfers, the reference's included, that have a probe file."""
        return [
            t
            for t in self.transfers
            if extract_probes.path_of(self.run, t, self.probe_set).exists()
        ]

    def check(self, path: Path, name: str) -> None:
        """Check that there are scores for exactly the models with an undamaged probe file.

        Raises:
            FileNotFoundError: the scores are missing, or are those of other models, or of what the
                bank file said of the models before.
            DamagedFileError: the file of scores is damaged.
        """
        content = read_result(path, name)
        scored = [Transfer(*t) for t in content["looks"]]
        if scored == self.present() and not self._read:
            for transfer in scored:
                _load(self.run, transfer, self.probe_set)
            self._read = True
        if scored != self.present():
            # Eq. 6 standardises over the models, so another model changes all scores.
            raise FileNotFoundError(f"{path} has the scores of other models")
        if content.get("networks") != self._networks(scored):
            raise FileNotFoundError(f"{path} has the scores of other layers or source images")

    def _networks(self, transfers: Sequence[Transfer]) -> list[list[int | None]] | None:
        """Return what the bank file says and no probe file holds; None without a bank file."""
        benchmark = self.run.benchmark
        if not benchmark.bank:
            return None
        found = [benchmark.network(t.architecture, t.source) for t in transfers]
        return [[one.layers, one.source_images] for one in found]

    def score(self, on_images: Callable[[int], None]) -> None:
        """Score all models with an undamaged probe file."""
        probes = read(self.run, self.present(), self.probe_set)
        self._read = True
        score, given = scorer(self.run, self.target, probes)
        bank = [t for t in probes if t.source != self.target]
        scores: dict[str, list[float | None]] = {}
        seconds: dict[str, float] = {}
        for methods in together(self.run.benchmark.methods):
            if not given.has_all_of(methods[0]):
                scores |= {label: [None] * len(bank) for label in methods}
                continue
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                scored, elapsed = timed(score, methods)
            for warning in caught:
                say(f"{self.name}: {warning.message}")
            for label, column in zip(methods, scored.values.T, strict=True):
                scores[label] = [None if math.isnan(s) else float(s) for s in column]
                seconds[label] = elapsed
        on_images(len(probes) * len(given.labels))
        content = {
            "looks": list(probes),  # including the reference
            "networks": self._networks(list(probes)),
            "transfers": bank,
            "scores": scores,
            "seconds": seconds,
        }
        write_result(self.path, self.name, content)


class Given(NamedTuple):
    """The inputs of methods that the probe files of a target and a probe set provide.

    Attributes:
        labels: labels of the probe set, (n,) or (n, c).
        kind: kind of the labels, one of `jaxparc.labels.KINDS`.
        reference: whether there are features of a model trained on the target.
        probs: whether all models have class probabilities.
    """

    labels: np.ndarray
    kind: str
    reference: bool
    probs: bool

    def has_all_of(self, label: str) -> bool:
        """Return whether a method accepts these labels and all its inputs are available."""
        method = selectors.method(label)
        available = {"reference": self.reference, "probs": self.probs}
        return self.kind in method.kinds and all(available.get(need, True) for need in method.needs)


def scorer(
    run: Run, target: str, probes: Probes, images: int | None = None
) -> tuple[Callable[..., jaxparc.BankScores], Given]:
    """Return a function that scores probe files by some `methods`, and their available inputs.

    Args:
        run: the benchmark.
        target: short name of the target.
        probes: the result of `read`.
        images: number of images to use, from the start of the probe set; None for all.
    """
    benchmark = run.benchmark
    cut = {
        t: {name: arrays[name][:images] for name in ("features", "probs", "y") if name in arrays}
        for t, arrays in probes.items()
    }
    bank = [t for t in cut if t.source != target]
    reference = cut.get(Transfer(benchmark.reference, target, target), {}).get("features")
    y = cut[bank[0]]["y"]
    score = functools.partial(
        jaxparc.score_bank,
        {"/".join(t): cut[t]["features"] for t in bank},
        y,
        probs={"/".join(t): cut[t]["probs"] for t in bank if "probs" in cut[t]},
        reference=reference,
        num_classes=benchmark.data(target).num_classes,
        layers=[benchmark.layers(t.architecture, t.source) for t in bank],
        source_images=[benchmark.source_images(t.architecture, t.source) for t in bank],
        target_images=benchmark.images(target),
        ell_max=benchmark.ell_max,
    )
    with_probs = all("probs" in cut[t] for t in bank)
    return score, Given(y, labels.encode(y).kind, reference is not None, with_probs)


def timed(
    score: Callable[..., jaxparc.BankScores], methods: Sequence[str]
) -> tuple[jaxparc.BankScores, float]:
    """Return scores, and the seconds of the call; of a second one, if the first compiled."""
    compilations = _compilations()
    before, started = len(compilations), time.monotonic()
    scored = score(methods=methods)
    if len(compilations) > before:
        started = time.monotonic()
        with warnings.catch_warnings(action="ignore"):
            score(methods=methods)
    return scored, time.monotonic() - started


@functools.cache
def _compilations() -> list[str]:
    """Return a list that grows with every program compiled, or read from the cache, from now on.

    JAX tells of these only to listeners, which stay registered.
    """
    compiled: list[str] = []

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del duration_secs, kwargs
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    return compiled


def together(methods: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Yield groups of methods that differ only in "+ layers", which share a program and a time."""
    plain = dict.fromkeys(method.removesuffix("+l") for method in methods)
    for name in plain:
        yield tuple(method for method in methods if method.removesuffix("+l") == name)


def _results(run: Run) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield the probe set, the unit's name and the content of every file of scores."""
    for probe_set in range(run.benchmark.probe_sets):
        for target in run.benchmark.target_names:
            if (path := _path(run, target, probe_set)).exists():
                name = _unit_name(target, probe_set)
                yield probe_set, name, read_result(path, name)


def _write_scores(run: Run) -> None:
    methods = run.benchmark.methods
    rows: list[tuple[Any, ...]] = [
        ("Run", "Architecture", "Source Dataset", "Target Dataset", *methods)
    ]
    for probe_set, _, content in _results(run):
        for i, transfer in enumerate(content["transfers"]):
            scores = (content["scores"][method][i] for method in methods)
            cells = ("" if s is None else f"{s:.6f}" for s in scores)
            rows.append((probe_set, *transfer, *cells))
    files.write_text(run.out / "scores.csv", files.table_text(rows))


def _write_times(run: Run) -> None:
    """Write times.csv: stage, unit, method, items (transfers in score_probes, else 1), seconds."""
    benchmark = run.benchmark
    rows: list[tuple[Any, ...]] = [("Stage", "Unit", "Method", "Items", "Seconds")]
    for architecture, source in benchmark.models():
        path = train_sources.weights_path(run, architecture, source)
        if path.exists():
            seconds = checkpoints.metadata(path)["seconds"]
            if math.isnan(seconds):
                continue  # published weights, so not measured here
            unit = train_sources.unit_name(architecture, source)
            rows.append(("train_sources", unit, "", 1, seconds))
    for unit, seconds in transfer_results.seconds(run):
        rows.append(("finetune_all", unit, "", 1, seconds))
    for transfer in extract_probes.probed_transfers(benchmark):
        for probe_set in range(benchmark.probe_sets):
            path = extract_probes.path_of(run, transfer, probe_set)
            if path.exists():
                unit = extract_probes.unit_name(transfer, probe_set)
                seconds = _extraction_seconds(path)
                if math.isnan(seconds):
                    continue  # imported, so not measured here
                rows.append(("extract_probes", unit, "", 1, seconds))
    for _, unit, content in _results(run):
        for method, seconds in content["seconds"].items():
            items = len(content["transfers"])
            rows.append(("score_probes", unit, method, items, seconds))
    cells = (tuple(f"{c:.4f}" if isinstance(c, float) else c for c in row) for row in rows)
    files.write_text(run.out / "times.csv", files.table_text(cells))


def _extraction_seconds(path: Path) -> float:
    """Return the seconds that a probe file records, without reading its other arrays."""
    try:
        with array_files.Archive(path) as archive:
            return float(archive["seconds"])
    except ValueError as error:
        raise files.DamagedFileError(f"{path} is damaged: {error.__cause__ or error}") from error


STAGE = Stage(stage, name="score_probes")

if __name__ == "__main__":
    command_line.main(__doc__, train_sources.STAGE, extract_probes.STAGE, STAGE)
