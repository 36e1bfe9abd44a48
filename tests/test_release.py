"""What a release checks before it publishes, and that this repository can be released."""

import importlib.util
from pathlib import Path

import pytest

import jaxparc

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".github" / "release_notes.py"
spec = importlib.util.spec_from_file_location("release_notes", SCRIPT)
release_notes = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release_notes)

CHANGELOG = """# Changelog

Text before the sections.

## Unreleased

### Added

- Something to come.

## 1.2.0 - 2026-02-03

Summary of 1.2.0.

### Added

- Of 1.2.0.

## [1.1.0] - 2026-01-02

- Of 1.1.0.

## 1.0.0

- Of 1.0.0.

## 0.9.0 - 2025-01-01

## 0.8.0 - 2024-01-01

- Once.

## 0.8.0 - 2024-01-02

- Twice.
"""


@pytest.fixture
def root(tmp_path):
    (tmp_path / "jaxparc").mkdir()
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)

    def of(version):
        source = f'"""Docstring."""\n\n__version__ = "{version}"\n'
        (tmp_path / "jaxparc" / "_version.py").write_text(source)
        return tmp_path

    return of


def test_the_notes_are_the_section_of_the_version_alone(root):
    found = release_notes.notes("v1.2.0", root("1.2.0"))
    assert found == "Summary of 1.2.0.\n\n### Added\n\n- Of 1.2.0."
    assert release_notes.notes("v1.1.0", root("1.1.0")) == "- Of 1.1.0."


@pytest.mark.parametrize(
    ("tag", "version", "message"),
    [
        ("v1.2.1", "1.2.0", "the tag is v1.2.1; the version in jaxparc/_version.py is 1.2.0"),
        ("1.2.0", "1.2.0", "the tag is 1.2.0; the version"),
        ("v1.2.0rc1", "1.2.0", "the tag is v1.2.0rc1; the version"),
        ("v1.3.0", "1.3.0", "has 0 sections '## 1.3.0'"),
        ("v1x2.0", "1x2.0", "has 0 sections"),
        ("v1.2", "1.2", "has 0 sections"),
        ("v1.0.0", "1.0.0", "the section of 1.0.0 in CHANGELOG.md has no date"),
        ("v0.9.0", "0.9.0", "the section of 0.9.0 in CHANGELOG.md is empty"),
        ("v0.8.0", "0.8.0", "has 2 sections '## 0.8.0'"),
    ],
)
def test_what_cannot_be_released(root, tag, version, message):
    with pytest.raises(ValueError, match="CHANGELOG|_version") as error:
        release_notes.notes(tag, root(version))
    assert message in str(error.value)


def test_a_version_that_is_no_string():
    for source in ("", "version = '1.0'", "__version__ = 1"):
        with pytest.raises(ValueError, match="assigns no string to __version__"):
            release_notes.version_of(source)


def test_the_command(capsys, root, monkeypatch):
    monkeypatch.setattr(release_notes.notes, "__defaults__", (root("1.1.0"),))
    assert release_notes.main(["v1.1.0"]) == 0
    assert capsys.readouterr() == ("- Of 1.1.0.\n", "")
    assert release_notes.main(["v9"]) == 1
    out, err = capsys.readouterr()
    assert (out, err[:32]) == ("", "release_notes: the tag is v9; th")
    assert release_notes.main([]) == 2


def test_this_version_has_its_section():
    assert release_notes.version_of((ROOT / "jaxparc" / "_version.py").read_text()) == (
        jaxparc.__version__
    )
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    _, text = release_notes.section_of(changelog, jaxparc.__version__)
    assert "### Added" in text


def test_the_citation_is_of_this_version():
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("version:")] == [
        f"version: {jaxparc.__version__}"
    ]
