"""The methods that a user requests, and those of them that can be applied."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxparc import selectors
from jaxparc.bank import scoring
from jaxparc.bank.defaults import ALL, SCORED_BY
from jaxparc.bank.folder import Bank
from jaxparc.errors import InputError

# Inputs of methods besides features, and those of them that every model has its own of.
PER_MODEL = ("probs", "layers", "source_images", "prior")
NEEDS = (*PER_MODEL, "reference", "target_images")


class Choice(NamedTuple):
    """The methods that the user requests, and their inputs.

    Attributes:
        methods: labels of methods, the first of which determines the ranking; None for `default`.
            `ALL` stands for `default` and all other methods in `SELECTORS`, of which those that
            cannot be applied are skipped.
        probs: whether to add the methods that need class probabilities.
        reference: file with the features of a model trained on the target; None for none.
        sources: input of methods -> where it comes from, for messages.
        default: labels of the default methods; those that do not apply to the labels are skipped
            with a note, as they were not requested.
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


def plan_sets(
    choice: Choice, banks: Iterable[Bank], given: Mapping[str, Any], num_classes: int | None
) -> Plan:
    """Decide which methods can be applied to all of several probe sets.

    Args:
        choice: the requested methods.
        banks: the probe sets.
        given: as `plan` takes it, without class probabilities.
        num_classes: as `jaxparc.score_bank` takes it.

    Raises:
        InputError: as for `plan`.
    """
    plans = [
        plan(choice, bank.labels, bank.label_kind, num_classes, {**given, "probs": bank.probs})
        for bank in banks
    ]
    left_out = {name: reason for one in plans for name, reason in one.left_out.items()}
    skipped = {name: reason for one in plans for name, reason in one.skipped.items()}
    methods = tuple(m for m in plans[0].methods if m not in left_out and m not in skipped)
    if not methods:
        raise InputError("; ".join(dict.fromkeys([*left_out.values(), *skipped.values()])))
    return Plan(methods, left_out, skipped)


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
        if "prior" in method.needs and "prior" not in sources:
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
