"""The speed command: that it measures what it says, at sizes that take seconds. No times."""

import json

import numpy as np
import pytest

from experiments import plain, speed
from jaxparc import selectors

TINY = speed.Sizes(
    n=40,
    models=(1, 3),
    widths=(24,),
    classes=(4, 5),
    m=3,
    d=24,
    c=4,
    z=6,
    plain_models=2,
    repeats=2,
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(speed, "PAUSE", 0)
    patch.setattr(speed, "POOL", 2)
    patch.setattr(speed, "matrix_rate", lambda: 1e9)
    patch.setattr(speed, "first_call", lambda _: 1.0)
    out = tmp_path_factory.mktemp("speed") / "table"
    rows = speed.bank(TINY, out=out)
    patch.undo()
    return rows, out


@pytest.mark.slow
def test_every_case_has_a_row(measured):
    rows, _ = measured
    assert [(r.what, r.m, r.d, r.c) for r in rows] == [
        ("parc_f32", 1, 24, 4),
        ("parc_f32", 3, 24, 4),
        ("parc_f32", 3, 24, 5),
        *((method, 3, 24, 4) for method in speed.ALONE),
        ("all but hscore", 3, 24, 4),
        ("hscore", 3, 24, 4),
    ]
    assert all(len(r.ours) == 2 and min(r.ours) > 0 for r in rows)
    assert all(len(r.plain) == len(r.plain_one_thread) == 2 for r in rows[:-1])
    assert len(rows[-1].plain) == 1  # it takes a minute


def test_every_method_is_measured():
    named = {method.partition("_")[0] for method in (*speed.ALONE, *speed.TOGETHER, "hscore")}
    assert named == set(selectors.SELECTORS)


@pytest.mark.slow
def test_both_files_hold_all_rows(measured):
    rows, out = measured
    content = json.loads(out.with_suffix(".json").read_text())
    assert [row["what"] for row in content["rows"]] == [row.what for row in rows]
    assert content["about"]["sizes"]["n"] == 40
    assert {"date", "device", "processor", "cores", "packages", "blas"} <= set(content["about"])
    table = [line for line in out.with_suffix(".md").read_text().splitlines() if line[:1] == "|"]
    assert len(table) == 2 + len(rows)
    assert len({line.count("|") for line in table}) == 1


def test_ratio_is_to_the_median_and_to_the_faster_side():
    row = speed.Row("x", 1, 1, 1, [1, 2, 9], [10, 20, 30], [8, 8, 8], None, 0, 0, 0)
    assert (row.ratio(), row.ratio_best()) == (10, 4)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*speed.ALONE, "parc_f32", "hscore"])
def test_both_sides_compute_the_same(method):
    # not of what they are timed on alone: the scores themselves
    look = speed.look(TINY, 24, 4, seed=0)
    got = speed.score_bank([look], 2, [method])
    expected = plain.score(method, look)
    tolerance = {"logistic": 10, "hscore": 1e-2}.get(method.partition("_")[0], 0.5)
    np.testing.assert_allclose(got.values[:, 0], expected, atol=tolerance)


def test_what_methods_share_is_counted_once():
    sizes = (500, 2048, 10, 1000)
    alone = speed.least_work(["parc"], *sizes)
    assert speed.least_work(["parc", "rsa", "dds"], *sizes) == alone
    assert speed.least_work(["heuristic"], *sizes) == (0, 0)
    assert speed.least_work(["knn", "nce"], *sizes) > alone
