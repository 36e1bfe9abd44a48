"""Tables about the truth itself: how well it repeats, and how well a linear probe stands for it.

And the summary again for networks alike in what they were trained on, or in their size: there, the
better network is not just the larger one, or the one that has seen more.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from experiments.tables import read
from jaxparc import models
from jaxparc.evaluation import Transfer, baselines, outcomes
from jaxparc.evaluation.measures import MEASURES
from jaxparc.evaluation.outcomes import Model, Outcomes
from jaxparc.evaluation.summary import summarise
from jaxparc.report import sheets
from jaxparc.report.results import number
from jaxparc.report.sheets import Sheet

HEADING = "A closer look"
PARAMETERS = "log parameters"
FEWEST = 4  # models of a part that has its own table
ALIKE = 3.0  # largest ratio of the numbers of parameters of networks of similar size
_MEASURES = ("pearson", "weighted_tau", "regret1")


def tables(
    found: Outcomes, oracle: Path, linear: Path, title: Callable[[str], str], resamples: int
) -> dict[str, Sheet]:
    """Return the tables by file name; those whose numbers are missing are left out.

    Args:
        found: the outcomes, baselines included.
        oracle: the table of accuracies, with a column per seed.
        linear: the table of linear probes.
        title: method -> title.
        resamples: number of resamples of every interval.

    Raises:
        TableError: a table is malformed.
    """
    seeds = read.read_seeds(oracle)
    made = {"accuracies": accuracies(found, seeds)}
    if compared := repeated(found, seeds, read.read_linear(linear)):
        made["truth"] = compared
    for name, (heading, some) in parts(found.models).items():
        result = summarise(found.only(models=some), ("pearson",), resamples=resamples)
        sheet = sheets.intervals(result, "pearson", title)
        made[name] = sheet._replace(title=f"PC among {heading}: {', '.join(map(_name, some))}")
    return made


def with_parameters(found: Outcomes) -> Outcomes:
    """Return outcomes with the logarithm of the number of parameters as a further baseline."""
    sizes = {name: math.log(spec.parameters) for name, spec in models.MODELS.items()}
    if any(architecture not in sizes for architecture, _ in found.models):
        return found
    return found.beside({PARAMETERS: baselines.depth(found, sizes)})


def accuracies(found: Outcomes, seeds: Mapping[str, read.Accuracies]) -> Sheet:
    """Return the accuracies of every model and target, with half the range over seeds."""
    rows = []
    for i, model in enumerate(found.models):
        cells = []
        for j, target in enumerate(found.targets):
            mean = found.accuracies[i, j]
            of_seeds = [of_seed.get(Transfer(*model, target), np.nan) for of_seed in seeds.values()]
            spread = f" ± {np.ptp(of_seeds) / 2:.1f}" if len(of_seeds) > 1 else ""
            cells.append("–" if np.isnan(mean) else f"{mean:.1f}{spread}")
        rows.append((_name(model), *cells))
    note = f"Mean of {len(seeds)} seeds ± half their range." if len(seeds) > 1 else ""
    return Sheet(
        "Accuracy after fine-tuning, in %",
        ("model", *found.targets),
        tuple(rows),
        (note,) if note else (),
    )


def repeated(
    found: Outcomes, seeds: Mapping[str, read.Accuracies], linear: read.Accuracies
) -> Sheet | None:
    """Return how well accuracies predict each other: of two seeds, and of a linear probe.

    Args:
        found: the outcomes.
        seeds: name of a seed -> its accuracies.
        linear: accuracies of linear probes.
    """
    pairs = {}
    if len(seeds) > 1:
        (first, one), (second, other), *_ = seeds.items()
        pairs[f"{first} predicts {second}".lower()] = one, other
    if linear:
        mean = found.by_transfer(found.accuracies)
        pairs["linear probe predicts fine-tuning"] = linear, mean
    rows = []
    for name, (scores, truth) in pairs.items():
        kept = [
            t
            for t, accuracy in truth.items()
            if t.target in found.targets and np.isfinite([accuracy, scores.get(t, np.nan)]).all()
        ]
        if not kept:
            continue
        labelled = {name: [{t: scores[t] for t in kept}]}
        known = outcomes.collect({t: truth[t] for t in kept}, labelled)
        values = {m: outcomes.by_target(known, name, MEASURES[m])[0] for m in _MEASURES}
        means = (number(MEASURES[m].scale * float(v.mean())) for m, v in values.items())
        of_target = dict(zip(known.targets, values["pearson"], strict=True))
        cells = (
            number(100 * float(of_target[target])) if target in of_target else "–"
            for target in found.targets
        )
        rows.append((name, *means, *cells))
    if not rows:
        return None
    head = [MEASURES[m].title for m in _MEASURES]
    return Sheet(
        "How well accuracies predict accuracies",
        ("", *head, *(f"PC {target}" for target in found.targets)),
        tuple(rows),
        (
            "Means over targets. One seed against another shows how well single trainings agree; "
            "an accuracy is the mean of all.",
        ),
    )


def parts(known: tuple[Model, ...]) -> dict[str, tuple[str, list[Model]]]:
    """Return the parts of the models that are alike: file name -> words and models.

    These are the models of each source, and the most models whose numbers of parameters are within
    a factor of `ALIKE`; parts of fewer than `FEWEST` models, or of all, are left out.
    """
    found = {
        f"within_{source}": (f"networks trained on {source}", [m for m in known if m[1] == source])
        for source in dict.fromkeys(source for _, source in known)
    }
    sizes = {m: models.MODELS[m[0]].parameters for m in known if m[0] in models.MODELS}
    alike = [[m for m in sizes if low <= sizes[m] <= ALIKE * low] for low in sizes.values()]
    largest = max(alike, key=len, default=[])
    if largest:
        ends = (f"{end([sizes[m] for m in largest]) / 1e6:.1f}" for end in (min, max))
        found["within_size"] = (f"networks of {' to '.join(ends)} M parameters", largest)
    return {name: part for name, part in found.items() if FEWEST <= len(part[1]) < len(known)}


def _name(model: Model) -> str:
    return "/".join(filter(None, model))
