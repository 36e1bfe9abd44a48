"""The answer that follows from scores: what to fine-tune, in words."""

import math

import numpy as np
import pytest

from jaxparc.bank.costs import Facts
from jaxparc.bank.ranked import Row, answer
from jaxparc.bank.ranking import Ranking
from jaxparc.bank.scores import BankScores

METHODS = ("parc_f32", "ridge")
UNKNOWN = Facts()


def row(name, rank, facts=UNKNOWN, *, tied=False, better_by=()):
    score = math.nan if rank is None else 10.0 - rank
    limits = score - 1, score + 1
    return Row(name, rank, score, *limits, tied=tied, better_by=better_by, facts=facts)


def best(facts=UNKNOWN):
    return row("A", 1, facts, tied=True)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([best()], "Fine-tune A, the only model."),
        ([best(), row("B", None)], "Fine-tune A, the only model with a score."),
        (
            [best(), row("B", 2)],
            "Fine-tune A. The other model scores lower by more than chance (95 %).",
        ),
        (
            [best(), row("B", 2), row("C", 3), row("D", None)],
            "Fine-tune A. Both others score lower by more than chance (95 %).",
        ),
        (
            [best(), row("B", 2), row("C", 3), row("E", 4)],
            "Fine-tune A. All 3 others score lower by more than chance (95 %).",
        ),
        (
            [best(), row("B", 2, tied=True), row("C", 3)],
            "Fine-tune A. B cannot be told from it (95 %).",
        ),
        (
            [best(), *(row(name, 2, tied=True) for name in "BC")],
            "Fine-tune A. B and C cannot be told from it (95 %).",
        ),
        (
            [best(), *(row(name, 2, tied=True) for name in "BCDE")],
            "Fine-tune A. B, C, D and E cannot be told from it (95 %).",
        ),
        (
            [best(), *(row(name, 2, tied=True) for name in "BCDEFG")],
            "Fine-tune A. B, C, D and 3 others cannot be told from it (95 %).",
        ),
        ([row("A", None)], "No model can be recommended: parc_f32 is undefined for 1 model."),
        (
            [row("A", None), row("B", None)],
            "No model can be recommended: parc_f32 is undefined for 2 models.",
        ),
    ],
)
def test_the_answer_names_the_best_and_its_ties(rows, expected):
    assert answer(rows, METHODS) == expected


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        (
            Facts(images_per_second=100),
            Facts(images_per_second=310),
            "C extracts 3.1 times as fast.",
        ),
        (Facts(images_per_second=10), Facts(images_per_second=240), "C extracts 24 times as fast."),
        (Facts(images_per_second=100), Facts(images_per_second=110), ""),  # as fast, give or take
        (Facts(images_per_second=100), Facts(images_per_second=50), ""),
        (
            Facts(parameters=8_000_000),
            Facts(parameters=2_000_000),
            "C has 4.0 times fewer parameters.",
        ),
        (Facts(parameters=2_000_000), Facts(parameters=8_000_000), ""),
        (Facts(images_per_second=100), Facts(), ""),
        (Facts(), Facts(images_per_second=100), ""),
        (  # a measured speed says more than a number of parameters
            Facts(images_per_second=100, parameters=8),
            Facts(images_per_second=300, parameters=9),
            "C extracts 3.0 times as fast.",
        ),
        (
            Facts(images_per_second=100, parameters=8),
            Facts(parameters=2),
            "C has 4.0 times fewer parameters.",
        ),
    ],
)
def test_the_answer_names_the_cheapest_tied_model(own, other, expected):
    rows = [best(own), row("B", 2, tied=True), row("C", 3, other, tied=True)]
    said = "Fine-tune A. B and C cannot be told from it (95 %)."
    assert answer(rows, METHODS) == f"{said} {expected}".strip()


def test_a_cheap_model_that_is_not_tied_is_not_advised():
    rows = [best(Facts(images_per_second=1)), row("B", 2, Facts(images_per_second=99))]
    assert "fast" not in answer(rows, METHODS)


