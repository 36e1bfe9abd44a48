r"""Compare all methods, and baselines that read no image, on the features that are at hand.

    python -m experiments.compare clothing_s0.npz clothing_s1.npz cifar10_s0.npz \
        --truth truth.csv --facts models.json
    python -m experiments.compare results/demo

Scores every bank by every method that applies, and prints how well the scores predict the
accuracies: Pearson's correlation, weighted tau and regret@1, each with a 95 % interval, over all
models and over subsets of them, and Pearson's correlation per probe set.

A probe file TARGET.npz or TARGET_*.npz holds labels (n,) or (n, c), features/MODEL (n, d) and,
optionally, probs/MODEL (n, z). A results folder is one that the stages of a benchmark wrote; it has
its own accuracies and facts.
"""

import argparse
import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from experiments import banks, score_probes
from experiments.banks import Bank
from experiments.benchmarks import ENSEMBLE
from experiments.tables import compared
from experiments.tables.facts import Facts
from experiments.tables.report import TITLES, title, with_baselines
from jaxparc import files, printing, selectors
from jaxparc.errors import InputError, OperationError
from jaxparc.evaluation import Transfer, outcomes
from jaxparc.evaluation.outcomes import Outcomes
from jaxparc.report.sheets import Sheet
from jaxparc.selectors import SELECTORS
from jaxparc.units.compilation import cache_compilations
from jaxparc.units.progress import say

METHODS = (
    *SELECTORS,
    "parc_f32",
    "hscore_f32",
    ENSEMBLE,
    *(f"{method}+l" for method in ("parc_f32", "ridge", ENSEMBLE)),
)
RESAMPLES = 2000
PARAMETERS = "log parameters"  # the baseline of that name


class Scored(NamedTuple):
    """The scores of a bank.

    Attributes:
        outcomes: accuracies and scores. Where targets have different numbers of probe sets, each is
            repeated equally often, so that all of a target's count the same.
        milliseconds: method -> milliseconds per model, of all probe sets; empty if not measured.
        notes: notes on methods and scores, one line each.
    """

    outcomes: Outcomes
    milliseconds: dict[str, float]
    notes: list[str]


def scored(bank: Bank, methods: Sequence[str], *, times: bool = False) -> Scored:
    """Score all probe sets by the methods that apply to each of them.

    Args:
        bank: the bank.
        methods: labels of methods.
        times: whether to score by one method at a time, twice, to measure each alone. Otherwise
            all methods share what they compute in common.

    Raises:
        InputError: a method is unknown, none applies, or the labels are malformed.
    """
    left_out: dict[str, str] = {}
    for one in bank.sets:
        left_out |= one.left_out(methods)
    methods = [label for label in dict.fromkeys(methods) if label not in left_out]
    if not methods:
        raise InputError("; ".join(dict.fromkeys(left_out.values())))
    notes = [f"not compared: {reason}" for reason in dict.fromkeys(left_out.values())]
    seconds: dict[str, float] = defaultdict(float)
    runs: dict[str, dict[str, list[dict[Transfer, float]]]] = {label: {} for label in methods}
    for one in bank.sets:
        for group in score_probes.together(methods) if times else [methods]:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                if times:
                    found, elapsed = score_probes.timed(one.score, group)
                    seconds |= {label: seconds[label] + elapsed for label in group}
                else:
                    found = one.score(methods=group)
            notes += [f"{one.name}: {warning.message}" for warning in caught]
            for label in group:
                column = zip(found.names, found[label].values(), strict=True)
                scores = {one.transfer[name]: score for name, score in column}
                runs[label].setdefault(one.target, []).append(scores)
        say(f"scored {one.name}: {printing.count(len(one.transfer), 'model')}")
    joined = {label: _joined(of_targets) for label, of_targets in runs.items()}
    present = {t for one in bank.sets for t in one.transfer.values()}
    accuracies = {t: accuracy for t, accuracy in bank.accuracies.items() if t in present}
    total = sum(len(one.transfer) for one in bank.sets)
    milliseconds = {label: 1e3 * spent / total for label, spent in seconds.items()}
    return Scored(outcomes.collect(accuracies, joined), milliseconds, list(dict.fromkeys(notes)))


def _joined(
    of_targets: Mapping[str, Sequence[Mapping[Transfer, float]]],
) -> list[dict[Transfer, float]]:
    """Return the scores of all targets per probe set, each repeated equally often."""
    joined: list[dict[Transfer, float]] = []
    for k in range(math.lcm(*map(len, of_targets.values()))):
        joined.append({})
        for of_sets in of_targets.values():
            joined[-1] |= of_sets[k % len(of_sets)]
    return joined


