"""Results of fine-tuning a bank's best-ranked models, and whether the ranking was right."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxparc.errors import InputError
from jaxparc.printing import count
from jaxparc.report.sheets import Sheet

RANKING = "ranking.json"  # what `rank` wrote
RESULTS = "finetuned.json"


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A model of a ranking that has a score.

    Attributes:
        name: name of the model.
        rank: its rank, from 1.
        tied: whether it is the best model or cannot be told from it.
    """

    name: str
    rank: int
    tied: bool


@dataclasses.dataclass(frozen=True)
class RankedFolder:
    """What `rank` wrote into a folder.

    Attributes:
        addresses: of the models, as `sources.read` takes them.
        target: the data set, as `datasets.load` takes it.
        data_dir: as `datasets.load` takes it.
        models: the models with scores, best first.
    """

    addresses: tuple[str, ...]
    target: str
    data_dir: str | None
    models: tuple[Ranked, ...]


def read_ranking(folder: Path) -> RankedFolder:
    """Read the ranking in a folder.

    Raises:
        InputError: there is none, it was not written by `rank`, or no model has a score.
    """
    path = folder / RANKING
    try:
        content = json.loads(path.read_bytes())
        settings = content["settings"]
        if settings.get("command") != "rank":
            raise InputError(
                f"{path} was written by `{settings.get('command', 'another command')}`, which "
                "knows no weights; expected a folder that `jaxparc rank` wrote"
            )
        addresses = tuple(settings["models"] or [settings["bank"]])
        found = RankedFolder(
            tuple(map(str, addresses)),
            str(settings["target"]),
            settings.get("data_dir"),
            tuple(
                Ranked(model["name"], model["rank"], model["tied"])
                for model in content["models"]
                if model["rank"] is not None
            ),
        )
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{path}: {error.strerror}; expected a folder that `jaxparc rank` wrote"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); run `jaxparc rank` again"
        ) from None
    if not found.models:
        raise InputError(f"{path}: no model has a score")
    return found


@dataclasses.dataclass(frozen=True)
class Tuned:
    """A fine-tuned model of a ranking.

    Attributes:
        ranked: its place in the ranking.
        file: the file of its weights.
        facts: what the file records, as `finetuned.read_facts` returns it, and `linear_probe`.
    """

    ranked: Ranked
    file: Path
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.ranked.name

    @property
    def accuracy(self) -> float:
        """Test accuracy, in percent."""
        return float(self.facts["accuracy"])

    @property
    def right(self) -> np.ndarray:
        """Share of each test image's labels that is right, (n,) float64."""
        if "right" in self.facts:
            return np.array(self.facts["right"], float)
        return (np.array(self.facts["labels"]) == np.array(self.facts["predictions"])).astype(float)

    def with_interval(self) -> str:
        """Return the accuracy and half the width of its interval."""
        low, high = self.facts["interval"]
        return f"{self.accuracy:.2f} ± {(high - low) / 2:.2f}"


def read_results(folder: Path) -> tuple[str, tuple[Tuned, ...]]:
    """Read what `json_text` returned: the target, and the fine-tuned models.

    Raises:
        InputError: the file cannot be read, or is not what `json_text` returned.
    """
    path = folder / RESULTS
    try:
        content = json.loads(path.read_bytes())
        models = []
        for model in content["models"]:
            facts = dict(model)
            ranked = Ranked(*(facts.pop(key) for key in ("name", "rank", "tied")))
            models.append(Tuned(ranked, Path(facts.pop("file")), facts))
        return str(content["target"]), tuple(models)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); run `jaxparc finetune` again"
        ) from None


def best_of(models: Sequence[Tuned]) -> Tuned:
    """Return the most accurate model; of equals, the one that is ranked higher."""
    return max(models, key=lambda one: (one.accuracy, -one.ranked.rank))


def differs(one: Tuned, other: Tuned) -> bool:
    """Return whether two models differ by more than chance on the test images (sign test, 5 %)."""
    from scipy.stats import binomtest

    difference = one.right - other.right
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    return better + worse > 0 and binomtest(better, better + worse).pvalue < 0.05


def verdict(models: Sequence[Tuned]) -> str:
    """Say in words whether the ranking was right.

    Args:
        models: the fine-tuned models, in the order of the ranking.

    Returns:
        One line; names are as given, so it is to be escaped like them.
    """
    if not models:
        return "No model was fine-tuned."
    top, best = models[0], best_of(models)
    if len(models) == 1:
        return f"{top.name} alone was fine-tuned, so there is nothing to compare it with."
    if top.ranked.rank > 1:
        return (
            f"The model that is ranked first was not fine-tuned; of the {len(models)} that were, "
            f"{best.name}, rank {best.ranked.rank}, is the most accurate."
        )
    which = f"of the {len(models)} that were fine-tuned, once each"
    images = count(int(top.facts["test_images"]), "test image")
    if best is top:
        others = [one.name for one in models[1:] if not differs(top, one)]
        close = f"; {' and '.join(others)} cannot be told from it" if others else ""
        return f"The advice was right: {top.name} is the most accurate {which}{close} ({images})."
    gap = f"{best.accuracy - top.accuracy:.2f} points more accurate than {top.name}, ranked first"
    if not differs(best, top):
        return (
            f"The advice holds within chance: {best.name} is {gap}, which may be chance on "
            f"{images}."
        )
    if best.ranked.tied:
        return (
            f"The advice was one of several: {best.name}, which the ranking could not tell from "
            f"the best, is {gap}: more than chance on {images}."
        )
    return (
        f"The advice was wrong: {best.name}, rank {best.ranked.rank}, is {gap}: more than chance "
        f"on {images}."
    )


def sheet(models: Sequence[Tuned]) -> Sheet:
    """Return the table of results.

    Args:
        models: the fine-tuned models, in the order of the ranking; at least one.
    """
    rows = []
    for one in models:
        facts = one.facts
        linear = facts.get("linear_probe") or {}
        rows.append(
            (
                one.name,
                str(one.ranked.rank),
                f"{facts['learning_rate']:g}",
                _percent(facts.get("validation")),
                one.with_interval(),
                _percent(linear.get("accuracy")),
                f"{facts['seconds']:.0f}",
            )
        )
    return Sheet(
        "Test accuracy after fine-tuning, %",
        ("model", "rank", "rate", "validation", "test", "linear probe", "seconds"),
        tuple(rows),
        (
            *notes_of(models[0].facts),
            "±: half the 95 % interval of the test accuracy",
            "rate: learning rate; validation: accuracy by which it was chosen",
            "linear probe: logistic regression on the features before fine-tuning",
        ),
    )


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{accuracy:.2f}"


def notes_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what an accuracy means: the chance level and, of several classes, the measure."""
    if not facts["multi_label"]:
        what = f"the share of the largest class in the {facts['test_images']:,} test images"
        return (f"chance level: {facts['chance']:.1f} %, {what}",)
    return (
        f"chance level: {facts['chance']:.1f} %, by predicting for each class what most of the "
        f"{facts['test_images']:,} test images have",
        "images have several classes: the accuracy is the share of labels, one for each image and "
        "class, that are right at a probability of 0.5",
    )


def json_text(models: Sequence[Tuned], target: str) -> str:
    """Return all results as JSON, with a prediction for every test image."""
    content = {
        "verdict": verdict(models),
        "target": target,
        "models": [
            {
                "name": one.name,
                "rank": one.ranked.rank,
                "tied": one.ranked.tied,
                "file": str(one.file),
                **one.facts,
            }
            for one in models
        ],
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"
