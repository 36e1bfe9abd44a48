"""The goals on an accelerator, and whether the measured tables meet them."""

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from experiments.speed import measured
from jaxparc import files

Rows: TypeAlias = Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Goal:
    """A goal.

    Attributes:
        what: the work.
        table: the table whose rows show it.
        least: lowest figure that meets it.
        unit: unit of the figure.
        figure: function of the rows that returns the figure; None if they do not have it.
    """

    what: str
    table: str
    least: float
    unit: str
    figure: Callable[[Rows], float | None]


def _bank(what: str, place: str, value: Callable[[Mapping[str, Any]], Any]) -> Any:
    """Return a figure of the row with 500 images, 1,000 models and 2,048 features."""
    wanted = {"what": what, "m": 1000, "d": 2048, "place": place}

    def figure(rows: Rows) -> float | None:
        return next((value(row) for row in rows if wanted.items() <= row.items()), None)

    return figure


def _models_per_second(row: Mapping[str, Any]) -> float:
    return 1e3 / statistics.median(row["ours"])


def _middle(row: Mapping[str, Any], side: str) -> float | None:
    rates = row["images_per_second"].get(side)
    return statistics.median(rates) if rates else None


def _fastest(side: str, **wanted: Any) -> Callable[[Rows], float | None]:
    """Return the highest rate of a side over all batch sizes."""

    def figure(rows: Rows) -> float | None:
        rates = [_middle(row, side) for row in rows if wanted.items() <= row.items()]
        return max((rate for rate in rates if rate is not None), default=None)

    return figure


def _to_torch(**wanted: Any) -> Callable[[Rows], float | None]:
    """Return the highest rate over that of compiled torch, each at its best batch size.

    Batch sizes that were not measured on both sides do not count.
    """

    def figure(rows: Rows) -> float | None:
        both = [
            (ours, theirs)
            for row in rows
            if wanted.items() <= row.items()
            and (ours := _middle(row, "jaxparc")) is not None
            and (theirs := _middle(row, "torch, compiled")) is not None
        ]
        return max(o for o, _ in both) / max(t for _, t in both) if both else None

    return figure


def _fed(rows: Rows) -> float | None:
    """Return the rate of training on decoded images over that on images on the device."""
    rates = {
        row["what"]: statistics.median(row["images_per_second"])
        for row in rows
        if row["what"].startswith("resnet50 training")
    }
    own, fed = (
        rates.get(f"resnet50 training, {source}")
        for source in ("images on the device", "from decoded images")
    )
    return fed / own if own and fed else None


def _grid(rows: Rows) -> float | None:
    """Return the highest rate of a grid of 8 at 32 px over that of one run after another."""
    ratios = [
        one / apart
        for row in rows
        if row["pixels"] == 32 and row["grid"] == 8
        if (one := _middle(row, "grid")) and (apart := _middle(row, "jaxparc"))
    ]
    return max(ratios, default=None)


BFLOAT16: Mapping[str, Any] = {"pixels": 224, "dtype": "bfloat16"}
GOALS: tuple[Goal, ...] = (
    Goal(
        "PARC f=32, n=500, d=2048, 1,000 models, features on the device",
        "bank",
        10_000,
        "models/s",
        _bank("parc_f32", "device", _models_per_second),
    ),
    Goal(
        "the same from host memory",
        "bank",
        0.8,
        "of the copy rate",
        _bank("parc_f32", "host", lambda row: row["copy_share"]),
    ),
    Goal(
        "nine methods together, features on the device",
        "bank",
        1_000,
        "models/s",
        _bank("nine methods", "device", _models_per_second),
    ),
    Goal(
        "ResNet-50, 224 px, bfloat16 training",
        "train",
        3_500,
        "images/s",
        _fastest("jaxparc", architecture="resnet50", **BFLOAT16),
    ),
    *(
        Goal(
            f"{name}, 224 px, bfloat16 training",
            "train",
            1,
            "of compiled torch",
            _to_torch(architecture=architecture, **BFLOAT16),
        )
        for name, architecture in (
            ("ResNet-50", "resnet50"),
            ("AlexNet", "alexnet"),
            ("GoogLeNet", "googlenet"),
            ("ResNet-18", "resnet18"),
        )
    ),
    Goal("ResNet-50 training from the decoded cache", "input", 0.9, "of images on device", _fed),
    Goal(
        "ResNet-50, 224 px, features of images on the device",
        "extract",
        8_000,
        "images/s",
        _fastest("jaxparc", architecture="resnet50", place="device"),
    ),
    Goal(
        "ResNet-50, 224 px, features of images on the device",
        "extract",
        1,
        "of compiled torch",
        _to_torch(architecture="resnet50", place="device"),
    ),
    Goal("a grid of 8 at 32 px in one program", "train", 4, "times one after another", _grid),
)

HEADER = ("work", "goal", "measured", "")


def lines(tables: Mapping[str, Rows]) -> list[tuple[str, ...]]:
    """Return the cells of every goal.

    Args:
        tables: name of a table -> its rows, as OUT.json has them.
    """
    found: list[tuple[str, ...]] = []
    for goal in GOALS:
        figure = goal.figure(tables.get(goal.table, ()))
        digits = 0 if goal.least >= 100 else 2
        found.append(
            (
                goal.what,
                f">= {goal.least:,g} {goal.unit}",
                "–" if figure is None else f"{figure:,.{digits}f}",
                "not measured" if figure is None else "met" if figure >= goal.least else "missed",
            )
        )
    return found


def write(folder: Path) -> list[tuple[str, ...]]:
    """Write FOLDER/goals.md from the tables in FOLDER, of this or earlier runs; return its cells.

    Raises:
        OSError: a file cannot be read or written.
    """
    tables: dict[str, Rows] = {}
    how = []
    for name in dict.fromkeys(goal.table for goal in GOALS):
        path = folder / f"{name}.json"
        if path.exists():
            content = json.loads(path.read_text())
            tables[name] = content["rows"]
            how.append(f"{name}: {measured.ran(content['about'])}")
    found = lines(tables)
    text = "\n\n".join([*how, "\n".join(measured.table(HEADER, found))])
    files.write_text(folder / "goals.md", text + "\n")
    return found
