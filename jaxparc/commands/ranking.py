"""Methods on the command line, shared by `score` and `rank`: what cannot be scored does not stop
the rest.
"""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from jaxparc import printing

if TYPE_CHECKING:
    import numpy as np

    from jaxparc.bank.folder import Bank

# Where the command line has what a method needs.
FROM = {
    "probs": "the .npz files",
    "reference": "--reference FILE",
    "layers": "the column layers of --models FILE",
    "source_images": "the column source_images of --models FILE",
    "target_images": "--target_images N",
}
PER_MODEL = ("probs", "layers", "source_images")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what is scored."""
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="NAME",
        help="of jaxparc.selectors, the first one ranks [parc_f32]",
    )
    parser.add_argument(
        "--probs", action="store_true", help="also nce and leep, by the probs of models with a head"
    )
    parser.add_argument(
        "--reference",
        metavar="FILE",
        help="features of a model trained on the target, of the same images, for rsa and dds",
    )


class Plan(NamedTuple):
    """What is scored.

    Attributes:
        methods: in the order in which they were asked for.
        left_out: method -> why it is not.
    """

    methods: tuple[str, ...]
    left_out: dict[str, str]


def plan(
    args: argparse.Namespace,
    labels: "np.ndarray",
    num_classes: int | None,
    given: Mapping[str, Any],
    where: Mapping[str, str] = FROM,
) -> Plan:
    """Which methods can be scored.

    Args:
        args: with the options of `add_options`.
        labels: as `jaxparc.score_bank` takes them.
        num_classes: likewise.
        given: what methods need besides features -> that; None or empty if it is not there.
        where: the same -> where it would come from.

    Raises:
        ValueError: a method is unknown, or none can be scored.
    """
    from jaxparc import selectors
    from jaxparc.bank import scoring as bank

    asked = list(dict.fromkeys(args.methods or ["parc_f32"]))
    if args.probs:
        asked += [name for name in ("nce", "leep") if name not in asked]
    left_out = {}
    for name, method in {name: selectors.method(name) for name in asked}.items():
        lacking = [need for need in method.needs if need in where and _is_missing(given.get(need))]
        if lacking:
            left_out[name] = "; ".join(f"{name} needs {n}, from {where[n]}" for n in lacking)
            continue
        try:
            bank.check_labels(labels, (method,), num_classes=num_classes)
        except ValueError as error:
            left_out[name] = str(error)
    methods = tuple(name for name in asked if name not in left_out)
    if not methods:
        raise ValueError("; ".join(dict.fromkeys(left_out.values())))
    return Plan(methods, left_out)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and not value)


class Scored(NamedTuple):
    """Scores of a bank.

    Attributes:
        scores: `BankScores`.
        notes: on what has none, one line each.
    """

    scores: Any
    notes: list[str]


def score(
    bank: "Bank",
    methods: Sequence[str],
    given: Mapping[str, Any],
    *,
    num_classes: int | None = None,
) -> Scored:
    """Scores of all models; NaN by a method that needs what a model has not.

    Args:
        bank: as it was read.
        methods: of a plan.
        given: what they need besides features -> that; of `PER_MODEL`, a mapping by model.
        num_classes: as `jaxparc.score_bank` takes it.

    Raises:
        ValueError: as of `jaxparc.score_bank`.
    """
    import numpy as np

    import jaxparc
    from jaxparc import selectors

    names = tuple(bank.features)
    needs = {name: selectors.method(name).needs for name in methods}
    groups: dict[tuple[str, ...], list[str]] = {}  # models that can be scored -> by which methods
    notes = []
    undefined: dict[tuple[str, str], str] = {}
    for method in methods:
        needed = [need for need in PER_MODEL if need in needs[method]]
        compared = bank.reference if "reference" in needs[method] else None
        able = tuple(
            name
            for name in names
            if name != compared and all(name in given[need] for need in needed)
        )
        groups.setdefault(able, []).append(method)
        if unable := [name for name in names if name not in (*able, compared)]:
            lacking = " or ".join(n for n in needed if any(u not in given[n] for u in unable))
            undefined |= {(name, method): f"it has no {lacking}" for name in unable}
            notes.append(f"{method} is NaN for {printing.some(unable, 3)}, without {lacking}")
    compares = [method for method in methods if "reference" in needs[method]]
    if compares and bank.reference is not None:
        which = ", ".join(compares)
        notes.append(f"model {bank.reference!r} is the reference, and left out by {which}")
        undefined |= {(bank.reference, method): "it is the reference" for method in compares}
    values = np.full((1, len(names), len(methods)), np.nan)
    for able, of_these in groups.items():
        if not able:
            continue
        wanted = {need for method in of_these for need in needs[method]} & given.keys()
        found = jaxparc.score_bank(
            {name: bank.features[name] for name in able},
            bank.labels,
            methods=of_these,
            num_classes=num_classes,
            **{need: given[need] for need in wanted},
        )
        rows = [names.index(name) for name in able]
        columns = [methods.index(method) for method in of_these]
        values[:, np.array(rows)[:, None], np.array(columns)] = found.values_per_run
        undefined |= found.undefined
    return Scored(jaxparc.BankScores(names, tuple(methods), values, undefined), notes)


def _images(labels: "np.ndarray") -> str:
    """How many images were looked at, and of how many classes: 1 and 01 are two."""
    import numpy as np

    classes = labels.shape[1] if labels.ndim == 2 else len(np.unique(labels))
    return f"{printing.count(len(labels), 'image')}, {printing.count(classes, 'class', 'classes')}"


def _same(bank: "Bank", reference: Any) -> str | None:
    """The model of a bank whose features are the reference's, None if none is."""
    import numpy as np

    x = np.asarray(reference)
    for name, features in bank.features.items():
        if features.shape == x.shape and np.array_equal(features, x):
            return name
    return None


def print_ranking(
    args: argparse.Namespace,
    bank: "Bank",
    facts: Mapping[str, Any],
    where: Mapping[str, str] = FROM,
) -> str:
    """Scores a bank, prints the table and writes it.

    Args:
        args: with methods, probs, reference, num_classes and out.
        bank: as it was read.
        facts: what methods need besides it -> that, as far as it is known.
        where: what methods need -> where it would come from.

    Returns:
        Which methods were left out and why, on one line; empty if none.

    Raises:
        ValueError: as of `plan` and `score`.
        RuntimeError: the table cannot be written.
    """
    from rich.console import Console

    from jaxparc import files
    from jaxparc.bank import folder as feature_files

    given: dict[str, Any] = {**dict.fromkeys(FROM), **facts, "probs": bank.probs}
    if args.reference is not None:
        given["reference"] = feature_files.read_array(args.reference, "features")
        bank = bank._replace(reference=bank.reference or _same(bank, given["reference"]))
    methods, left_out = plan(args, bank.labels, args.num_classes, given, where)
    table = args.out / "scores.csv"
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            files.replacing(table) as temporary,
            Console(stderr=True).status(f"Scoring {printing.count(len(bank.features), 'model')}"),
        ):
            warnings.simplefilter("always")
            scores, notes = score(bank, methods, given, num_classes=args.num_classes)
            scores.to_csv(temporary)
    except OSError as error:
        raise RuntimeError(f"cannot write {table}: {error.strerror}") from error
    print(scores)
    for note in dict.fromkeys([*notes, *(str(warning.message) for warning in caught)]):
        print(f"note: {printing.shown(note)}", file=sys.stderr)
    print(_images(bank.labels))
    print(printing.shown(f"written to {table}"))
    return "; ".join(dict.fromkeys(left_out.values()))
