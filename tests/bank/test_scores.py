import csv
import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

import jaxparc
from jaxparc.errors import InputError

# -------------------------------------------------------------------------------- ranking, tables


@pytest.fixture
def table():
    values = [[[1.0, 9.0], [np.nan, 8.0], [3.0, 7.0], [1.0, 5.0]]] * 2
    values = np.array(values) + np.array([0.5, -0.5])[:, None, None]
    return jaxparc.BankScores(("a", "b", "c", "d"), ("parc", "knn"), values)


def test_ranking_is_best_first_with_ties_in_order_and_undefined_last(table):
    assert [name for name, _ in table.ranking()] == ["c", "a", "d", "b"]
    assert table.ranking()[:2] == [("c", 3.0), ("a", 1.0)]
    assert table.ranking("knn") == [("a", 9.0), ("b", 8.0), ("c", 7.0), ("d", 5.0)]
    assert table.best == "c"


def test_ranking_by_what_was_not_scored_lists_what_was(table):
    with pytest.raises(ValueError, match="unknown method 'leep'; scored: parc, knn"):
        table.ranking("leep")


def test_mean_is_nan_where_any_probe_set_is(table):
    table.values_per_run[0, 0, 0] = np.nan
    assert np.isnan(table.values[0, 0])


def test_csv_is_one_row_per_model_in_the_banks_order(table, tmp_path):
    text = table.to_csv(tmp_path / "scores.csv")
    assert (tmp_path / "scores.csv").read_text() == text
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["model", "parc", "knn"]
    assert [row[0] for row in rows[1:]] == ["a", "b", "c", "d"]
    np.testing.assert_allclose([[float(v) for v in row[1:]] for row in rows[1:]], table.values)


def test_csv_quotes_names():
    scores = jaxparc.BankScores(("a,b",), ("parc",), np.ones((1, 1, 1)))
    assert list(csv.reader(io.StringIO(scores.to_csv())))[1] == ["a,b", "1.000000"]


def test_repr_is_the_ranked_table(table):
    text = repr(table)
    assert "4 models, mean ± std over 2 probe sets" in text
    assert "3.00 ± 0.71" in text
    assert "nan" in text
    lines = [line for line in text.splitlines() if "±" in line or "nan" in line][1:]
    assert [line.split()[3] for line in lines] == ["c", "a", "d", "b"]
    one = jaxparc.BankScores(table.names, table.methods, table.values_per_run[:1])
    assert "one probe set" in repr(one)
    assert "±" not in repr(one)


def test_html_is_the_ranked_table(table):
    html = table._repr_html_()
    assert html.startswith("<pre>")
    assert "3.00 ± 0.71" in html
    assert html.index(" c ") < html.index(" a ") < html.index(" d ") < html.index(" b ")


@pytest.mark.parametrize("name", ["vit[b16]", "resnet[/imagenet]", "net:smile:", "r" * 60])
def test_repr_shows_names_as_they_are(name):
    # square brackets are markup to rich
    scores = jaxparc.BankScores((name,), ("parc",), np.ones((1, 1, 1)))
    assert name in repr(scores)
    assert name in scores._repr_html_()


def test_html_escapes_names():
    scores = jaxparc.BankScores(("<b>",), ("parc",), np.ones((1, 1, 1)))
    assert "<b>" not in scores._repr_html_()