def _name(model: tuple[str, str]) -> str:
    return "/".join(filter(None, model))


def baselines(
    found: Outcomes, facts: Facts | None, columns: Mapping[str, str], logarithms: Sequence[str]
) -> Outcomes:
    """Return outcomes with the baselines added that read no image.

    Args:
        found: the outcomes.
        facts: facts about the models.
        columns: baseline -> column of `facts` that it is; those of absent columns are left out.
        logarithms: the baselines that are the logarithm of their column.

    Raises:
        InputError: a cell is not a number, or a model has no facts.
    """
    scores = {}
    for baseline, column in columns.items():
        if facts is None or column not in facts.columns():
            continue
        numbers = facts.numbers(column, map(_name, found.models))
        values = np.array(list(numbers.values()))
        if baseline in logarithms:
            with np.errstate(invalid="ignore", divide="ignore"):
                values = np.log(values)
        scores[baseline] = np.broadcast_to(values[:, None], (1, *found.where.shape))
    return with_baselines(found.beside(scores))


def subset(found: Outcomes, facts: Facts | None, column: str, value: str) -> Outcomes:
    """Return the outcomes of the models with a value in a column of facts.

    Raises:
        InputError: there are no facts, no such column, or fewer than three such models.
    """
    if facts is None:
        raise InputError(f"a subset by {column!r} needs facts about the models")
    texts = facts.texts(column, map(_name, found.models))
    chosen = [model for model in found.models if texts[_name(model)] == value]
    if len(chosen) < 3:
        values = ", ".join(sorted(set(texts.values()) - {""}))
        raise InputError(
            f"--subset {column}={value} has {printing.count(len(chosen), 'model')}; expected at "
            f"least 3; values: {values}"
        )
    return found.only(models=chosen)


def tables(
    bank: Bank, result: Scored, found: Outcomes, subsets: Mapping[str, str], resamples: int
) -> dict[str, Sheet]:
    """Return the tables by file name: of all models, of each subset, and by probe set.

    Args:
        bank: the bank.
        result: its scores.
        found: the outcomes of `result`, with baselines.
        subsets: column of facts -> value.
        resamples: number of resamples of every interval.

    Raises:
        InputError: as for `subset`.
    """
    without = {}
    if bank.reference is not None:
        needing = [m for m in result.outcomes.scores if "reference" in selectors.method(m).needs]
        without = dict.fromkeys(needing, (bank.reference,))
    places: dict[str, int] = defaultdict(int)
    sets = {}
    for one in bank.sets:
        sets[one.name] = (one.target, places[one.target])
        places[one.target] += 1
    parts = {"all": (found, "all")}
    for column, value in subsets.items():
        parts[_file_name(column, value)] = (
            subset(found, bank.facts, column, value),
            f"{column}={value}",
        )
    sheets = {}
    for name, (some, words) in parts.items():
        count = printing.count(len(some.models), "model")
        sheets[name] = compared.comparison(
            some,
            _title,
            heading=f"{words}: {count}, {printing.count(len(sets), 'probe set')}",
            without=without,
            milliseconds=result.milliseconds,
            resamples=resamples,
        )
        sheets[f"{name}_by_probe_set"] = compared.by_probe_set(
            some,
            _title,
            heading=f"{words}: PC by probe set",
            without=without,
            sets=sets,
            order=list(compared.measured(some, without, 1)),
        )
    return sheets


def _file_name(column: str, value: str) -> str:
    """Return the name of the files of a subset: its letters and digits."""
    return "".join(c if c.isalnum() else "_" for c in f"{column}_{value}")


def _title(method: str) -> str:
    """Return the name of a method, as `--methods` takes it, or the title of a baseline."""
    return title(method) if method in TITLES else method


