"""Stage 4: every selector scores every transfer from its probe files.

Trains and extracts what is missing first. Writes one file per target and probe set to scores/,
and from these scores.csv; times.csv has the seconds of every unit of every stage.
"""

import functools
import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxparc
from experiments import extract_probes, finetune_all, train_sources
from experiments.runner import command_line
from experiments.runner.run import Run, Stage, run_units
from jaxparc import files, models, selectors
from jaxparc import labels as labels_
from jaxparc.errors import InputError
from jaxparc.evaluation import Transfer
from jaxparc.training import checkpoints
from jaxparc.units.progress import say
from jaxparc.units.unit import Unit, is_done, read_result, write_result


def stage(run: Run) -> int:
    """Score what is missing; returns the number of failures, probe files that lack included."""
    benchmark = run.benchmark
    lacking = 0
    todo = []
    for target in benchmark.target_names:
        for probe_set in range(benchmark.probe_sets):
            bank = [t for t in extract_probes.looks(benchmark) if t.target == target]
            # Damaged ones are moved aside here, and missing from then on.
            there = [t for t in bank if is_done(extract_probes.unit_of(run, t, probe_set))]
            for transfer in sorted(set(bank) - set(there)) if not run.allow_missing else ():
                say(f"not scored: {extract_probes.unit_name(transfer, probe_set)} is missing")
                lacking += 1
            if run.allow_missing and not any(t.source != target for t in there):
                continue
            todo.append(
                Unit(
                    _unit_name(target, probe_set),
                    _path(run, target, probe_set),
                    functools.partial(_check, run, there),
                    functools.partial(_score, run, target, probe_set, there),
                )
            )
    failures = run_units(run, "score_probes", todo)
    _write_scores(run)
    _write_times(run)
    return failures + lacking


def _unit_name(target: str, probe_set: int) -> str:
    return f"{target}, probe set {probe_set}"


def _path(run: Run, target: str, probe_set: int) -> Path:
    return run.out / "scores" / f"{target}_{probe_set}.json"


def _check(run: Run, looks: list[Transfer], path: Path, name: str) -> None:
    content = read_result(path, name)
    if [Transfer(*t) for t in content["looks"]] != looks:
        # Eq. 6 standardises over the models, so one more changes the scores of all.
        raise FileNotFoundError(f"{path} is of other models")


class Given(NamedTuple):
    """What a target's probe files hold.

    Attributes:
        labels: of the probe set.
        kind: of the labels, one of `jaxparc.labels.KINDS`.
        reference: whether there is a model that was trained on the target.
        probs: whether all models have class probabilities.
    """

    labels: np.ndarray
    kind: str
    reference: bool
    probs: bool

    def has_all_of(self, label: str) -> bool:
        """Whether a method can be applied: to these labels, and with what the models have."""
        method = selectors.method(label)
        there = {"reference": self.reference, "probs": self.probs}
        return self.kind in method.kinds and all(there.get(need, True) for need in method.needs)


Probes = Mapping[Transfer, Mapping[str, np.ndarray]]


def read(run: Run, looks: Sequence[Transfer], probe_set: int) -> Probes:
    """The probe files of transfers, and the reference's among them.

    Raises:
        ValueError: there is none but the reference's.
        FileNotFoundError: one is not there.
        DamagedFileError: one is not whole, or another unit's.
    """
    if all(t.source == t.target for t in looks):
        targets = ", ".join(dict.fromkeys(t.target for t in looks))
        raise InputError(f"no model's probe file of {targets}, probe set {probe_set} is there")
    return {
        t: extract_probes.read(
            extract_probes.path_of(run, t, probe_set), extract_probes.unit_name(t, probe_set)
        )
        for t in looks
    }


def scorer(
    run: Run, target: str, whole: Probes, images: int | None = None
) -> tuple[Callable[..., jaxparc.BankScores], Given]:
    """`score_bank` of the probe files of a target and a probe set, for any `methods`.

    Args:
        run: the benchmark.
        target: short name.
        whole: what `read` gave.
        images: how many of the probe set, from its start; None for all.
    """
    benchmark = run.benchmark
    probes = {
        t: {name: probe[name][:images] for name in ("features", "probs", "y") if name in probe}
        for t, probe in whole.items()
    }
    bank = [t for t in probes if t.source != target]
    reference = next((probes[t]["features"] for t in probes if t.source == target), None)
    labels = probes[bank[0]]["y"]
    score = functools.partial(
        jaxparc.score_bank,
        {"/".join(t): probes[t]["features"] for t in bank},
        labels,
        probs={"/".join(t): probes[t]["probs"] for t in bank if "probs" in probes[t]},
        reference=reference,
        num_classes=benchmark.data(target).num_classes,
        layers=[models.get(t.architecture).layers for t in bank],
        source_images=[benchmark.images(t.source) for t in bank],
        target_images=benchmark.images(target),
        ell_max=benchmark.ell_max,
    )
    kind = labels_.encode(labels).kind
    with_probs = all("probs" in probes[t] for t in bank)
    return score, Given(labels, kind, reference is not None, with_probs)


