import dataclasses
import html.parser
import re
import statistics

import numpy as np
import pytest
from rich.console import Console

from jaxparc import report
from jaxparc.evaluation import SCRATCH, Transfer, outcomes
from jaxparc.evaluation.summary import summarise
from jaxparc.report.conclusion import conclusion

ARCHITECTURES = ("alexnet", "googlenet", "resnet18", "resnet50")
SOURCES = ("digits", "mnist5k", "glyph_letters", "glyph_digits")
TARGETS = SOURCES[:3]
TITLES = {"parc": "PARC", "knn+l": "1-NN CV + layers", "heuristic": "Heuristic"}
VOID = {"meta", "br"}


def made_up(**changes):
    rng = np.random.default_rng(0)
    transfers = [
        Transfer(a, s, t) for a in ARCHITECTURES for s in SOURCES for t in TARGETS if s != t
    ]
    accuracies = {t: float(rng.uniform(80, 99)) for t in transfers}
    results = report.Results(
        name="demo",
        accuracies=accuracies,
        scratch={(a, t): float(rng.uniform(60, 79)) for a in ARCHITECTURES for t in TARGETS},
        scores={
            label: [
                {t: accuracies[t] + float(rng.normal(0, noise)) for t in transfers}
                for _ in range(3)
            ]
            for label, noise in zip(TITLES, (5, 1, 9), strict=True)
        },
        milliseconds={"parc": 4.25, "knn+l": 0.0003},
        stage_seconds={"sources": 3599.6, "transfers": 61.0},
        settings={"probe_images": 500, "targets": TARGETS},
        versions={"jax": "0.10.2"},
    )
    return dataclasses.replace(results, **changes)


def rendered(table, width=100):
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def cells(table, width=100):
    """The body's rows, as stripped texts."""
    rows = [line.strip("│") for line in rendered(table, width) if "│" in line]
    return [[cell.strip() for cell in row.split("│")] for row in rows]


