"""Models that are left out of a bank by name, licence, size or cost."""

import re
from pathlib import Path

import pytest

from jaxparc.bank import cuts, facts
from jaxparc.bank.cuts import Cuts
from jaxparc.bank.entry import Entry
from jaxparc.errors import InputError

LICENCES = {"resnet50": "BSD-3-Clause", "alexnet": "MIT", "squeezenet1_1": None}
ENTRIES = [Entry(name, name, Path(name), licence=text) for name, text in LICENCES.items()]


# Of the published networks with 1,000 classes: torchvision's documentation.
@pytest.mark.parametrize(
    ("name", "count", "giga"),
    [
        ("alexnet", 61_100_840, 0.71),
        ("resnet18", 11_689_512, 1.81),
        ("resnet50", 25_557_032, 4.09),
        ("resnet101", 44_549_160, 7.80),
        ("squeezenet1_1", 1_235_496, 0.35),
        ("mobilenet_v2", 3_504_872, 0.30),
        ("googlenet", 6_624_904, 1.50),
    ],
)
def test_parameters_and_gmacs_are_the_published_ones(name, count, giga):
    entry = Entry("x", name, Path("none"))
    counts = entry.counts()
    assert counts.parameters == count
    assert counts.gmacs == pytest.approx(giga, rel=0.08)


def test_gmacs_follow_the_size_of_the_images():
    small, large = (
        Entry("x", "resnet18", Path("none"), size=size).counts().gmacs for size in (112, 224)
    )
    assert large / small == pytest.approx(4, rel=0.1)
    with pytest.raises(InputError, match="images have 1x1 pixels"):
        Entry("x", "alexnet", Path("none"), size=1).counts()


@pytest.mark.parametrize(
    ("given", "left", "summary"),
    [
        (Cuts(), "resnet50 alexnet squeezenet1_1", ""),
        (Cuts(include=["*net"]), "alexnet", "1 of 3 models left: --include *net took 2"),
        (
            Cuts(include=["a*", "s*"]),
            "alexnet squeezenet1_1",
            "--include a* s* took 1",
        ),
        (Cuts(exclude=["res*"]), "alexnet squeezenet1_1", "--exclude res* took 1"),
        (Cuts(licence=["bsd", "mit"]), "resnet50 alexnet", "--licence bsd mit took 1"),
        (Cuts(max_params=26e6), "resnet50 squeezenet1_1", "--max-params 26M took 1"),
        (Cuts(max_gmacs=0.5), "squeezenet1_1", "1 of 3 models left: --max-gmacs 0.5 took 2"),
        (Cuts(exclude=["s*"], max_gmacs=3), "alexnet", "--exclude s* took 1, --max-gmacs 3 took 1"),
        (Cuts(max_gmacs=10), "resnet50 alexnet squeezenet1_1", ""),
    ],
)
def test_a_cut_takes_what_it_says(given, left, summary):
    entries, said = cuts.apply(ENTRIES, given)
    assert [entry.name for entry in entries] == left.split()
    assert summary in said
    assert bool(said) == (len(entries) < 3)


def test_no_model_left_is_an_error_with_each_cut():
    expected = "none of 3 models is left: --include [rs]* took 1, --licence MIT took 2"
    with pytest.raises(InputError, match=f"^{re.escape(expected)}$"):
        cuts.apply(ENTRIES, Cuts(include=["[rs]*"], licence=["MIT"], max_params=1.0))


def test_a_size_that_a_network_does_not_take_is_left_to_its_extraction():
    entry = Entry("x", "alexnet", Path("none"), size=1)
    assert cuts.apply([entry], Cuts(max_gmacs=1e-9)) == ([entry], "")


def test_gmacs_are_not_counted_unless_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(facts, "gmacs_of", lambda *network: pytest.fail("counted"))
    cuts.apply(ENTRIES, Cuts(exclude=["alexnet"], licence=["BSD"]))


def test_a_model_of_unknown_size_is_left_out():
    entry = Entry("x", "package:function", kind="jax")
    with pytest.raises(InputError, match="--max-params 1M took 1"):
        cuts.apply([entry], Cuts(max_params=1e6))
    assert cuts.apply([entry], Cuts()) == ([entry], "")
