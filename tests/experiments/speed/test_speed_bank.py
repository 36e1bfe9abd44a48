"""The bank table: every method, both sides, features of their own, and few packages. No times."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.speed import bank, banks, ceilings, measured, plain
from jaxparc import selectors

TINY = banks.Sizes(
    n=40,
    models=(1, 3),
    widths=(24,),
    classes=(4, 5),
    m=3,
    d=24,
    c=4,
    z=6,
    together=(24,),
    plain_models=2,
    repeats=2,
)
NOTHING = dataclasses.replace(
    TINY, models=(), classes=(), together=(), alone=(), slow=False, first_call=False
)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(bank, "PAUSE", 0)
    patch.setattr(banks, "POOL", 2)
    patch.setattr(ceilings, "matrix_rate", lambda dtype: 1e9)
    patch.setattr(bank, "first_call", lambda _: 1.0)
    out = tmp_path_factory.mktemp("speed") / "table"
    rows = measured.run(bank.section(TINY), out, "the command")
    patch.undo()
    return rows, out


@pytest.mark.slow
def test_every_case_has_a_row(tables):
    rows, _ = tables
    assert [(r.what, r.m, r.d, r.c) for r in rows] == [
        ("parc_f32", 1, 24, 4),
        ("parc_f32", 3, 24, 4),
        ("parc_f32", 3, 24, 5),
        *((method, 3, 24, 4) for method in banks.ALONE),
        ("nine methods", 3, 24, 4),
        ("eighteen methods", 3, 24, 4),
        ("hscore", 3, 24, 4),
    ]
    assert all(len(r.ours) == 2 and min(r.ours) > 0 for r in rows)
    assert all(len(r.plain) == len(r.plain_one_thread) == 2 for r in rows[:-1])
    assert len(rows[-1].plain) == 1  # it takes a minute


def test_every_method_is_measured():
    named = (*banks.ALONE, *banks.TOGETHER, "hscore")
    assert {method.partition("_f")[0] for method in named} == set(selectors.SELECTORS)


@pytest.mark.slow
def test_both_files_hold_all_rows(tables):
    rows, out = tables
    content = json.loads(out.with_suffix(".json").read_text())
    assert [row["what"] for row in content["rows"]] == [row.what for row in rows]
    assert content["about"]["sizes"]["n"] == 40
    assert {"date", "device", "processor", "cores", "packages", "blas"} <= set(content["about"])
    assert content["about"]["first_call_seconds"] == 1.0
    text = out.with_suffix(".md").read_text()
    assert text.startswith("`the command`, ")
    assert (
        "\n\nn = 40. Float32 matrix rate 1 GFLOP/s. The first call of the default method takes "
        "1.00 s" in text
    )
    table = [line for line in text.splitlines() if line[:1] == "|"]
    assert len(table) == 2 + len(rows)
    assert len({line.count("|") for line in table}) == 1


def test_ratio_is_to_the_median_and_to_the_faster_side():
    row = bank.Row("x", 1, 1, 1, "host", [1, 2, 9], [10, 20, 30], [8, 8, 8], None, 0, 0, 0)
    assert (row.ratio(), row.ratio_best()) == (10, 4)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*banks.ALONE, "parc_f32", "hscore"])
def test_both_sides_compute_the_same(method):
    # not of what they are timed on alone: the scores themselves
    model = banks.synthetic(TINY, 24, 4, seed=0)
    got = banks.score_bank([model] * TINY.m, [method])  # in the program that was timed
    expected = plain.score(method, model)
    tolerance = {"logistic": 10, "hscore": 1e-2}.get(method.partition("_")[0], 0.5)
    np.testing.assert_allclose(got.values[:, 0], expected, atol=tolerance)


def test_what_methods_share_is_counted_once():
    sizes = (500, 2048, 10, 1000)
    alone = banks.least_work(["parc"], *sizes)
    assert banks.least_work(["parc", "rsa", "dds"], *sizes) == alone
    assert banks.least_work(["heuristic"], *sizes) == (0, 0)
    assert banks.least_work(["knn", "nce"], *sizes) > alone


def test_models_have_arrays_of_their_own_where_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(banks, "POOL", 2)
    given = banks.Banks(TINY)
    for place, kind in (("host", np.ndarray), ("device", jax.Array)):
        models = given.placed(24, 4, place, 5)
        assert all(isinstance(model.features, kind) for model in models)
        addresses = {
            x.ctypes.data if isinstance(x, np.ndarray) else x.unsafe_buffer_pointer()
            for model in models
            for x in (model.features, model.probs)
        }
        assert len(addresses) == 2 * 5
        for i, model in enumerate(models):
            np.testing.assert_array_equal(model.features, given.pool(24, 4)[i % 2].features)
    given.free()
    assert given.pool(24, 5)[0].num_classes == 5


def test_models_beyond_the_limit_share_arrays(monkeypatch):
    monkeypatch.setattr(banks, "POOL", 2)
    given = banks.Banks(TINY)
    given.limit = 3 * (40 * 24 + 40 * 6) * 4
    models = given.placed(24, 4, "host", 7)
    assert [models[i].features is models[i % 3].features for i in range(7)] == [True] * 7
    assert len({id(model.features) for model in models}) == 3


@pytest.mark.slow
def test_the_plain_side_is_measured_once_for_both_places(at_once, monkeypatch):
    monkeypatch.setattr(banks, "POOL", 2)
    sizes = dataclasses.replace(NOTHING, models=(3,), places=("device", "host"))
    on_device, on_host, hscore = measured.run(bank.section(sizes))
    assert (on_device.place, on_host.place, hscore.place) == ("device", "host", "device")
    assert on_device.plain == on_host.plain != []
    assert hscore.plain == []
    assert on_host.copy_share is None  # on a CPU


def test_the_share_of_the_copy_rate_is_that_of_the_bytes_of_a_model(at_once, monkeypatch):
    monkeypatch.setattr(ceilings, "host_copy_rate", lambda: 1e6)
    monkeypatch.setattr(banks, "score_bank", lambda *_: None)
    monkeypatch.setattr(bank, "_seconds", lambda run: 0.01)
    model = banks.synthetic(TINY, 24, 4, seed=0)
    sizes = dataclasses.replace(TINY, plain_repeats=0)
    row = bank.measure(sizes, ["parc_f32"], [model] * 2, [model])
    assert row.copy_share == pytest.approx(4 * 40 * 24 / (0.01 / 2) / 1e6)
    assert row.models_per_second() == pytest.approx(200)
    assert bank.measure(sizes, ["parc"], [model], [model], place="device").copy_share is None


BLOCKED = """
import dataclasses
import sys

absent = {"flax", "optax", "orbax", "grain", "tensorflow_datasets", "PIL", "pandas", "portalocker"}


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {*absent, "torch", "torchvision", "ray", "tensorflow"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Absent())
from experiments.speed import __main__ as command, bank, banks

few = {"models": (), "alone": (), "places": ("host",), "plain_models": 1, "repeats": 1}
banks.QUICK, bank.PAUSE = dataclasses.replace(banks.TINY, **few), 0
command.main(["bank", "--quick"])
"""


@pytest.mark.slow
def test_bank_needs_jax_numpy_rich_scipy_and_scikit_learn_alone():
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert "eighteen methods" in done.stdout