class Page(html.parser.HTMLParser):
    """Elements as [tag, attributes, tags around it, own text]; fails if tags are unpaired."""

    def __init__(self, path):
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.elements, self.open = [], []
        self.feed(self.text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs)
        self.elements.append([tag, dict(attrs), tuple(e[0] for e in self.open), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open:
            self.open[-1][3] += data

    def plots(self):
        return [e for e in self.elements if e[0] == "svg" and e[1].get("role") == "img"]

    def texts(self, tag):
        return [e[3] for e in self.elements if e[0] == tag]


@pytest.fixture
def page(tmp_path):
    def make(results):
        path = tmp_path / "deep" / "index.html"
        report.write_page(results, path)
        assert [p.name for p in path.parent.iterdir()] == ["index.html"]
        return Page(path)

    return make


def expected(results, label):
    """Mean PC and the PC of each target, by numpy's own correlation."""
    pcs = []
    for run in results.scores[label]:
        groups = [[t for t in run if t.target == target] for target in TARGETS]
        pcs.append(
            [
                100 * np.corrcoef([run[t] for t in g], [results.accuracies[t] for t in g])[0, 1]
                for g in groups
            ]
        )
    columns = [[statistics.mean(run) for run in pcs], *zip(*pcs, strict=True)]
    return [f"{statistics.mean(c):.1f} ± {statistics.stdev(c):.1f}" for c in columns]


def test_selector_table_holds_the_correlations_and_times():
    results = made_up()
    targets = [t.target for t in results.accuracies]
    order = sorted(TARGETS, key=targets.index)  # columns come in order of appearance
    times = {"parc": "4.25", "knn+l": "< 0.01", "heuristic": "not measured"}
    rows = []
    for label, title in TITLES.items():
        mean, *pcs = expected(results, label)
        # the spread over probe sets is shown for Mean PC alone, to fit 80 columns
        means = {target: pc.split()[0] for target, pc in zip(TARGETS, pcs, strict=True)}
        rows.append([title, mean, *(means[target] for target in order), times[label]])
    assert cells(report.selector_table(results)) == rows


def test_accuracy_table_fits_and_holds_every_accuracy():
    results = made_up()
    table = report.accuracy_table(results)
    order = [str(column.header) for column in table.columns][2:]
    assert sorted(order) == sorted(TARGETS)
    rows = cells(table)
    assert [row[0] for row in rows if row[0]] == list(ARCHITECTURES)
    assert [row[1] for row in rows] == [*SOURCES, "scratch"] * len(ARCHITECTURES)
    for index, (_, source, *texts) in enumerate(rows):
        architecture = ARCHITECTURES[index // 5]
        for target, text in zip(order, texts, strict=True):
            if source == "scratch":
                assert text == f"{results.scratch[architecture, target]:.1f}"
            elif source == target:
                assert text == "–"
            else:
                assert text == f"{results.accuracies[Transfer(architecture, source, target)]:.1f}"


def test_the_best_of_each_target_is_bold(page):
    results = made_up()
    best = {
        f"{max(x for t, x in results.accuracies.items() if t.target == target):.1f}"
        for target in TARGETS
    }
    table = report.accuracy_table(results)
    bold = [str(c) for column in table.columns for c in column.cells if c.style == "bold"]
    assert set(bold) == set(page(results).texts("strong")) == best
    assert len(bold) == len(TARGETS)


def test_page_is_whole_and_needs_nothing_else(page):
    found = page(made_up())
    assert "http" not in found.text
    assert not {"script", "link", "img", "iframe"} & {e[0] for e in found.elements}
    assert not any({"src", "href"} & e[1].keys() for e in found.elements)
    assert "@import" not in found.text
    assert "url(" not in found.text
    (answer, lead, *_) = found.texts("p")
    mean_pc, *_ = expected(made_up(), "knn+l")
    assert answer == f"1-NN CV + layers predicts the accuracies best: Mean PC {mean_pc}."
    [title] = found.texts("h1")
    assert title == "demo: 3 methods to rank 16 pretrained models for 3 targets"
    assert found.texts("title")[0] == title
    for words in ("36 transfers", "3 probe sets of 500 images each"):
        assert words in " ".join(lead.split())
    assert {"1:01:01", "1:00:00", "0:01:01", "0.10.2", ", ".join(TARGETS)} <= {*found.texts("td")}
    tables = [e for e in found.elements if e[0] == "table"]
    assert len(tables) == len(found.texts("caption"))


def test_page_shows_the_numbers_of_the_tables(page):
    results = made_up()
    found = page(results)
    shown = {*found.texts("td"), *found.texts("th")}
    for label, title in TITLES.items():
        assert {title, *expected(results, label)} <= shown


def test_plots_of_the_best_method_are_visible_and_name_every_model(page):
    results = made_up()
    found = page(results)
    plots = found.plots()
    assert len(plots) == len(TITLES) * len(TARGETS)
    visible = [e for e in plots if "details" not in e[2]]
    assert len(visible) == len(TARGETS)
    assert all("1-NN CV + layers score" in e[1]["aria-label"] for e in visible)
    titles = [e[3] for e in found.elements if e[0] == "title" and "svg" in e[2]]
    assert len(titles) == len(TITLES) * len(results.accuracies)
    for transfer, accuracy in results.accuracies.items():
        start, end = f"{transfer.architecture}, {transfer.source}: ", f"accuracy {accuracy:.1f}%"
        assert sum(t.startswith(start) and t.endswith(end) for t in titles) >= len(TITLES)
    # Captions show the correlations of the table above them.
    _, *pcs = expected(results, "knn+l")
    captions = dict(c.split(": PC ") for c in found.texts("figcaption")[:3])
    assert captions == dict(zip(TARGETS, pcs, strict=True))


def test_marks_lie_inside_the_plot(page):
    marks = re.findall(r"translate\(([-\d.]+) ([-\d.]+)\)\"/></g>", page(made_up()).text)
    assert len(marks) == len(TITLES) * 36
    assert all(48 <= float(x) <= 348 and 10 <= float(y) <= 246 for x, y in marks)


def test_names_are_escaped(page):
    evil = "<b>&\"'[red]x[/red]"
    results = made_up(name=evil, settings={evil: evil}, versions={evil: evil})
    swapped = {t._replace(source=evil, architecture=evil): a for t, a in results.accuracies.items()}
    target = {Transfer(a, "digits", evil): 50.0 + i for i, a in enumerate(ARCHITECTURES)}
    accuracies = {**results.accuracies, **swapped, **target}
    results = dataclasses.replace(
        results, accuracies=accuracies, scores={"parc": [accuracies]}, stage_seconds={evil: 1.0}
    )
    found = page(results)
    assert "b" not in {e[0] for e in found.elements}
    assert found.texts("h1") == [f"{evil}: 1 method to rank 17 pretrained models for 4 targets"]
    assert evil in found.texts("td")
    assert f"Scatter plot of 4 models: accuracy on {evil} (%)" in found.plots()[-1][1]["aria-label"]
    wide = "\n".join(rendered(report.accuracy_table(results), width=200))
    assert wide.count(evil) >= 3  # title, column and row


def test_undefined_is_said_and_never_drawn(page):
    results = made_up()
    transfer = next(t for t in results.accuracies if t.target == "digits")
    scores = {k: [dict(run) for run in runs] for k, runs in results.scores.items()}
    scores["knn+l"][1][transfer] = float("nan")
    scores["heuristic"] = [dict.fromkeys(results.accuracies, 1.0)] * 3
    results = dataclasses.replace(results, scores=scores)
    table = report.selector_table(results)
    head = [str(column.header) for column in table.columns]
    rows = {row[0]: dict(zip(head, row, strict=True)) for row in cells(table, width=140)}
    knn, heuristic = rows["1-NN CV + layers"], rows["Heuristic"]
    assert knn["Mean PC"] == knn["digits"] == report.UNDEFINED
    assert float(knn["mnist5k"])
    assert {heuristic[name] for name in ("Mean PC", *TARGETS)} == {report.UNDEFINED}
    found = page(results)
    assert f"1-NN CV + layers: Mean PC {report.UNDEFINED}" in found.texts("summary")
    assert "Undefined and not drawn: 1 of 12." in found.text
    assert "nan" not in re.sub(r"\(NaN\)", "", found.text).lower().split("</style>")[1]
    assert found.texts("h3")[0].startswith("PARC: ")  # an undefined Mean PC is not the best


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_every_score_undefined(bad, page):
    results = made_up()
    results = dataclasses.replace(
        results, scores={"parc": [dict.fromkeys(results.accuracies, bad)] * 2}
    )
    assert cells(report.selector_table(results)) == [["PARC", *[report.UNDEFINED] * 4, "4.25"]]
    assert page(results).text.count("Undefined and not drawn") == len(TARGETS)


def test_failed_trainings_and_missing_transfers(page):
    results = made_up()
    lost, failed, *_ = results.accuracies
    accuracies = {t: float("nan") if t == failed else x for t, x in results.accuracies.items()}
    del accuracies[lost]
    scores = {"parc": [{t: 1.0 * i for i, t in enumerate(accuracies)}]}
    results = dataclasses.replace(results, accuracies=accuracies, scores=scores)
    texts = [text for row in cells(report.accuracy_table(results)) for text in row]
    assert texts.count("missing") == texts.count(report.UNDEFINED) == 1
    assert "missing" in page(results).texts("td")


def test_without_scratch(page):
    results = made_up(scratch={})
    assert not any("scratch" in line for line in rendered(report.accuracy_table(results)))
    assert "cratch" not in page(results).text


def test_a_single_probe_set_has_no_deviation(page):
    results = made_up()
    results = dataclasses.replace(results, scores={k: v[:1] for k, v in results.scores.items()})
    assert not any("±" in line for line in rendered(report.selector_table(results)))
    found = page(results)
    assert "1 probe set of 500 images" in found.text
    assert not any("±" in text for tag in ("td", "caption", "title") for text in found.texts(tag))


def test_nothing_scored(page):
    found = page(made_up(scores={}, milliseconds={}, settings={}, stage_seconds={}))
    assert found.plots() == []
    assert "There are no scores." in found.text
    assert cells(report.selector_table(made_up(scores={}))) == []


def test_a_score_without_accuracy_leaves_the_earlier_page(tmp_path):
    path = tmp_path / "index.html"
    report.write_page(made_up(), path)
    before = path.read_bytes()
    stray = Transfer("alexnet", "digits", "elsewhere")
    with pytest.raises(ValueError, match="no accuracy for alexnet/digits/elsewhere"):
        report.write_page(made_up(scores={"parc": [{stray: 1.0}]}), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0, 1.0], ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        ([91.2, 98.9], ["90", "92", "94", "96", "98", "100"]),
        ([-1.0, 1.0], ["-1.0", "-0.5", "0.0", "0.5", "1.0"]),
        ([0.0011, 0.0019], ["0.0010", "0.0012", "0.0014", "0.0016", "0.0018", "0.0020"]),
        ([1e6, 3e6], ["1,000,000", "1,500,000", "2,000,000", "2,500,000", "3,000,000"]),
    ],
)
def test_axes_have_round_numbers_around_the_values(values, texts):
    place, ticks = report.plots.axis(values, 10, 110)
    assert [text for _, text in ticks] == texts
    assert (ticks[0][0], ticks[-1][0]) == (10, 110)
    for value in values:
        assert 10 - 1e-6 <= place(value) <= 110 + 1e-6


@pytest.mark.parametrize("values", [[], [0.0], [5.0, 5.0], [-3.0, -3.0, -3.0]])
def test_axes_without_extent_place_values_inside(values):
    place, ticks = report.plots.axis(values, 0, 100)
    assert len(ticks) > 2
    assert all(10 < place(value) < 90 for value in values)


def test_plus_layers_is_a_column_beside_the_plain_method():
    results = made_up()
    runs = results.scores["parc"]
    both = dataclasses.replace(results, scores={"parc": runs, "parc+l": runs, "knn+l": runs})
    table = report.selector_table(both)
    assert [str(c.header) for c in table.columns][:3] == ["method", "Mean PC", "+ layers"]
    parc, knn = cells(table)
    assert parc[0] == "PARC"
    assert parc[1] == parc[2]  # the same scores here
    assert knn[:1] + knn[2:3] == ["1-NN CV + layers", "–"]


def test_loss_curves_have_a_line_for_each_run_and_the_means_of_their_steps(tmp_path):
    plain = made_up()
    transfers = [*plain.accuracies, Transfer(ARCHITECTURES[0], SCRATCH, TARGETS[0])]
    losses = {t: [4.0, 2.0, 3.0] * 40 for t in transfers}
    losses[transfers[0]] = []  # it diverged at once
    report.write_page(dataclasses.replace(plain, losses=losses), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count(": 3 at the end</title>") == len(transfers) - 1
    assert page.count("stroke-dasharray") == 1
    # 120 steps in 40 points of three, which begin at step 1.5
    lines = re.findall(r'fill="none"[^>]* d="M([^"]*)"', page)
    assert {len(line.split("L")) for line in lines} == {40}
    report.write_page(plain, tmp_path / "page.html")
    assert "Loss while fine-tuning" not in (tmp_path / "page.html").read_text()


def test_a_network_without_an_accuracy_has_its_loss_curve(tmp_path):
    """Of all its runs, only those from scratch did not diverge."""
    losses = {Transfer("alone", SCRATCH, TARGETS[0]): [1.0], Transfer("alone", SCRATCH, "t"): [1.0]}
    plain = made_up()
    assert "alone" not in {t.architecture for t in plain.accuracies}
    scratch = plain.scratch | {("alone", TARGETS[0]): 50.0, ("alone", "t"): 50.0}
    results = dataclasses.replace(plain, losses=losses, scratch=scratch)
    report.write_page(results, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count(": 1 at the end</title>") == 2
    assert page.count("</svg>alone</li>") == 1


def test_transfers_without_an_accuracy_are_named(tmp_path):
    plain = made_up()
    lost = [Transfer("alone", "digits", t) for t in "abcd"]
    results = dataclasses.replace(plain, unavailable=lost)
    said = (
        "4 transfers without an accuracy: alone digits to a, alone digits to b, alone digits to c"
    )
    assert said in " ".join(" ".join(rendered(report.accuracy_table(results))).split())
    report.write_page(results, tmp_path / "page.html")
    assert f"{said} and 1 more." in (tmp_path / "page.html").read_text()
    report.write_page(plain, tmp_path / "page.html")
    assert "without an accuracy" not in (tmp_path / "page.html").read_text()


def summarised(scores, accuracies, **changes):
    summary = summarise(outcomes.collect(accuracies, scores), ("pearson",), resamples=50)
    titles = {"parc": "PARC", "others_mean": "the other targets", "layers": "layers alone"}
    return made_up(accuracies=accuracies, scores=scores, summary=summary, titles=titles, **changes)


def noisy(accuracies, noise, seed):
    rng = np.random.default_rng(seed)
    return [{t: x + float(rng.normal(0, noise)) for t, x in accuracies.items()}]


def test_the_conclusion_compares_the_best_selector_with_chance_the_next_and_baselines():
    accuracies = made_up().accuracies
    scores = {
        "parc": noisy(accuracies, 2, 1),
        "layers": noisy(accuracies, 60, 2),
        "others_mean": noisy(accuracies, 0.1, 3),
    }
    results = summarised(scores, accuracies)
    cells = results.summary.cells["pearson"]
    value, low, high = (f"{100 * x:.1f}" for x in cells["parc"].interval[:3])
    best, chance, following, others = conclusion(results)
    assert best == (
        f"PARC predicts the accuracies best: Mean PC {value} (95 % interval {low} to {high})."
    )
    assert chance.startswith("95 % of random orders have -")
    layers = f"{100 * cells['layers'].interval.value:.1f}"
    assert following == f"The next, layers alone, has {layers}: a significant difference (5 %)."
    above = f"{100 * cells['others_mean'].interval.value:.1f}"
    assert others == f"Accuracies on the other targets predict better (the other targets: {above})."


def test_the_conclusion_does_not_tell_apart_what_does_not_differ():
    accuracies = made_up().accuracies
    scores = {"parc": noisy(accuracies, 2, 1), "layers": noisy(accuracies, 2, 2)}
    assert conclusion(summarised(scores, accuracies))[2].endswith(
        "no significant difference (5 %)."
    )
    undefined = {"parc": [dict.fromkeys(accuracies, 1.0)]}
    said = ["The Mean PC of no method is defined."]
    assert conclusion(summarised(undefined, accuracies)) == said
    assert conclusion(made_up(scores=undefined)) == said
    assert conclusion(made_up(scores={})) == ["No method has scored the models."]


def test_the_page_says_nothing_of_what_it_does_not_have(page):
    accuracies = made_up().accuracies
    found = page(
        summarised({"parc": noisy(accuracies, 2, 1)}, accuracies, settings={}, milliseconds={})
    )
    for words in ("probe set", "layers”", "±", "Times"):
        assert words not in found.text.split("What the numbers are worth")[0]
    # the chart comes before all tables
    assert found.plots()[0][1]["aria-label"].startswith("PC, mean over targets, of 1 method")
    assert found.text.index("PC, mean over targets, of") < found.text.index("<table>")


def test_labels_of_the_chart_are_beside_the_axis(page):
    accuracies = made_up().accuracies
    scores = {"parc": noisy(accuracies, 2, 1), "others_mean": noisy(accuracies, 1, 2)}
    results = summarised(scores, accuracies)
    results.titles["others_mean"] = "a name that is longer than one line of the chart"
    text = report.plots.intervals(results.summary, "pearson", results.title)
    [left] = {float(x) for x in re.findall(r'<text x="([\d.]+)"[^>]*text-anchor="end"', text)}
    grid = [float(x) for x in re.findall(r'class="grid" d="M([\d.]+) ', text)]
    assert left < min(grid)
    longest = max(re.findall(r'text-anchor="end">([^<]*)<', text), key=len)
    assert len(longest) <= 22
