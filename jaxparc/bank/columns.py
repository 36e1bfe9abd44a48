"""How the columns of a table follow from the scores of methods: means, "+l" and "+p"."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jaxparc.bank.programs import Scored
from jaxparc.selectors import Ensemble, Method
from jaxparc.selectors.heuristic import deviation_of, plus_layers, standardised


class Table(NamedTuple):
    """The scores of m models by k methods.

    Attributes:
        scores: (m, k) float64.
        contributions: (m, k, n) float32, what each image contributes, with mean 0; n is 0 if that
            is not wanted.
        undefined: (model, method) -> why its score is NaN, for every NaN.
    """

    scores: np.ndarray
    contributions: np.ndarray
    undefined: dict[tuple[str, str], str]


class _Column(NamedTuple):
    """Scores, (m,), and contributions of the images, (m, n)."""

    scores: np.ndarray
    contributions: np.ndarray

    def standardised(self, scores: np.ndarray) -> "_Column":
        """Return the standardised scores with contributions; their deviation is taken as given."""
        return _Column(scores, self.contributions / deviation_of(self.scores))


def table(
    rows: Sequence[Scored],
    members: Sequence[Method],
    methods: Sequence[Method | Ensemble],
    ell_max: float,
    prior_weight: float,
) -> Table:
    """Return the table of methods, from the scores of their members.

    Args:
        rows: the models, scored by the members.
        members: the methods that `rows` are scored by.
        methods: the columns.
        ell_max: see `score_bank`.
        prior_weight: see `score_bank`.
    """
    scored = np.stack([row.scores for row in rows])
    images = np.stack([row.contributions for row in rows])
    images = images - images.mean(axis=2, keepdims=True) if images.size else images
    raw = {m: _Column(scored[:, k], images[:, k]) for k, m in enumerate(members)}
    layers = np.array([row.model.layers for row in rows])
    prior = np.array([row.model.prior for row in rows])
    prior = prior_weight * standardised(np.where(np.isfinite(prior), prior, np.nan))
    undefined: dict[tuple[str, str], str] = {}
    scores = np.empty((len(rows), len(methods)))
    contributions = np.empty((len(rows), len(methods), images.shape[2]), np.float32)
    for column, method in enumerate(methods):
        found = raw[method.members[0]]
        if isinstance(method, Ensemble):
            found = _mean([raw[member] for member in method.members])
        if method.plus_layers:
            found = found.standardised(plus_layers(found.scores, layers, ell_max))
        elif method.plus_prior:
            found = found.standardised(standardised(found.scores))
        if method.plus_prior:
            found = found._replace(scores=found.scores + prior)
        scores[:, column], contributions[:, column] = found
        missing = np.isnan(found.scores)
        contributions[missing, column] = np.nan
        for place in map(int, np.flatnonzero(missing)):
            of_model = {member: raw[member].scores[place] for member in method.members}
            reason = _reason(method, rows[place], of_model)
            undefined[rows[place].model.name, method.label] = reason
    return Table(scores, contributions, undefined)


def _mean(columns: Sequence[_Column]) -> _Column:
    """Return the mean of the standardised scores of methods.

    A method by which all models tie says nothing, and counts as 0; NaN throughout if all are such.
    """
    parts = [column.standardised(standardised(column.scores)) for column in columns]
    tied = [np.isnan(part.scores).all() for part in parts]
    if not all(tied):
        parts = [
            _Column(np.where(np.isfinite(column.scores), 0.0, np.nan), 0.0 * column.contributions)
            if ties
            else part
            for column, part, ties in zip(columns, parts, tied, strict=True)
        ]
    scores, contributions = zip(*parts, strict=True)
    return _Column(np.mean(scores, axis=0), np.mean(contributions, axis=0))


def _reason(method: Method | Ensemble, row: Scored, scores: Mapping[Method, float]) -> str:
    """Return why a method is undefined for a model by whose members it has these scores."""
    for member, score in scores.items():
        if np.isnan(score):
            return (row.flaw if member.reads_images else None) or member.selector.undefined
    if method.plus_layers and not np.isfinite(row.model.layers):
        return "layers is not a finite number"
    if method.plus_prior and not np.isfinite(row.model.prior):
        return "prior is not a finite number"
    step = "mean(...)" if isinstance(method, Ensemble) else "+l" if method.plus_layers else "+p"
    needed = "scores and priors" if method.plus_prior else "scores"
    return f"{step} needs {needed} of at least two models that are not all equal"
