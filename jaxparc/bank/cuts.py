"""Leave models out of a bank before anything is run, by name, size, cost or licence."""

import dataclasses
import fnmatch
from collections.abc import Callable, Sequence

from jaxparc import printing
from jaxparc.bank.entry import Entry
from jaxparc.errors import InputError


@dataclasses.dataclass(frozen=True)
class Cuts:
    """Which models are left in; by default, all.

    Attributes:
        include: patterns, such as "resnet*", of which a name must match one.
        exclude: patterns, of which a name must match none.
        licence: texts, of which the licence must contain one, in any case; models whose licence is
            unknown are left out.
        max_params: the largest number of parameters; models of which it is not known before they
            are loaded are left out.
        max_gmacs: the largest cost per image, in billion multiply-adds, likewise.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    licence: Sequence[str] = ()
    max_params: float | None = None
    max_gmacs: float | None = None


ALL = Cuts()


def apply(entries: Sequence[Entry], cuts: Cuts) -> tuple[list[Entry], str]:
    """Return the models that are left, and what each cut took, in words; "" if nothing.

    Raises:
        InputError: no model is left; the message has what each cut took.
    """
    tests: tuple[tuple[str, str, Callable[[Entry], bool]], ...] = (
        ("--include", " ".join(cuts.include), lambda entry: _is_named(entry, cuts.include)),
        ("--exclude", " ".join(cuts.exclude), lambda entry: not _is_named(entry, cuts.exclude)),
        ("--licence", " ".join(cuts.licence), lambda entry: _is_licensed(entry, cuts.licence)),
        ("--max-params", _number(cuts.max_params), lambda entry: _is_small(entry, cuts.max_params)),
        # Last, as counting is slowest here.
        ("--max-gmacs", _number(cuts.max_gmacs), lambda entry: _is_cheap(entry, cuts.max_gmacs)),
    )
    left, taken = list(entries), []
    for flag, given, keeps in tests:
        if not given:
            continue
        kept = [entry for entry in left if keeps(entry)]
        if len(kept) < len(left):
            taken.append(f"{flag} {given} took {len(left) - len(kept)}")
        left = kept
    total = printing.count(len(entries), "model")
    if not left:
        raise InputError(f"none of {total} is left: {', '.join(taken)}")
    return left, f"{len(left)} of {total} left: {', '.join(taken)}" if taken else ""


def _is_named(entry: Entry, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in patterns)


def _is_licensed(entry: Entry, texts: Sequence[str]) -> bool:
    known = (entry.licence or "").casefold()
    return any(text.casefold() in known for text in texts)


def _is_small(entry: Entry, most: float | None) -> bool:
    try:
        return most is None or _within(entry.counts().parameters, most)
    except InputError:  # as below
        return True


def _is_cheap(entry: Entry, most: float | None) -> bool:
    try:
        return most is None or _within(entry.counts().gmacs, most)
    except InputError:  # the network does not take this size, which its extraction reports
        return True


def _within(value: float | None, most: float) -> bool:
    return value is not None and value <= most


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value / 1e6:g}M" if value >= 1e6 else f"{value:g}"
