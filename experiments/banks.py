"""Banks whose features are at hand: probe files of many models, and results of a benchmark."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import jaxparc
from experiments import benchmarks, pretrained, score_probes
from experiments.runner.run import Run
from experiments.tables import read
from experiments.tables.facts import Facts, read_facts
from jaxparc import selectors
from jaxparc.bank import folder
from jaxparc.bank.choice import Choice, plan
from jaxparc.errors import InputError
from jaxparc.evaluation import Transfer

# Where the inputs of methods come from, for messages.
_SOURCES = {
    "probs": "probs/MODEL of all models in the probe file",
    "reference": "--reference MODEL",
    "layers": "--facts with the layers of all models",
    "source_images": "--facts with the source_images of all models",
    "target_images": "a results folder",
}


class ProbeSet(NamedTuple):
    """The models of a bank on one probe set, ready to be scored.

    Attributes:
        name: name in tables.
        target: name of the target.
        score: scores the models by given `methods`; models are named as in `transfer`.
        left_out: maps methods to those that cannot be applied, with the reason.
        transfer: name of a model -> its transfer.
    """

    name: str
    target: str
    score: Callable[..., jaxparc.BankScores]
    left_out: Callable[[Sequence[str]], dict[str, str]]
    transfer: Mapping[str, Transfer]


class Bank(NamedTuple):
    """Banks at hand, with what is known of their models.

    Attributes:
        sets: the probe sets.
        accuracies: accuracies, in percent, of at least the transfers of all probe sets.
        facts: facts about the models, by the names that `Facts` has for them.
        notes: notes on models that are left out, one line each.
        reference: the model that others are compared with by methods that need a reference, which
            therefore do not score it; None if it is not among the models.
    """

    sets: list[ProbeSet]
    accuracies: read.Accuracies
    facts: Facts | None
    notes: list[str]
    reference: str | None = None


def of_files(
    paths: Sequence[Path],
    truth: Path,
    *,
    accuracy: str = "accuracy",
    leave_out: Mapping[str, str] | None = None,
    facts: Path | None = None,
    layers: str = "layers",
    reference: str | None = None,
) -> Bank:
    """Open probe files.

    A file holds `labels` (n,) or (n, c), `features/MODEL` (n, d), and optionally `probs/MODEL`
    (n, z), for each model.

    Args:
        paths: one probe file per probe set, named after its target.
        truth: a CSV file with the columns model, target and `accuracy`.
        accuracy: as `read.read_truth` takes `column`.
        leave_out: as `read.read_truth` takes `without`.
        facts: as `read_facts` takes it; None for none.
        layers: name of the column of facts with numbers of layers.
        reference: model that serves as the reference of rsa and dds, which do not score it; None
            for none.

    Raises:
        InputError: a file is malformed; a model has no accuracy or no facts; probe sets of one
            target hold different models; or the reference is in none of the files.
    """
    accuracies, dropped = read.read_truth(truth, accuracy, leave_out)
    known = None if facts is None else read_facts(facts)
    targets = dict.fromkeys(t.target for t in (*accuracies, *dropped))
    sets: list[ProbeSet] = []
    notes: dict[str, None] = {}
    for path in paths:
        if any(one.name == path.stem for one in sets):
            raise InputError(f"{path}: duplicate name {path.stem!r}; expected distinct names")
        target = _target(path, targets)
        held = _models(path)
        absent = [m for m in held if Transfer(m, "", target) in dropped]
        if absent:
            notes[f"{target}: left out: {', '.join(absent)}"] = None
        names = [m for m in held if m not in absent]
        if lacking := [m for m in names if Transfer(m, "", target) not in accuracies]:
            raise InputError(
                f"{truth} has no accuracy of model {lacking[0]!r} on {target!r}, which {path} holds"
            )
        if not names:
            raise InputError(f"{path} holds no model that is not left out")
        if reference is not None and reference not in held:
            raise InputError(f"{path} holds no model {reference!r}, the reference")
        sets.append(_of_file(path, target, held, names, known, layers, reference))
    _check_same(sets)
    return Bank(sets, accuracies, known, list(notes), reference)


def _target(path: Path, targets: Iterable[str]) -> str:
    """Return the target that a probe file is named after, the longest if several match."""
    fitting = [t for t in targets if path.stem == t or path.stem.startswith(f"{t}_")]
    if not fitting:
        raise InputError(
            f"{path} is not named after a target; expected TARGET.npz or TARGET_*.npz, where "
            f"TARGET is one of {', '.join(targets)}"
        )
    return max(fitting, key=len)


_FEATURES, _PROBS = "features/", "probs/"


def _models(path: Path) -> list[str]:
    arrays = folder.arrays_of(path)
    if not any(name in arrays for name in folder.LABELS):
        raise InputError(f"{path} has no array 'labels'")
    found = [name.removeprefix(_FEATURES) for name in arrays if name.startswith(_FEATURES)]
    if not found:
        raise InputError(f"{path} has no array 'features/MODEL'")
    return found


def _of_file(
    path: Path,
    target: str,
    held: Sequence[str],
    names: Sequence[str],
    facts: Facts | None,
    layers: str,
    reference: str | None,
) -> ProbeSet:
    arrays = folder.arrays_of(path)
    labels = folder.read_labels(path)
    # Read once: every method scores all of them.
    features = {name: np.asarray(arrays[_FEATURES + name]) for name in held}
    probs = {n: np.asarray(arrays[_PROBS + n]) for n in names if _PROBS + n in arrays}
    given: dict[str, Any] = {"probs": probs if len(probs) == len(names) else None}
    given["reference"] = None if reference is None else features[reference]
    for need, column in (("layers", layers), ("source_images", "source_images")):
        if facts is not None and column in facts.columns():
            numbers = facts.numbers(column, names)
            if not any(map(math.isnan, numbers.values())):
                given[need] = numbers

    def score(methods: Sequence[str]) -> jaxparc.BankScores:
        own = {n: features[n] for n in names}
        needed = {need for label in methods for need in selectors.method(label).needs}
        return jaxparc.score_bank(
            own, labels, methods=methods, **{n: v for n, v in given.items() if n in needed}
        )

    def left_out(methods: Sequence[str]) -> dict[str, str]:
        choice = Choice(methods, False, None, _SOURCES)
        return plan(choice, labels, None, None, given).left_out

    transfer = {name: Transfer(name, "", target) for name in names}
    return ProbeSet(path.stem, target, score, left_out, transfer)


def _check_same(sets: Sequence[ProbeSet]) -> None:
    first: dict[str, ProbeSet] = {}
    for one in sets:
        other = first.setdefault(one.target, one)
        if differing := sorted(one.transfer.keys() ^ other.transfer.keys()):
            having, lacking = (one, other) if differing[0] in one.transfer else (other, one)
            raise InputError(
                f"{lacking.name} lacks model {differing[0]!r}, which {having.name} holds; expected "
                f"the same models in all probe sets of {one.target}"
            )


def of_results(out: Path, benchmark: str | None = None) -> Bank:
    """Open the results folder of a benchmark.

    Args:
        out: the folder, with oracle.csv and probes/.
        benchmark: name of the benchmark; by default that of the folder.

    Raises:
        InputError: the benchmark is unknown, or oracle.csv is missing or malformed.
        StageError: a probe set has no probe file.
    """
    settings = pretrained.with_networks(benchmarks.get(benchmark or out.name))
    run = Run(settings, out, Path("checkpoints"))
    try:
        accuracies = read.read_accuracies(out / "oracle.csv")
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename} is missing; python -m experiments.finetune_all writes it"
        ) from None
    accuracies = {t: accuracy for t, accuracy in accuracies.items() if not math.isnan(accuracy)}
    sets = []
    for target in run.benchmark.target_names:
        transfers = [t for t in accuracies if t.target == target]
        reference = [Transfer(settings.reference, target, target)] * (not settings.bank)
        for probe_set in range(run.benchmark.probe_sets):
            probes = score_probes.read(run, [*transfers, *reference], probe_set)
            sets.append(_of_probes(run, target, probe_set, probes))
    _check_same(sets)
    found = {t for one in sets for t in one.transfer.values()}
    cells = {
        "/".join(t[:2]): {
            "architecture": t.architecture,
            "source": t.source,
            "layers": str(settings.layers(t.architecture, t.source)),
        }
        for t in found
    }
    return Bank(sets, accuracies, Facts(str(out), cells), [])


def _of_probes(run: Run, target: str, probe_set: int, probes: score_probes.Probes) -> ProbeSet:
    score, given = score_probes.scorer(run, target, probes)

    def left_out(methods: Sequence[str]) -> dict[str, str]:
        reason = "it does not apply to these labels, or an input is missing"
        return {label: reason for label in methods if not given.has_all_of(label)}

    transfer = {"/".join(t): t for t in probes if t.source != target}
    return ProbeSet(f"{target}_{probe_set}", target, score, left_out, transfer)
