"""Write a bank file, to be completed by hand; `toml_file` reads it."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxparc.bank import toml_file
from jaxparc.bank.entry import COMMON, KINDS, Entry

_HEAD = """# A bank of models: jaxparc rank BANK TARGET. All keys: docs/models.md of jaxparc.
"""
# Keys that weights do not tell, or whose defaults may be wrong: examples, as comments.
_EXAMPLES: Mapping[str, str] = {
    "source": '"imagenet2012"  # the training set',
    "source_images": "1281167  # its number of images, for the method heuristic",
    "mean": "[0.485, 0.456, 0.406]  # of images in [0, 1], RGB; by default as the weights require",
    "std": "[0.229, 0.224, 0.225]",
    "licence": '"BSD-3-Clause"  # for --licence',
    "prior": "80.9  # accuracy on ImageNet; the highest run first",
}


def text(entries: Sequence[Entry], folder: Path) -> str:
    """Return the text of a bank file, with the size and the layers of each architecture.

    Args:
        entries: the models.
        folder: that of the bank file; paths of weights are relative to it.
    """
    return "\n".join([_HEAD, *(_table(entry, folder) for entry in entries)])


def _table(entry: Entry, folder: Path) -> str:
    from jaxparc import models

    found: dict[str, Any] = {entry.kind: entry.architecture}
    if entry.hub is not None:
        found["weights"] = entry.where
    elif entry.weights is not None:
        found["weights"] = os.path.relpath(entry.weights, folder)
    if entry.native:
        spec = models.get(entry.architecture)
        found |= {"size": entry.size or spec.input_size, "layers": entry.layers or spec.layers}
    kind = KINDS[entry.kind]
    lines = ["[[model]]"]
    for key in toml_file.KEYS:
        if key not in COMMON | kind.keys | kind.needs | {entry.kind}:
            continue
        value = found.get(key, getattr(entry, key, None))
        if value not in (None, ()):
            lines.append(f"{key} = {_value(value)}")
        elif key in _EXAMPLES:
            lines.append(f"# {key} = {_EXAMPLES[key]}")
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """Return a value in TOML: JSON's texts, numbers, lists and true are also TOML's."""
    # DEL must be escaped in TOML alone.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
