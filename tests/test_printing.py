"""What others named, in every kind of output."""

import io
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

from jaxparc import printing

HOSTILE = "a\x1b[31m\x00\n\u202e\u2028\x9b\udcffb"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resnet50/imagenet v2", "resnet50/imagenet v2"),
        ("modèle-日本 \u3000", "modèle-日本 \u3000"),
        (HOSTILE, r"a\x1b[31m\x00\n\u202e\u2028\x9b\udcffb"),
    ],
)
def test_what_acts_or_hides_is_made_visible(text, expected):
    assert printing.visible(text) == expected


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "cp932", "utf-8"])
def test_what_is_shown_is_in_the_encoding(encoding):
    shown = printing.shown(f"modèle-日本 3 ± 1 – … ≈ {HOSTILE}", encoding)
    shown.encode(encoding)
    if encoding == "ascii":
        assert shown.startswith(r"mod\xe8le-\u65e5\u672c 3 +/- 1 - ... ~ a")


def test_an_error_is_one_line_with_its_file():
    assert printing.line(ValueError("a:\n  b\x1b\n  c")) == r"a: b\x1b; c"
    long = printing.line(ValueError("x" * 5000 + "the end"))
    assert len(long) < 800
    assert long.endswith("the end")
    assert printing.line(OSError(28, "No space left", "x\n.csv")) == "x .csv: No space left"
    assert printing.line(OSError(28, "No space left")) == "output: No space left"
    assert printing.line(KeyError()) == "KeyError"
    assert printing.reason(OSError(28, "No space left", "x.csv")) == "No space left"
    assert printing.reason(OSError("it is cut off")) == "it is cut off"


@pytest.mark.parametrize("text", ["<svg onload=x>", "a|b", "[x](javascript:y)", "`*a*`", HOSTILE])
def test_markdown_shows_a_cell_as_it_is(text):
    cell = printing.markdown(text)
    assert "\n" not in cell
    assert "<" not in cell
    assert "](" not in cell
    assert all(cell[i - 1] == "\\" for i, c in enumerate(cell) if c in "|`*")


def test_html_is_text_in_elements_and_in_attributes():
    for text in (HOSTILE, "<svg onload='x'>", "\"'&"):
        found = ET.fromstring(f'<p a="{printing.html(text)}">{printing.html(text)}</p>')
        assert found.text == found.get("a") == printing.visible(text)


def test_one_is_no_plural():
    counts = [printing.count(n, "model") for n in (0, 1, 2, 1000)]
    assert counts == ["0 models", "1 model", "2 models", "1,000 models"]
    assert printing.count(2, "class", "classes") == "2 classes"


@pytest.mark.parametrize(
    ("names", "said"),
    [("", ""), ("ab", "a, b"), ("abc", "a, b, c"), ("abcde", "a, b, c and 2 more")],
)
def test_of_many_names_the_first_are_said(names, said):
    assert printing.some(names, 3) == said


def command(code, **options):
    code = f"import sys; from jaxparc import printing\nwith printing.ending():\n    {code}"
    return subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **options
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = command("print('x')", stdout=full)
    assert (done.returncode, done.stderr) == (1, "output: No space left on device\n")


def test_a_reader_that_went_away_ends_it_quietly():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = command("print('x')", stdout=pipe)
    assert (done.returncode, done.stderr) == (1, "")


def test_streams_take_every_character(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), "ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", out)
    with printing.ending():
        print("modèle")
    assert out.buffer.getvalue() == b"mod\\xe8le\n"


def test_durations_are_rough():
    spans = [(0.4, 0.4), (40, 89), (40, 91), (100, 5300), (5400, 5400), (3600, 36000), (1e6, 1e6)]
    assert [printing.duration(*span) for span in spans] == [
        "0 s",
        "40 to 89 s",
        "1 to 2 min",
        "2 to 88 min",
        "1.5 h",
        "1.0 to 10.0 h",
        "277.8 h",
    ]


def test_closest_names_are_those_that_contain_a_name_and_then_those_that_are_alike():
    known = ("resnet18", "ResNet50V2", "resnet50", "swin_tiny_patch4", "vit")
    assert printing.closest("swin", known).startswith("swin_tiny_patch4, ")
    assert printing.closest("RESNET-50", known).startswith("resnet50, ResNet50V2")
    assert printing.closest("a", ("b", "aa")) == "aa, b"