def test_the_answer_says_where_the_second_method_disagrees():
    rows = [best(), row("B", 2, better_by=("ridge",)), row("C", 3, better_by=("knn",))]
    assert answer(rows, METHODS, 0.9) == (
        "Fine-tune A. Both others score lower by more than chance (90 %). "
        "By ridge, however, B would be better."
    )
    assert "however" not in answer(rows, METHODS[:1])


def scored(values, noise, names="abcd"):
    """Scores by two methods, with contributions of 200 images of a given deviation."""
    values = np.array(values, float)
    drawn = np.random.default_rng(0).normal(size=(*values.shape, 200)) * noise * math.sqrt(200)
    drawn -= drawn.mean(axis=-1, keepdims=True)
    return BankScores(
        tuple(names[: len(values)]), METHODS, values[None], {}, (drawn.astype(np.float32),)
    )


def test_rows_follow_from_the_scores():
    scores = scored([[5, 1], [9, 2], [8.9, 9], [math.nan, 3]], noise=0.2)
    speeds = {"a": 10.0, "b": 1.0, "c": 1.0, "d": 99.0}
    ranking = Ranking(scores, {k: Facts(images_per_second=v) for k, v in speeds.items()})
    rows = ranking.rows
    assert [row.name for row in rows] == ["b", "c", "a", "d"]
    assert [row.rank for row in rows] == [1, 2, 3, None]
    assert [row.tied for row in rows] == [True, True, False, False]
    assert [row.ranks.get("ridge") for row in rows] == [3, 1, 4, 2]
    # a is below b by ridge as well, and d is above it, though it has no rank
    assert [row.better_by for row in rows] == [(), ("ridge",), (), ("ridge",)]
    # c is as fast as b and worse; d has no score
    assert [row.frontier for row in rows] == [True, False, True, False]
    for row in rows:
        assert (row.low, row.high) == scores.interval()[row.name] or row.rank is None
    assert ranking.answer == (
        "Fine-tune b. c cannot be told from it (95 %). By ridge, however, c would be better."
    )


def test_equal_scores_share_a_rank_and_the_frontier():
    scores = scored([[5, 1], [5, 1], [4, 1]], noise=0.1)
    ranking = Ranking(scores, {name: Facts(images_per_second=2) for name in "abc"})
    assert [row.rank for row in ranking.rows] == [1, 1, 3]
    assert [row.frontier for row in ranking.rows] == [True, True, False]


def test_without_a_defined_score_there_is_no_advice():
    ranking = Ranking(scored(np.full((2, 2), math.nan), noise=0.1))
    assert [(row.rank, row.tied, row.better_by) for row in ranking.rows] == [(None, False, ())] * 2
    assert ranking.answer.startswith("No model can be recommended: parc_f32 is undefined for 2")


def test_a_paired_difference_is_that_of_resampled_images():
    """Of means over images the contributions are exact, so the interval is the paired t one."""
    from scipy import stats

    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 80)) + rng.normal(size=80)
    values = x.mean(axis=1)[None, :, None]
    parts = (x - x.mean(axis=1, keepdims=True))[:, None].astype(np.float32)
    scores = BankScores(("a", "b", "c"), ("mean",), values, {}, (parts,))
    found = scores.differences("b")
    np.testing.assert_allclose(found[1], 0)
    for i in (0, 2):
        expected = stats.ttest_rel(x[i], x[1]).confidence_interval(0.95)
        np.testing.assert_allclose(found[i], expected, rtol=1e-4)
    with pytest.raises(ValueError, match="unknown model 'z'; scored: 'a', 'b', 'c'"):
        scores.differences("z")


def test_the_answer_claims_nothing_where_the_noise_is_not_known():
    rows = [Row("A", 1, 3.0), Row("B", 2, 2.0, tied=True)]
    expected = "Fine-tune A. How sure that is, is not known: heuristic has no interval."
    assert answer(rows, ("heuristic",)) == expected
