"""The tables and pages that list the methods agree with the registry."""

import re
from pathlib import Path

from jaxparc.labels import KINDS
from jaxparc.selectors import SELECTORS

ROOT = Path(__file__).parents[2]
ALSO = {
    "reference": "`reference=`, features of a model trained on the target",
    "probs": "`probs=`",
    "layers": "`layers=`",
    "source_images": "`source_images=`",
    "target_images": "`target_images=`",
}


def table():
    """Return the lines of README's table: methods that read and need the same share a line."""
    groups = {}
    for name, selector in SELECTORS.items():
        needs = set(selector.needs)
        reads = {"features": "features", "probs": "class probabilities"}
        read = ", ".join(text for need, text in reads.items() if need in needs) or "no images"
        kinds = "any" if selector.kinds == KINDS else ", ".join(selector.kinds)
        also = ", ".join(text for need, text in ALSO.items() if need in needs)
        row = (read, kinds if "labels" in needs else "none", also)
        groups.setdefault(row, []).append(f"`{name}`")
    return [f"| {', '.join(names)} | {' | '.join(row)} |" for row, names in groups.items()]


def test_readmes_table_of_methods_is_that_of_the_registry():
    readme = (ROOT / "README.md").read_text()
    shown = readme.split("| method | reads | labels | also needs |\n| --- | --- | --- | --- |\n")[1]
    expected = "\n".join(table())
    assert shown.split("\n\n")[0].replace("|  |", "| |") == expected.replace("|  |", "| |")


def test_every_method_has_its_lines_in_the_page_of_methods():
    page = (ROOT / "docs" / "methods.md").read_text()
    told = re.findall(r"\*\*`([a-z_]+)`\*\*", page)
    assert sorted(told) == sorted(SELECTORS)