def timed(
    score: Callable[..., jaxparc.BankScores], methods: Sequence[str]
) -> tuple[jaxparc.BankScores, float]:
    """Scores, and the seconds of a second call: the first one, which may warn, compiles too."""
    scored = score(methods=methods)
    started = time.monotonic()
    with warnings.catch_warnings(action="ignore"):
        score(methods=methods)
    return scored, time.monotonic() - started


def _score(
    run: Run,
    target: str,
    probe_set: int,
    looks: list[Transfer],
    on_images: Callable[[int], None],
) -> None:
    benchmark = run.benchmark
    bank = [t for t in looks if t.source != target]
    score, given = scorer(run, target, read(run, looks, probe_set))
    scores: dict[str, list[float | None]] = {}
    seconds: dict[str, float] = {}
    for methods in _together(benchmark.methods):
        if not given.has_all_of(methods[0]):
            scores |= {label: [None] * len(bank) for label in methods}
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            scored, elapsed = timed(score, methods)
        for warning in caught:
            say(f"{_unit_name(target, probe_set)}: {warning.message}")
        for label, column in zip(methods, scored.values.T, strict=True):
            scores[label] = [None if math.isnan(s) else float(s) for s in column]
            seconds[label] = elapsed
    on_images(len(looks) * len(given.labels))
    content = {"looks": looks, "transfers": bank, "scores": scores, "seconds": seconds}
    write_result(_path(run, target, probe_set), _unit_name(target, probe_set), content)


def _together(methods: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Methods in groups that differ in "+ layers" alone: one program, and one time."""
    plain = dict.fromkeys(method.removesuffix("+l") for method in methods)
    for name in plain:
        yield tuple(method for method in methods if method.removesuffix("+l") == name)


def units(run: Run) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Probe set, target and content of every score file that is there."""
    for probe_set in range(run.benchmark.probe_sets):
        for target in run.benchmark.target_names:
            if (path := _path(run, target, probe_set)).exists():
                yield probe_set, target, read_result(path, _unit_name(target, probe_set))


def _write_scores(run: Run) -> None:
    methods = run.benchmark.methods
    rows: list[tuple[Any, ...]] = [
        ("Run", "Architecture", "Source Dataset", "Target Dataset", *methods)
    ]
    for probe_set, _, content in units(run):
        for i, transfer in enumerate(content["transfers"]):
            scores = (content["scores"][method][i] for method in methods)
            cells = ("" if s is None else f"{s:.6f}" for s in scores)
            rows.append((probe_set, *transfer, *cells))
    files.write_text(run.out / "scores.csv", files.table_text(rows))


def _write_times(run: Run) -> None:
    """Stage, unit, number of items in it, seconds; an item is a transfer in score_probes."""
    benchmark = run.benchmark
    rows: list[tuple[Any, ...]] = [("Stage", "Unit", "Method", "Items", "Seconds")]
    for architecture in benchmark.architectures:
        for source in benchmark.source_names:
            path = train_sources.weights_path(run, architecture, source)
            if path.exists():
                seconds = checkpoints.metadata(path)["seconds"]
                if math.isnan(seconds):
                    continue  # published weights
                unit = train_sources.unit_name(architecture, source)
                rows.append(("train_sources", unit, "", 1, seconds))
    for unit, seconds in finetune_all.seconds(run):
        rows.append(("finetune_all", unit, "", 1, seconds))
    for transfer in extract_probes.looks(benchmark):
        for probe_set in range(benchmark.probe_sets):
            path = extract_probes.path_of(run, transfer, probe_set)
            if path.exists():
                unit = extract_probes.unit_name(transfer, probe_set)
                seconds = float(extract_probes.read(path, unit)["seconds"])
                if math.isnan(seconds):
                    continue  # published with no time
                rows.append(("extract_probes", unit, "", 1, seconds))
    for probe_set, target, content in units(run):
        for method, seconds in content["seconds"].items():
            items = len(content["transfers"])
            unit = _unit_name(target, probe_set)
            rows.append(("score_probes", unit, method, items, seconds))
    cells = (tuple(f"{c:.4f}" if isinstance(c, float) else c for c in row) for row in rows)
    files.write_text(run.out / "times.csv", files.table_text(cells))


STAGE = Stage(stage, name="score_probes")

if __name__ == "__main__":
    command_line.main(__doc__, train_sources.STAGE, extract_probes.STAGE, STAGE)
