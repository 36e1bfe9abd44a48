"""The documentation leaves nothing out, and examples in docstrings are true."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import jaxparc

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WITH_EXAMPLES = [
    path.relative_to(ROOT)
    for path in sorted((ROOT / "jaxparc").rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


def test_examples_are_found():
    assert len(WITH_EXAMPLES) >= 6


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=str)
def test_examples_in_docstrings_are_true(path):
    parts = path.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    module = importlib.import_module(name)
    found = doctest.testmod(module, raise_on_error=False, verbose=False)
    assert found.attempted > 0
    assert found.failed == 0


def public_names():
    """What users may use: all that `dir` shows but for what the module itself imports."""
    beside = {"Any", "TYPE_CHECKING", "importlib"}
    names = {name for name in dir(jaxparc) if not name.startswith("_")} - beside
    submodules = {path.stem for path in (ROOT / "jaxparc").iterdir() if path.suffix != ".toml"}
    return names - (submodules - set(jaxparc._MODULES) - set(jaxparc._HOMES))


def referenced():
    """The objects in the API reference, by their names in its pages."""
    pages = [path.read_text(encoding="utf-8") for path in DOCS.glob("api/*.md")]
    return {name for page in pages for name in re.findall(r"^::: (\S+)$", page, re.MULTILINE)}


def test_every_public_name_is_in_the_reference():
    assert {"score_bank", "BankScores", "selectors", "Probe"} <= public_names()
    assert {f"jaxparc.{name}" for name in public_names()} <= referenced()
    index = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    assert public_names() <= set(re.findall(r"\[`(\w+)`\]\(\w+\.md", index))


def test_every_selector_is_in_the_reference():
    functions = {s.function for s in jaxparc.selectors.SELECTORS.values()}
    assert {f"{f.__module__}.{f.__name__}" for f in functions} <= referenced()


def test_every_page_is_in_the_navigation():
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = settings.split("\nnav:\n")[1].split("\n\n")[0]
    shown = re.findall(r"[\w/]+\.md$", nav, re.MULTILINE)
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    # made of the files at the top of the repository by docs/site_hooks.py
    made = {name for name in shown if (ROOT / name.upper().replace(".MD", ".md")).exists()}
    assert set(shown) == pages | made
    assert len(shown) == len(set(shown))
    assert {"contributing.md", "changelog.md"} <= made
