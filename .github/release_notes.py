"""Check that a tag can be released, and print its section of CHANGELOG.md.

    python .github/release_notes.py v0.1.0 > notes.md

The tag must be "v" and the version in jaxparc/_version.py, and CHANGELOG.md must have a section of
this version with a date. It imports nothing of the package.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def version_of(source: str) -> str:
    """Return the value of `__version__` in Python source.

    Raises:
        ValueError: it is not assigned a string.
    """
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            value = ast.literal_eval(node.value)
            if isinstance(value, str):
                return value
    raise ValueError("jaxparc/_version.py assigns no string to __version__")


def section_of(changelog: str, version: str) -> tuple[str, str]:
    """Return the date ("" if there is none) and the text of a version's section.

    Raises:
        ValueError: there is no such section, more than one, or it is empty.
    """
    heading = rf"## \[?{re.escape(version)}\]?(?: - (\d{{4}}-\d\d-\d\d))?"
    parts = re.split(r"^(## .*)$", changelog, flags=re.MULTILINE)
    sections = zip(parts[1::2], parts[2::2], strict=True)
    found = [(match, text) for head, text in sections if (match := re.fullmatch(heading, head))]
    if len(found) != 1:
        raise ValueError(
            f"CHANGELOG.md has {len(found)} sections '## {version}', with or without "
            "' - YYYY-MM-DD'; expected one"
        )
    match, text = found[0]
    if not text.strip():
        raise ValueError(f"the section of {version} in CHANGELOG.md is empty")
    return match[1] or "", text.strip()


def notes(tag: str, root: Path = ROOT) -> str:
    """Return the notes of a release.

    Raises:
        ValueError: the tag is not that of the version, or its section is missing or has no date.
    """
    version = version_of((root / "jaxparc" / "_version.py").read_text(encoding="utf-8"))
    if tag != f"v{version}":
        raise ValueError(f"the tag is {tag}; the version in jaxparc/_version.py is {version}")
    date, text = section_of((root / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    if not date:
        raise ValueError(f"the section of {version} in CHANGELOG.md has no date")
    return text


def main(arguments: list[str]) -> int:
    """Print the notes of the tag that is the only argument; return the exit code."""
    if len(arguments) != 1:
        print("usage: release_notes.py TAG", file=sys.stderr)
        return 2
    try:
        print(notes(arguments[0]))
    except ValueError as error:
        print(f"release_notes: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