HOSTILE = ("=cmd|x", "a\x1b[31m\nb", "modèle-日本", 7, "<svg onload=x>")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_name_is_printed_in_any_encoding(encoding, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    scores = jaxparc.BankScores(HOSTILE, ("parc",), np.arange(10.0).reshape(2, 5, 1))
    print(scores)
    out.flush()
    text = out.buffer.getvalue().decode(encoding)
    assert "\x1b" not in text
    assert r"a\x1b[31m\nb" in text
    assert ("┃" in text) == (encoding == "utf-8")
    assert ("+/- 3.54" in text) == (encoding == "ascii")
    lines = [line for line in text.splitlines() if "3.54" in line]
    assert len(lines) == 5
    assert "\x1b[31m" not in scores._repr_html_()
    assert "<svg" not in scores._repr_html_()


def test_any_name_is_drawn(tmp_path):
    scores = jaxparc.BankScores(HOSTILE[:2], ("parc",), np.ones((1, 2, 1)))
    scores.plot().savefig(tmp_path / "x.svg")
    ET.parse(tmp_path / "x.svg")  # control characters are no XML


def test_a_csv_is_utf8_without_formulas_in_any_locale(tmp_path):
    scores = jaxparc.BankScores(HOSTILE, ("parc",), -np.ones((1, 5, 1)))
    text = scores.to_csv(tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes() == text.encode()
    rows = list(csv.reader(io.StringIO(text)))[1:]
    assert [row[0] for row in rows] == ["'=cmd|x", *map(str, HOSTILE[1:])]
    assert {row[1] for row in rows} == {"-1.000000"}


def test_one_model_is_no_plural():
    scores = jaxparc.BankScores(("a",), ("parc",), np.ones((1, 1, 1)))
    assert "1 model, one probe set" in " ".join(repr(scores).split())


def test_pandas_holds_the_same():
    pd = pytest.importorskip("pandas")
    scores = jaxparc.BankScores(("a", "b"), ("parc",), np.array([[[1.0], [np.nan]]]))
    expected = pd.DataFrame({"parc": [1.0, np.nan]}, index=pd.Index(["a", "b"], name="model"))
    pd.testing.assert_frame_equal(scores.to_pandas(), expected)


def test_pandas_and_csv_keep_probe_sets_if_asked(table, tmp_path):
    pd = pytest.importorskip("pandas")
    frame = table.to_pandas(per_run=True)
    assert frame.index.names == ["run", "model"]
    for run, values in enumerate(table.values_per_run):
        np.testing.assert_array_equal(frame.loc[run].to_numpy(), values)
        assert frame.loc[run].index.tolist() == list(table.names)
    text = table.to_csv(tmp_path / "runs.csv", per_run=True)
    assert (tmp_path / "runs.csv").read_bytes().decode("utf-8") == text
    again = pd.read_csv(tmp_path / "runs.csv", index_col=["run", "model"])
    np.testing.assert_allclose(again.to_numpy(), frame.to_numpy(), atol=1e-6)


def test_scores_of_a_method_by_name(table):
    assert list(table) == list(table.methods)
    for k, method in enumerate(table.methods):
        found = table[method]
        assert list(found) == list(table.names)
        np.testing.assert_array_equal(list(found.values()), table.values[:, k])
    with pytest.raises(InputError, match="unknown method 'leep'; scored: parc, knn"):
        table["leep"]


def test_scores_are_equal_to_themselves_alone(table):
    other = jaxparc.BankScores(table.names, table.methods, table.values_per_run)
    assert table == table  # noqa: PLR0124
    assert table != other
    assert len({table, other, table}) == 2


@pytest.mark.parametrize(
    "names", [("a", "a"), (0, 1), ("", "[red]x"), ("\ud800", "\x1b[2J"), ("\n", "名")]
)
def test_any_names_are_printed(names, tmp_path):
    scores = jaxparc.BankScores(names, ("parc",), np.array([[[1.0], [2.0]]]))
    assert "2.00" in repr(scores)
    assert repr(scores).index("2.00") < repr(scores).index("1.00")
    assert scores._repr_html_()
    text = scores.to_csv(tmp_path / "scores.csv")
    assert text.count("1.000000") == text.count("2.000000") == 1
    (tmp_path / "scores.csv").read_text("utf-8")


def test_values_of_another_shape_are_refused():
    with pytest.raises(
        InputError, match=r"values_per_run has shape \(1, 1\); expected \(r, 2, 1\)"
    ):
        jaxparc.BankScores(("a", "b"), ("parc",), np.ones((1, 1)))


@pytest.mark.parametrize("runs", [1, 5])
@pytest.mark.parametrize("k", [1, 3, 7])
def test_at_80_columns_names_fold_and_numbers_stay_whole(runs, k):
    methods = ("parc_f32", "knn", "logistic_f32+l", "hscore_f32", "rsa_f32", "leep", "dds")[:k]
    names = ("resnet50/imagenet", "x" * 50, "googlenet/caltech101")
    values = np.random.default_rng(0).normal(-40, 20, size=(runs, 3, k))
    scores = jaxparc.BankScores(names, methods, values)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(scores.table())
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("x") >= 50  # folded, whole
    for value, std in zip(scores.values.ravel(), values.std(0, ddof=runs > 1).ravel(), strict=True):
        assert f"{value:.2f}" in text
        assert runs == 1 or f"± {std:.2f}" in text
    # and wherever it is printed
    assert all(f"{value:.2f}" in repr(scores) for value in scores.values.ravel())


def test_many_methods_widen_the_repr():
    values = np.random.default_rng(0).normal(-40, 20, size=(1, 2, 20))
    scores = jaxparc.BankScores(("a", "b"), tuple(f"method_f{i}" for i in range(20)), values)
    assert all(f"{value:.2f}" in repr(scores) for value in values.ravel())
    assert all(f"{value:.2f}" in scores._repr_html_() for value in values.ravel())


# ------------------------------------------------------------------------------------------- ties


def noisy(runs=5, m=12, k=2, seed=0):
    """Models a little apart, probe sets that move all of them together."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 2, size=(m, k)) + rng.normal(0, 9, size=(runs, 1, k))
    values = values + rng.normal(size=(runs, m, k))
    return jaxparc.BankScores(tuple(f"m{i}" for i in range(m)), ("parc", "knn")[:k], values)


@pytest.mark.parametrize("runs", [2, 3, 5, 20])
@pytest.mark.parametrize("seed", range(5))
def test_ties_are_those_of_a_paired_t_test(runs, seed):
    scores = noisy(runs, seed=seed)
    for k, method in enumerate(scores.methods):
        ranking = [name for name, _ in scores.ranking(method)]
        best = scores.values_per_run[:, scores.names.index(ranking[0]), k]
        expected = ranking[:1]
        for name in ranking[1:]:
            other = scores.values_per_run[:, scores.names.index(name), k]
            test = stats.ttest_rel(best, other)
            low, high = test.confidence_interval(0.95)
            assert (low <= 0 <= high) == (test.pvalue >= 0.05)
            if low <= 0 <= high:
                expected.append(name)
        assert scores.tied(method) == expected
    assert scores.tied() == scores.tied("parc")


def test_some_tie_and_some_do_not():
    assert [len(noisy(seed=seed).tied()) for seed in (5, 11)] == [3, 5]


def test_pairing_sees_through_the_noise_that_models_share():
    shared = np.array([0.0, 30.0, 60.0, 90.0])[:, None]
    values = shared + np.array([2.0, 1.0]) + np.array([[0, 0.1], [0.1, 0], [0, 0.1], [0.1, 0]])
    assert jaxparc.BankScores(("a", "b"), ("parc",), values[..., None]).tied() == ["a"]


def test_equal_models_tie_and_constant_differences_do_not():
    values = np.array([[3.0, 3.0, 2.0], [5.0, 5.0, 4.0]])[..., None]
    assert jaxparc.BankScores(("a", "b", "c"), ("parc",), values).tied() == ["a", "b"]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_undefined_models_never_tie(value):
    values = np.array([[3.0, value, 3.1], [5.0, 5.0, 4.9]])[..., None]
    scores = jaxparc.BankScores(("a", "b", "c"), ("parc",), values)
    assert scores.tied() == ["a", "c"]
    assert "by parc: c (95 %" in repr(scores)


def test_where_nothing_is_defined_nothing_ties():
    scores = jaxparc.BankScores(("a", "b"), ("parc",), np.full((3, 2, 1), np.nan))
    assert scores.tied() == []
    assert "indistinguishable" not in repr(scores)


def test_ties_need_several_probe_sets():
    scores = noisy(1)
    with pytest.raises(ValueError, match="scores are of 1 probe set, without intervals; expected"):
        scores.tied()
    with pytest.raises(ValueError, match="unknown method 'leep'"):
        noisy().tied("leep")
    assert "indistinguishable" not in repr(scores)


def test_the_caption_names_ties_of_the_first_method():
    values = np.array([[3.0, 3.1, 1.0], [5.0, 4.9, 2.0], [4.0, 4.0, 2.0]])[..., None]
    scores = jaxparc.BankScores(("a[b]", "b", "c"), ("parc",), values)
    expected = "indistinguishable from the best by parc: b (95 %, paired over 3 probe sets)"
    for text in (repr(scores), re.sub("<[^>]*>", "", scores._repr_html_())):
        assert expected in " ".join(text.split())
    alone = jaxparc.BankScores(("a", "c"), ("parc",), values[:, [0, 2]])
    assert "by parc: none (95 %" in repr(alone)


def test_a_long_caption_is_cut_short():
    values = np.random.default_rng(0).normal(size=(2, 60, 1)) * [[[1]], [[-1]]]
    scores = jaxparc.BankScores(tuple(f"m{i}" for i in range(60)), ("parc",), values)
    more = len(scores.tied()) - 9
    assert more > 0
    assert f"and {more} more" in " ".join(repr(scores).split())


# ------------------------------------------------------------------------------------------- plot


def dots(panel, labels):
    """Model -> x of the dots of a panel; the first panel alone has labels."""
    return {
        labels[round(line.get_ydata()[0])]: float(line.get_xdata()[0])
        for line in panel.lines
        if line.get_marker() == "o"
    }


def test_plot_has_a_panel_per_method_and_the_best_on_top(table):
    figure = table.plot()
    panels = figure.axes
    assert [panel.get_title() for panel in panels] == ["parc", "knn"]
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    assert labels == ["c", "a", "d", "b"]
    assert panels[0].yaxis_inverted()
    assert dots(panels[0], labels) == {"c": 3.0, "a": 1.0, "d": 1.0}  # b is undefined
    assert dots(panels[1], labels) == {"c": 7.0, "a": 9.0, "d": 5.0, "b": 8.0}
    assert [text.get_text() for text in panels[0].texts] == ["undefined"]
    assert not panels[1].texts


def test_bars_are_deviations_and_filled_dots_are_ties():
    scores = noisy()
    panel = scores.plot().axes[0]
    ranked = [name for name, _ in scores.ranking()]
    filled = [
        ranked[round(line.get_ydata()[0])]
        for line in panel.lines
        if line.get_marker() == "o" and line.get_markerfacecolor() != "white"
    ]
    assert filled == scores.tied()
    lengths = [np.ptp(bar.get_segments()[0][:, 0]) for bar in panel.collections]
    order = [scores.names.index(name) for name in ranked]
    expected = 2 * scores.values_per_run[:, order, 0].std(axis=0, ddof=1)
    np.testing.assert_allclose(lengths, expected)
    assert not noisy(1).plot().axes[0].collections


def test_plot_grows_with_the_bank_and_shows_names_as_they_are():
    heights = [noisy(m=m).plot().get_figheight() for m in (3, 21, 65)]
    assert heights == sorted(set(heights))
    scores = jaxparc.BankScores(("$a_b$", "$", "r" * 90), ("parc",), np.ones((1, 3, 1)))
    figure = scores.plot()
    figure.canvas.draw()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:2] == ["$a_b$", "$"]
    assert len(labels[2]) < 50


def test_plot_of_undefined_scores_alone():
    scores = jaxparc.BankScores(("a", "b"), ("parc",), np.full((2, 2, 1), np.nan))
    figure = scores.plot()
    figure.canvas.draw()
    assert len(figure.axes[0].texts) == 2


def test_notebooks_show_the_plot_and_pyplot_keeps_nothing():
    code = """
import sys, numpy as np, jaxparc
scores = jaxparc.BankScores(("a", "b"), ("parc",), np.ones((2, 2, 1)))
assert "matplotlib" not in sys.modules
figure = scores.plot()
assert figure._repr_png_()[:4] == b"\\x89PNG"
print("matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_plot_without_matplotlib_says_how_to_get_it(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [n for n in sys.modules if n.startswith("matplotlib.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match="^BankScores.plot needs.*pip install matplotlib$"):
        table.plot()


def test_a_data_frame_without_pandas_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    scores = jaxparc.BankScores(("a",), ("parc",), np.ones((1, 1, 1)))
    with pytest.raises(ImportError, match="to_pandas needs pandas: pip install pandas"):
        scores.to_pandas()
