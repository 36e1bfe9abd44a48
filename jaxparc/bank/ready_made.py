"""Ready-made banks of well-known networks, by their names on a model hub.

A bank is used by its name in place of a bank file: `jaxparc rank tiny photos/`.
"""

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "banks"
NAMES = ("tiny", "small", "base")


def path_of(name: str) -> Path:
    """Return the path of a bank file.

    Args:
        name: one of `NAMES`.
    """
    return _FOLDER / f"{name}.toml"
