"""What is said where a package of an extra is missing."""

import configparser
import re
import sys
from pathlib import Path

import pytest

import jaxparc
from jaxparc import extras
from jaxparc.__main__ import main

SETUP = Path(__file__).parents[1] / "setup.cfg"


def lacking(monkeypatch, package):
    """Make a package one that is not installed."""
    for name in list(sys.modules):
        if name.split(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize("package", extras.EXTRAS)
def test_the_extra_installs_what_is_missing(package, monkeypatch):
    lacking(monkeypatch, package)
    with pytest.raises(extras.MissingPackageError) as raised, extras.advising():
        __import__(package)
    distribution, extra = re.fullmatch(
        r'(\S+) is not installed: pip install "jaxparc\[(\w+)\]"', str(raised.value)
    ).groups()
    setup = configparser.ConfigParser()
    setup.read(SETUP, encoding="utf-8")
    requirements = setup["options.extras_require"]
    smallest = next(
        name
        for name in ("bank", "train")  # which includes bank
        if re.search(rf"^{distribution}\b", requirements[name].replace("_", "-"), re.MULTILINE)
    )
    assert smallest == extra


def test_other_errors_pass():
    for error in (ModuleNotFoundError("No module named 'x'", name="x"), ValueError("flax")):
        assert extras.advice_for(error) is None
        with pytest.raises(type(error)) as raised, extras.advising("train"):
            raise error
        assert raised.value is error


def test_functions_say_it(monkeypatch):
    lacking(monkeypatch, "flax")
    monkeypatch.delitem(sys.modules, "jaxparc.finetuned", raising=False)
    for name in [name for name in sys.modules if name.startswith("jaxparc.weights")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match=r"^flax is not .*\[bank\]"):
        jaxparc.load_finetuned  # noqa: B018


@pytest.mark.parametrize(
    ("words", "extra"), [(["rank", "x.toml", "x"], "bank"), (["data", "list"], "train")]
)
def test_commands_say_it_in_one_line(words, extra, monkeypatch, capsys):
    def fail(name):
        raise ModuleNotFoundError("No module named 'PIL'", name="PIL")

    monkeypatch.setattr("jaxparc.commands.parser.importlib.import_module", fail)
    assert main(words) == 1
    assert capsys.readouterr() == (
        "",
        f'jaxparc: pillow is not installed: pip install "jaxparc[{extra}]"\n',
    )
