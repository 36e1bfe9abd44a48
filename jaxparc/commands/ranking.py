"""Score a bank for a command, leaving out models and methods that cannot be scored."""

import dataclasses
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from jaxparc import files, printing, selectors
from jaxparc.bank import folder, ranked_page, ranked_tables, scoring
from jaxparc.bank.costs import Facts
from jaxparc.bank.folder import Bank
from jaxparc.bank.racing import Round
from jaxparc.bank.ranked import Ranking
from jaxparc.bank.scores import DEFAULT_LEVEL, BankScores
from jaxparc.commands import ALL, EVIDENCE, RANKED_BY, SCORED_BY
from jaxparc.errors import InputError, OperationError

# Inputs of methods besides features; the first three are per model.
PER_MODEL = ("probs", "layers", "source_images")
NEEDS = (*PER_MODEL, "reference", "target_images")


class Choice(NamedTuple):
    """The methods that the user requests, and their inputs.

    Attributes:
        methods: labels of methods, the first of which determines the ranking; None for `default`.
            `ALL` stands for `default` and all other methods in `SELECTORS`, of which those that
            cannot be applied are skipped.
        probs: whether to add the methods that need class probabilities.
        reference: file with the features of a model trained on the target; None for none.
        sources: input of methods -> where the command gets it from, for messages.
        default: labels of the command's own methods; those that do not apply to the labels are
            skipped with a note, as nobody asked for them.
    """

    methods: Sequence[str] | None
    probs: bool
    reference: str | None
    sources: Mapping[str, str]
    default: Sequence[str] = SCORED_BY

    def expanded(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the labels of all methods, and of those among them that are not named."""
        named = self.methods or ()
        unnamed: list[str] = []
        if ALL in named:
            unnamed = [*self.default, *selectors.SELECTORS]
        elif not named:
            unnamed = [*self.default]
        named = [name for name in named if name != ALL]
        if self.probs:
            named += ["nce", "leep"]
        first = [*named, *unnamed] if self.methods else [*unnamed, *named]
        return tuple(dict.fromkeys(first)), tuple(name for name in unnamed if name not in named)


class Plan(NamedTuple):
    """The methods that can be applied.

    Attributes:
        methods: the methods that can be applied, in the order requested.
        left_out: requested method that cannot be applied -> the reason.
        skipped: default method that cannot be applied -> the reason.
    """

    methods: tuple[str, ...]
    left_out: dict[str, str]
    skipped: dict[str, str]


def plan(
    choice: Choice,
    labels: np.ndarray,
    label_kind: str | None,
    num_classes: int | None,
    given: Mapping[str, Any],
) -> Plan:
    """Decide which methods can be applied.

    Args:
        choice: the requested methods.
        labels: as `jaxparc.score_bank` takes them.
        label_kind: as `jaxparc.score_bank` takes it.
        num_classes: as `jaxparc.score_bank` takes it.
        given: input of methods besides features -> its value; None or empty if it is missing.

    Raises:
        InputError: a method is unknown, or no method can be applied.
    """
    asked, unasked = choice.expanded()
    left_out, sources = {}, choice.sources
    for name, method in {name: selectors.method(name) for name in asked}.items():
        if "prior" in method.needs:
            left_out[name] = f"{name} needs a prior, which score_bank alone takes"
            continue
        needs = [need for need in method.needs if need in sources]
        lacking = [need for need in needs if _is_missing(given.get(need))]
        if lacking:
            left_out[name] = "; ".join(f"{name} needs {n}, from {sources[n]}" for n in lacking)
            continue
        try:
            scoring.check_labels(labels, (method,), num_classes=num_classes, kind=label_kind)
        except ValueError as error:
            left_out[name] = str(error)
    methods = tuple(name for name in asked if name not in left_out)
    if not methods:
        raise InputError("; ".join(dict.fromkeys(left_out.values())))
    skipped = {name: reason for name, reason in left_out.items() if name in unasked}
    left_out = {name: reason for name, reason in left_out.items() if name not in skipped}
    return Plan(methods, left_out, skipped)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, Mapping) and not value)


class Scored(NamedTuple):
    """Scores of a bank.

    Attributes:
        scores: scores of all models by all methods.
        notes: notes on undefined scores, one line each.
    """

    scores: BankScores
    notes: list[str]


def score(
    bank: Bank,
    methods: Sequence[str],
    given: Mapping[str, Any],
    *,
    num_classes: int | None = None,
) -> Scored:
    """Score all models, with intervals; a method whose inputs a model lacks gives NaN.

    Args:
        bank: the features, class probabilities and labels.
        methods: the methods of a plan.
        given: input of methods besides features -> its value; those in `PER_MODEL` are mappings by
            model.
        num_classes: as `jaxparc.score_bank` takes it.

    Raises:
        InputError: as for `jaxparc.score_bank`.
    """
    names = tuple(bank.features)
    needs = {name: selectors.method(name).needs for name in methods}
    groups: dict[tuple[str, ...], list[str]] = {}  # models -> methods that can score just these
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
        notes.append(f"model {bank.reference!r} is the reference, and not scored by {which}")
        undefined |= {(bank.reference, method): "it is the reference" for method in compares}
    values = np.full((1, len(names), len(methods)), np.nan)
    noise = np.full((len(names), len(methods), len(bank.labels)), np.nan, np.float32)
    for able, of_these in groups.items():
        if not able:
            continue
        wanted = {need for method in of_these for need in needs[method]} & given.keys()
        found = scoring.score_bank(
            {name: bank.features[name] for name in able},
            bank.labels,
            methods=of_these,
            num_classes=num_classes,
            label_kind=bank.label_kind,
            intervals=DEFAULT_LEVEL,
            **{need: given[need] for need in wanted},
        )
        rows = [names.index(name) for name in able]
        columns = [methods.index(method) for method in of_these]
        where = np.ix_(rows, columns)
        values[0][where] = found.values_per_run[0]
        noise[where] = found.contributions[0]
        undefined |= found.undefined
    return Scored(BankScores(names, tuple(methods), values, undefined, (noise,)), notes)


def _images(banks: Sequence[Bank]) -> str:
    """Return the number of images and of their classes, or the range of their values, in words."""
    labels = np.concatenate([np.asarray(bank.labels) for bank in banks])
    size = printing.count(len(banks[0].labels), "image")
    if len(banks) > 1:
        size = f"{len(banks)} probe sets of {size}"
    if banks[0].label_kind == "values":
        columns = np.asarray(labels, np.float64).reshape(len(labels), -1).T
        ranges = [f"{column.min():g} to {column.max():g}" for column in columns]
        return f"{size}, values {printing.some(ranges)}"
    classes = labels.shape[1] if labels.ndim == 2 else len(np.unique(labels))
    return f"{size}, {printing.count(classes, 'class', 'classes')}"


def _same(bank: Bank, reference: Any) -> str | None:
    """Return the model of a bank whose features equal the reference's, or None."""
    x = np.asarray(reference)
    for name, features in bank.features.items():
        if features.shape == x.shape and np.array_equal(features, x):
            return name
    return None


class About(NamedTuple):
    """What is shown beside the scores.

    Attributes:
        facts: model -> facts about it; models may be absent.
        settings: what determined the scores, for ranking.json.
        notes: notes for the user, one line each.
        rounds: the rounds of a race; none if all models have seen all images.
    """

    facts: Mapping[str, Facts]
    settings: Mapping[str, Any]
    notes: Sequence[str] = ()
    rounds: Sequence[Round] = ()


def print_ranking(
    choice: Choice,
    banks: Sequence[Bank],
    inputs: Mapping[str, Any],
    about: About,
    *,
    num_classes: int | None,
    out: Path,
) -> str:
    """Score a bank, print the ranking, and write scores.csv, ranking.* and index.html.

    Args:
        choice: the requested methods.
        banks: the features, class probabilities and labels of the same models, by probe set.
        inputs: input of methods besides the content of `banks` -> its value, if known.
        about: what is shown beside the scores.
        num_classes: as `jaxparc.score_bank` takes it.
        out: folder of the files.

    Returns:
        One line with the methods that were left out, and why; "" if none was.

    Raises:
        InputError: as for `plan` and `score`.
        OperationError: a file cannot be written.
    """
    given: dict[str, Any] = {**dict.fromkeys(NEEDS), **inputs}
    if choice.reference is not None:
        given["reference"] = folder.read_array(choice.reference, "features")
        banks = [b._replace(reference=b.reference or _same(b, given["reference"])) for b in banks]
    plans = [
        plan(choice, bank.labels, bank.label_kind, num_classes, {**given, "probs": bank.probs})
        for bank in banks
    ]
    left_out = {name: reason for one in plans for name, reason in one.left_out.items()}
    skipped = {name: reason for one in plans for name, reason in one.skipped.items()}
    methods = [m for m in plans[0].methods if m not in left_out and m not in skipped]
    if not methods:
        raise InputError("; ".join(dict.fromkeys([*left_out.values(), *skipped.values()])))
    table = out / "scores.csv"
    try:
        with (
            warnings.catch_warnings(record=True) as caught,
            files.replacing(table) as temporary,
            Console(stderr=True).status(
                f"Scoring {printing.count(len(banks[0].features), 'model')}"
            ),
        ):
            warnings.simplefilter("always")
            sets = [
                score(bank, methods, {**given, "probs": bank.probs}, num_classes=num_classes)
                for bank in banks
            ]
            scores = BankScores.concat(one.scores for one in sets)
            # Without intervals: the columns that stage 4 of a benchmark writes, one per method.
            dataclasses.replace(scores, contributions=()).to_csv(temporary)
        notes = [*(f"skipped: {reason}" for reason in skipped.values()), *about.notes]
        notes += [note for one in sets for note in one.notes]
        notes = list(dict.fromkeys([*notes, *(str(warning.message) for warning in caught)]))
        by_default = (
            methods[0] == RANKED_BY[0]
            and methods[0] not in (choice.methods or ())
            and banks[0].label_kind != "values"  # of which there is no evidence
            and bool(np.isfinite(scores.values[:, 0]).any())
        )
        settings = {**about.settings, "images": _images(banks)}
        ranking = Ranking(
            scores, about.facts, EVIDENCE if by_default else "", settings, notes, about.rounds
        )
        ranked_tables.write(ranking, out)
        files.write_text(out / "index.html", ranked_page.page(ranking))
    except OSError as error:
        raise OperationError(f"cannot write {error.filename or table}: {error.strerror}") from error
    print(printing.shown(ranking.answer))
    print()
    print(ranked_tables.terminal(ranking))
    if choice.methods and len(methods) > 1:  # whoever names several methods sees all their scores
        print(scores)
    for note in notes:
        print(f"note: {printing.shown(note)}", file=sys.stderr)
    print(_images(banks))
    print(
        printing.shown(
            f"written to {table}, with all details in ranking.csv, .json, .md; page: index.html"
        )
    )
    if not np.isfinite(scores.values).any():
        raise OperationError("no model has a score; ranking.json has all reasons")
    return "; ".join(dict.fromkeys(left_out.values()))
