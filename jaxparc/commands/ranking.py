"""Score a bank for a command, print the ranking and write it."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxparc import printing
from jaxparc.bank import folder, ranked_tables, ranking, tuned
from jaxparc.bank.choice import NEEDS, plan_sets
from jaxparc.bank.choice import Choice as Choice
from jaxparc.bank.choice import plan as plan
from jaxparc.bank.folder import Bank
from jaxparc.bank.ranking import About as About
from jaxparc.errors import OperationError


def print_ranking(
    choice: Choice,
    banks: Sequence[Bank],
    inputs: Mapping[str, Any],
    about: About,
    *,
    num_classes: int | None,
    out: Path,
) -> tuple[ranking.Ranking, str]:
    """Score a bank, print the ranking, and write scores.csv, ranking.* and index.html.

    Args:
        choice: the requested methods.
        banks: the features, class probabilities and labels of the same models, by probe set.
        inputs: input of methods besides the content of `banks` -> its value, if known.
        about: what is shown beside the scores.
        num_classes: as `jaxparc.score_bank` takes it.
        out: folder of the files.

    Returns:
        The ranking; and one line with the methods that were left out, and why, "" if none was.

    Raises:
        InputError: as for `plan` and `jaxparc.score_bank`.
        OperationError: a file cannot be written.
    """
    given: dict[str, Any] = {**dict.fromkeys(NEEDS), **inputs}
    if choice.reference is not None:
        given["reference"] = folder.read_array(choice.reference, "features")
    chosen = plan_sets(choice, banks, given, num_classes)
    table = out / "scores.csv"
    try:
        out.mkdir(parents=True, exist_ok=True)
        if not os.access(out, os.W_OK):  # known now, rather than after the scoring
            raise OperationError(f"cannot write {out}: no permission")
        models = printing.count(len(banks[0].features), "model")
        with Console(stderr=True).status(f"Scoring {models}"):
            found = ranking.make(choice, chosen, banks, given, about, num_classes=num_classes)
        found.write(out)
        notes = [*found.notes, *_restored(out, found)]
    except OSError as error:
        raise OperationError(f"cannot write {error.filename or table}: {error.strerror}") from error
    print(ranked_tables.text(found))
    for note in notes:
        print(f"note: {printing.shown(note)}", file=sys.stderr)
    print(found.settings["images"])
    print(
        printing.shown(
            f"written to {table}, with all details in ranking.csv, .json, .md; page: index.html"
        )
    )
    if not np.isfinite(found.scores.values).any():
        raise OperationError("no model has a score; ranking.json has all reasons")
    return found, "; ".join(dict.fromkeys(chosen.left_out.values()))


def _restored(out: Path, found: ranking.Ranking) -> list[str]:
    """Put what `finetune` wrote of the models back on the page; see `tuned_page.restore`."""
    if not (out / tuned.RESULTS).exists():
        return []
    from jaxparc.bank import tuned_page  # it imports what trains networks

    return tuned_page.restore(out, found)