def _pair(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not (column and equals):
        raise argparse.ArgumentTypeError(f"{text!r}; expected COLUMN=VALUE")
    return column, value


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a number of at least 1")
    return int(text)


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m experiments.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit codes: 0 success; 1 a file cannot be written; 2 wrong usage or input.",
    )
    made.add_argument(
        "banks", nargs="+", type=Path, metavar="BANK", help="probe files, or one results folder"
    )
    made.add_argument(
        "--methods", nargs="+", default=METHODS, metavar="NAME", help=f"[{' '.join(METHODS)}]"
    )
    made.add_argument(
        "--subset",
        nargs="+",
        type=_pair,
        default=(),
        metavar="COLUMN=VALUE",
        help="also compare on the models with this value in a column of the facts",
    )
    made.add_argument(
        "--resamples",
        type=_count,
        default=RESAMPLES,
        metavar="N",
        help=f"resamples of models, targets and probe sets for intervals [{RESAMPLES}]",
    )
    made.add_argument(
        "--times",
        action="store_true",
        help="also measure milliseconds per model, scoring by one method at a time, twice",
    )
    made.add_argument(
        "--out", type=Path, metavar="DIR", help="write the tables to DIR, as Markdown and CSV"
    )
    group = made.add_argument_group("probe files")
    group.add_argument(
        "--truth", type=Path, metavar="FILE", help="CSV with the columns model, target, accuracy"
    )
    group.add_argument(
        "--accuracy", default="accuracy", metavar="COLUMN", help="the column of accuracies"
    )
    group.add_argument(
        "--leave-out",
        nargs="+",
        type=_pair,
        default=(),
        metavar="COLUMN=VALUE",
        help="leave out the rows of the truth with this value, and their models on that target",
    )
    group.add_argument(
        "--reference", metavar="MODEL", help="the reference of rsa and dds, which do not score it"
    )
    group.add_argument(
        "--facts",
        type=Path,
        metavar="FILE",
        help="JSON, {model: {column: value}}, or CSV with a column model: facts about the models",
    )
    group.add_argument(
        "--layers", default="layers", metavar="COLUMN", help="the column of layers [layers]"
    )
    group.add_argument(
        "--parameters",
        default="parameters",
        metavar="COLUMN",
        help="the column of numbers of parameters, whose logarithm is a baseline [parameters]",
    )
    group.add_argument(
        "--baselines",
        nargs="+",
        default=(),
        metavar="COLUMN",
        help="columns of the facts that are baselines, such as an accuracy on ImageNet",
    )
    group = made.add_argument_group("a results folder")
    group.add_argument(
        "--benchmark", metavar="NAME", help="name of the benchmark [that of the folder]"
    )
    return made


def compare(args: argparse.Namespace) -> None:
    """Compare the methods, print the tables and write them.

    Args:
        args: what `parser` parsed.

    Raises:
        InputError: an argument or a file is wrong.
        OperationError: a probe file is missing or damaged.
        OSError: a table cannot be written.
    """
    bank = _open(args)
    names = {name: None for one in bank.sets for name in one.transfer}
    _check_facts(bank.facts, names, args)
    result = scored(bank, args.methods, times=args.times)
    columns = {"layers": args.layers, PARAMETERS: args.parameters}
    columns |= {column: column for column in args.baselines}
    found = baselines(result.outcomes, bank.facts, columns, (PARAMETERS,))
    made = tables(bank, result, found, dict(args.subset), args.resamples)
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    for name, sheet in made.items():
        console.print(sheet.rich())
        if args.out is not None:
            files.write_text(args.out / f"{name}.md", sheet.markdown())
            files.write_text(args.out / f"{name}.csv", sheet.csv())
    for note in (*bank.notes, *result.notes):
        say(f"note: {note}")
    if args.out is not None:
        print(printing.shown(f"written to {args.out}"))


def _check_facts(facts: Facts | None, names: Iterable[str], args: argparse.Namespace) -> None:
    """Check, before anything is scored, that the facts that the options name are there."""
    for option, columns in (("subset", dict(args.subset)), ("baselines", args.baselines)):
        for column in columns:
            if facts is None:
                raise InputError(f"--{option} {column} needs --facts")
            facts.texts(column, names)


def _open(args: argparse.Namespace) -> Bank:
    if any(path.is_dir() for path in args.banks):
        if len(args.banks) > 1:
            raise InputError("expected one results folder, or probe files without a folder")
        if stray := [n for n in ("truth", "facts", "reference") if getattr(args, n) is not None]:
            raise InputError(f"--{stray[0]} is an option for probe files, not a results folder")
        return banks.of_results(args.banks[0], args.benchmark)
    if args.benchmark is not None:
        raise InputError("--benchmark is an option for a results folder, not for probe files")
    if args.truth is None:
        raise InputError("probe files need --truth FILE, a table of accuracies")
    return banks.of_files(
        args.banks,
        args.truth,
        accuracy=args.accuracy,
        leave_out=dict(args.leave_out),
        facts=args.facts,
        layers=args.layers,
        reference=args.reference,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    made = parser()
    with printing.ending():
        args = made.parse_args(argv)
        cache_compilations()
        try:
            compare(args)
        except BrokenPipeError:
            raise
        except InputError as error:
            made.exit(2, f"{made.prog}: {printing.line(error)}\n")
        except (OperationError, OSError) as error:
            made.exit(1, f"{made.prog}: {printing.line(error)}\n")


if __name__ == "__main__":
    main()
