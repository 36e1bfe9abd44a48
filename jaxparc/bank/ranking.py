"""A ranking from the features of a bank: the methods applied, the notes, and what is shown."""

import dataclasses
import types
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxparc import files, labels, printing, selectors
from jaxparc.bank import ranked_page, ranked_tables, scoring
from jaxparc.bank.choice import PER_MODEL, Choice, Plan
from jaxparc.bank.costs import Facts
from jaxparc.bank.defaults import EVIDENCE, RANKED_BY
from jaxparc.bank.folder import Bank
from jaxparc.bank.racing import Round
from jaxparc.bank.ranked import Ranked
from jaxparc.bank.scores import DEFAULT_LEVEL, BankScores
from jaxparc.report.thumbnails import Thumbnails


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Ranking(Ranked):
    """A ranked bank as `jaxparc.rank` returns it: printed, shown in notebooks and written.

    See `Ranked` for its attributes, of which `best`, `answer` and `rows` say most.
    """

    def __repr__(self) -> str:
        notes = (f"note: {printing.shown(note)}" for note in self.notes)
        return "\n".join([ranked_tables.text(self), *notes])

    def _repr_html_(self) -> str:
        return ranked_page.fragment(self)

    def write(self, folder: str | Path) -> None:
        """Write scores.csv, ranking.csv, ranking.json, ranking.md and index.html.

        Args:
            folder: receives the files; created if necessary.

        Raises:
            OSError: a file cannot be written; the error has its name.
        """
        folder = Path(folder)
        # Without intervals: the columns that stage 4 of a benchmark writes, one per method.
        scores = dataclasses.replace(self.scores, contributions=())
        files.write_text(folder / "scores.csv", scores.to_csv())
        ranked_tables.write(self, folder)
        files.write_text(folder / "index.html", ranked_page.page(self))


class About(NamedTuple):
    """What is shown beside the scores.

    Attributes:
        facts: model -> facts about it; models may be absent.
        settings: what determined the scores, for ranking.json.
        notes: notes for the user, one line each.
        rounds: the rounds of a race; none if all models have seen all images.
        thumbnails: images of the probe set, for the page.
    """

    facts: Mapping[str, Facts]
    settings: Mapping[str, Any]
    notes: Sequence[str] = ()
    rounds: Sequence[Round] = ()
    thumbnails: Thumbnails = Thumbnails()


def make(
    choice: Choice,
    plan: Plan,
    banks: Sequence[Bank],
    given: Mapping[str, Any],
    about: About,
    *,
    num_classes: int | None = None,
    failed: Mapping[str, str] = types.MappingProxyType({}),
) -> Ranking:
    """Score a bank on one or several probe sets, and rank it.

    Args:
        choice: the requested methods.
        plan: those that can be applied to all probe sets.
        banks: the features, class probabilities and labels of the same models, by probe set.
        given: input of methods besides the content of `banks` -> its value, if known.
        about: what is shown beside the scores.
        num_classes: as `jaxparc.score_bank` takes it.
        failed: as `score` takes it.

    Raises:
        InputError: as for `jaxparc.score_bank`.
    """
    reference = given.get("reference")
    if reference is not None:
        banks = [
            bank._replace(reference=bank.reference or _same(bank, reference)) for bank in banks
        ]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sets = [
            score(
                bank,
                plan.methods,
                {**given, "probs": bank.probs},
                num_classes=num_classes,
                failed=failed,
            )
            for bank in banks
        ]
    numbers = [bank.images for bank in banks if bank.images is not None]
    several = len(banks) > 1 and len(numbers) == len(banks)
    scores = BankScores.concat((one.scores for one in sets), numbers if several else None)
    notes = [*(f"skipped: {reason}" for reason in plan.skipped.values()), *about.notes]
    notes += [note for one in sets for note in one.notes]
    notes += [str(warning.message) for warning in caught]
    by_default = (
        plan.methods[0] == RANKED_BY[0]
        and plan.methods[0] not in (choice.methods or ())
        and banks[0].label_kind != "values"  # of which there is no evidence
        and bool(np.isfinite(scores.values[:, 0]).any())
    )
    return Ranking(
        scores,
        about.facts,
        EVIDENCE if by_default else "",
        {**about.settings, "images": images_of(banks)},
        tuple(dict.fromkeys(notes)),
        about.rounds,
        detailed=bool(choice.methods) and len(plan.methods) > 1,
        bounds=_bounds(banks[0], plan.methods, num_classes),
        thumbnails=about.thumbnails,
    )


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
    failed: Mapping[str, str] = types.MappingProxyType({}),
) -> Scored:
    """Score all models, with intervals; a method whose inputs a model lacks gives NaN.

    Args:
        bank: the features, class probabilities and labels.
        methods: the methods of a plan.
        given: input of methods besides features -> its value; those in `PER_MODEL` are mappings by
            model.
        num_classes: as `jaxparc.score_bank` takes it.
        failed: model without features -> the reason; all its scores are NaN.

    Raises:
        InputError: as for `jaxparc.score_bank`.
    """
    names = (*bank.features, *failed)
    needs = {name: selectors.method(name).needs for name in methods}
    groups: dict[tuple[str, ...], list[str]] = {}  # models -> methods that can score just these
    notes = []
    undefined = {(name, method): why for name, why in failed.items() for method in methods}
    for method in methods:
        needed = [need for need in PER_MODEL if need in needs[method]]
        compared = bank.reference if "reference" in needs[method] else None
        able = tuple(
            name
            for name in bank.features
            if name != compared and all(name in given[need] for need in needed)
        )
        groups.setdefault(able, []).append(method)
        if unable := [n for n in bank.features if n not in (*able, compared)]:
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


def images_of(banks: Sequence[Bank]) -> str:
    """Return the number of images and of their classes, or the range of their values, in words."""
    values = np.concatenate([np.asarray(bank.labels) for bank in banks])
    size = printing.count(len(banks[0].labels), "image")
    if len(banks) > 1:
        size = f"{len(banks)} probe sets of {size}"
    if banks[0].label_kind == "values":
        columns = np.asarray(values, np.float64).reshape(len(values), -1).T
        ranges = [f"{column.min():g} to {column.max():g}" for column in columns]
        return f"{size}, values {printing.some(ranges)}"
    classes = values.shape[1] if values.ndim == 2 else len(np.unique(values))
    return f"{size}, {printing.count(classes, 'class', 'classes')}"


def _bounds(
    bank: Bank, methods: Sequence[str], num_classes: int | None
) -> dict[str, tuple[float, float]]:
    """Return the lowest and the highest possible scores of methods, where these are known."""
    kind = labels.encode(bank.labels, num_classes, bank.label_kind).kind
    found = {name: selectors.method(name).bounds(kind) for name in methods}
    return {name: bounds for name, bounds in found.items() if bounds is not None}


def _same(bank: Bank, reference: Any) -> str | None:
    """Return the model of a bank whose features equal the reference's, or None."""
    x = np.asarray(reference)
    for name, features in bank.features.items():
        if features.shape == x.shape and np.array_equal(features, x):
            return name
    return None
