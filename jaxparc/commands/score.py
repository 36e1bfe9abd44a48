"""The command score: rank the models of a folder of features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxparc.bank import costs
from jaxparc.bank import folder as feature_folder
from jaxparc.commands import ranking
from jaxparc.errors import OperationError

# Where this command gets the inputs of methods from.
_SOURCES = {
    "probs": "the .npz files",
    "reference": "--reference FILE",
    "layers": "the column layers of --facts FILE",
    "source_images": "the column source_images of --facts FILE",
    "target_images": "--target-images N",
}


def score(
    folder: str,
    *,
    labels: str | None = None,
    facts: str | None = None,
    target_images: int | None = None,
    num_classes: int | None = None,
    label_kind: str | None = None,
    out: Path = Path(),
    methods: Sequence[str] | None = None,
    probs: bool = False,
    reference: str | None = None,
) -> None:
    """Rank the models of a folder; print the answer and the ranking, and write them.

    Args:
        folder: as `bank.folder.read_bank` takes it.
        labels: as `bank.folder.read_bank` takes it.
        facts: a CSV file, as `bank.folder.read_facts` takes it.
        target_images: size of the target's training split.
        num_classes: number of classes of the target; None to infer it from the labels.
        label_kind: as `bank.folder.read_bank` takes it.
        out: folder of scores.csv, ranking.csv, .json and .md, and index.html.
        methods: see `ranking.Choice`; None for `SCORED_BY`.
        probs: see `ranking.Choice`.
        reference: see `ranking.Choice`.

    Raises:
        InputError: an argument or a file is wrong.
        OperationError: a method cannot be applied (the others still are), or a file cannot be
            written.
    """
    bank = feature_folder.read_bank(folder, labels, reference=reference, label_kind=label_kind)
    inputs: dict[str, Any] = {}
    if facts is not None:
        names = [name for name in bank.features if name != bank.reference]
        others = [bank.reference] if bank.reference else []
        inputs |= feature_folder.read_facts(facts, names, others)
    inputs["target_images"] = target_images
    choice = ranking.Choice(methods, probs, reference, _SOURCES)
    known = costs.recorded(Path(folder), bank.features)
    about = ranking.About(known, {"command": "score", "folder": folder, "labels": labels})
    _, left_out = ranking.print_ranking(
        choice, [bank], inputs, about, num_classes=num_classes, out=out
    )
    if left_out:
        raise OperationError(f"not scored: {left_out}")
