"""The page of a ranking."""

import html.parser
import math
import re

import numpy as np
import pytest

from jaxparc.bank import ranked_page
from jaxparc.bank.costs import Facts
from jaxparc.bank.ranking import Ranking
from jaxparc.bank.scores import BankScores
from jaxparc.report import plots
from jaxparc.report.thumbnails import Group, Thumbnails

NAMES = ("a", "<b>\x1b", "c", "d")
FACTS = {
    "a": Facts(parameters=11_176_512, images_per_second=96.85, licence="MIT"),
    NAMES[1]: Facts(parameters=2_223_872, images_per_second=235.9, megabytes=9.1),
    "d": Facts(parameters=722_496, images_per_second=526.4),
}


PICTURES = Thumbnails(
    (Group("<cat> (2)", ("data:image/jpeg;base64,AAAA",) * 2),), "and 1 more class"
)


def ranking(facts=FACTS, methods=("parc_f32", "ridge"), **options):
    values = np.array([[17.0, 60], [16.5, 85], [12.8, 50], [math.nan, 40]])[None]
    noise = np.random.default_rng(0).normal(size=(4, 2, 100)).astype(np.float32) * 8
    noise -= noise.mean(axis=-1, keepdims=True)
    k = len(methods)
    scores = BankScores(NAMES, methods, values[..., :k], {}, (noise[:, :k],))
    return Ranking(scores, facts, **options)


class Outline(html.parser.HTMLParser):
    """The elements of a page that load something, and whether all are closed."""

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "path", "circle", "br", "img"):
            self.open.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_loads_nothing():
    page = ranked_page.page(ranking(settings={"target": "folder:x<y"}, notes=["a <note>"]))
    outline = Outline()
    outline.feed(page)
    assert (outline.open, outline.loads) == ([], [])
    assert "http" not in page
    assert "\x1b" not in page
    assert "<b>" not in page
    assert "folder:x&lt;y" in page
    assert "a &lt;note&gt;" in page


def test_the_page_has_the_answer_and_a_sortable_table():
    of = ranking()
    page = ranked_page.page(of)
    assert '<p class="answer">Fine-tune a. ' in page
    assert f"<title>{of.answer.split('<')[0]}" in page
    assert "<h1>Which model to fine-tune</h1>" in page
    assert "<h1>Which model to fine-tune: photos</h1>" in ranked_page.page(
        ranking(settings={"target": "photos"})
    )
    assert '<table class="sortable">' in page
    assert "<caption>4 models; click a heading to sort</caption>" in page
    assert "<caption>4 models</caption>" in ranked_page.fragment(of)  # without a script
    assert 'data-key="11176512">11.2 M</td>' in page
    assert '<td class="n" data-key="">undefined</td>' in page
    assert page.count("<tr><td") == 4


def test_the_page_has_probe_images_and_settings_in_words():
    settings = {
        **{"models": ["a.pth", "b.pth"], "bank": None, "probe_images": 1500, "labels": ""},
        "images": "1,500 images, 2 classes",
    }
    page = ranked_page.page(ranking(settings=settings, thumbnails=PICTURES))
    assert "<h2>Probe images</h2><p>1,500 images, 2 classes.</p>" in page
    assert "<figcaption>&lt;cat&gt; (2)</figcaption>" in page
    assert page.count('<img alt="" src="data:image/jpeg;base64,AAAA">') == 2
    assert "<p>and 1 more class</p>" in page
    table = page.split("<caption>Settings")[1].split("</table>")[0]
    cells = re.findall(r"<t[hd][^>]*>([^<]*)</t", table)
    assert cells == [
        *("setting", "value", "models", "a.pth, b.pth", "probe images", "1500"),
        *("images", "1,500 images, 2 classes"),
    ]
    assert "Probe images" not in ranked_page.page(ranking())


def test_models_of_known_cost_and_score_are_drawn():
    page = ranked_page.page(ranking())
    assert page.count("<figure>") == 2
    assert page.count("<circle") == 4  # a and b, in each; c has no facts and d no score
    assert "a: score 17.00, 96.85 images per second" in page
    assert "a: score 17.00, 11.18 parameters (M)" in page
    assert "<figure>" not in ranked_page.page(ranking({"a": FACTS["a"]}))


def test_all_methods_are_listed_if_there_are_several():
    assert "<h2>All methods</h2>" in ranked_page.page(ranking())
    assert "All methods" not in ranked_page.page(ranking(methods=("parc_f32",)))


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([96, 525], ["50", "100", "200", "500", "1,000"]),
        ([1, 1], ["0.5", "1", "2"]),
        ([0.7, 3], ["0.5", "1", "2", "5"]),
        ([3, 70_000], ["10", "100", "1,000", "10,000", "100,000"]),
    ],
)
def test_a_logarithmic_axis_has_round_ticks_around_the_values(values, texts):
    place, ticks = plots.log_axis(values, 100, 200)
    assert [text for _, text in ticks] == texts
    assert all(100 < place(value) < 200 for value in values)
    ratio = place(2 * values[0]) - place(values[0])
    assert ratio == pytest.approx(place(20 * values[0]) - place(10 * values[0]))
