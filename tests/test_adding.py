"""The pages on adding a selector and a network do what they say, in a copy of the code."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_tutorials import assert_same_output

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+) title=\"(.+?)\"\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COPIED = ("jaxparc", "tests", "setup.cfg", "pyproject.toml", "README.md")


def apply(diff, text):
    """Apply lines that begin with a space, + or - to a text, where those that are there are."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(before) == 1, before
    return text.replace(before, after)


def copy_with(page, folder):
    """Copy the project and do to it what a page says; return title -> text of what is printed."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    shown = {}
    for kind, title, text in BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8")):
        path = folder / title
        if kind == "diff":
            path.write_text(apply(text, path.read_text(encoding="utf-8")), encoding="utf-8")
        elif kind == "text":
            shown[title] = text
        else:
            assert not path.exists()
            path.write_text(text, encoding="utf-8")
    return shown


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]  # of the workers of this run
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def passed(folder, *arguments):
    """Run tests of the copy, and return how many passed."""
    out = run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", *arguments)
    return int(re.search(r"(\d+) passed", out)[1])


@pytest.mark.slow
def test_a_selector_is_added_as_the_page_says(tmp_path):
    shown = copy_with("adding_a_selector.md", tmp_path)
    assert_same_output(run(tmp_path, "try_it.py"), shown["try_it.txt"])
    run(tmp_path, "bound.py")
    run(tmp_path, "alone.py")
    assert passed(tmp_path, "tests/selectors/test_between.py") == 2
    which = "between or forgotten or agree"
    assert passed(tmp_path, "tests/selectors/test_selectors.py", "-k", which) > 15
    assert passed(tmp_path, "tests/bank/test_intervals.py", "-k", "between") > 0


@pytest.mark.slow
def test_a_network_is_added_as_the_page_says(tmp_path):
    copy_with("adding_a_network.md", tmp_path)
    assert passed(tmp_path, "tests/weights/test_threeconv.py") == 3
    either = ("-m", "slow or not slow", "-k", "threeconv or missing_from_the_registry")
    assert passed(tmp_path, "tests/models/test_models.py", *either) > 5
