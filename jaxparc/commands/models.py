"""The command models: list architectures, ready-made banks, and what is on this machine."""

import fnmatch
import importlib.util
import json
import types
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxparc import models, printing
from jaxparc.bank import hub, ready_made, toml_file
from jaxparc.errors import InputError

EXTRAS: Mapping[str, tuple[str, str]] = types.MappingProxyType(
    {
        "hub": ("huggingface_hub", 'weights = "hf://OWNER/NAME"'),
        "timm": ("timm", 'timm = "NAME"'),
        "onnx": ("onnxruntime", 'onnx = "FILE"'),
        "keras3": ("keras", 'keras = "NAME"'),
        "keras": ("h5py", "weights of Keras in HDF5"),
    }
)
"""Extra -> a package that it installs, and what a bank can have with it."""


def print_models(patterns: Sequence[str] = (), *, as_json: bool = False) -> None:
    """Print the architectures whose names match, the ready-made banks, and what is here.

    Args:
        patterns: of names of architectures, such as "resnet*"; by default, of all.
        as_json: print one JSON object instead of tables.

    Raises:
        InputError: a pattern matches no name.
    """
    found: dict[str, Any] = {
        "architectures": _architectures(patterns),
        "banks": _banks(),
        "extras": _extras(),
        "cached": hub.repositories(),
    }
    if as_json:
        print(json.dumps(found, indent=2))
        return
    console = Console()
    console.print(_architecture_table(found["architectures"]))
    console.print(_bank_table(found["banks"]))
    console.print(_extra_table(found["extras"]))
    cached = found["cached"]
    print(printing.shown(f"in the cache of the hub: {printing.count(len(cached), 'network')}"))
    for repository in cached:
        print(printing.shown(f"  hf://{repository}"))


def _architectures(patterns: Sequence[str]) -> list[dict[str, Any]]:
    for pattern in patterns:
        if not fnmatch.filter(models.MODELS, pattern):
            raise InputError(f"{pattern!r} matches no architecture; all: jaxparc models")
    return [
        {
            "name": spec.name,
            "family": file.__name__.rpartition(".")[2],
            "parameters": spec.parameters,
            "gmacs": spec.gmacs,
            "input_size": spec.input_size,
        }
        for file in models.FILES
        for spec in file.SPECS
        if not patterns or any(fnmatch.fnmatchcase(spec.name, pattern) for pattern in patterns)
    ]


def _banks() -> list[dict[str, Any]]:
    found = []
    for name in ready_made.NAMES:
        path = ready_made.path_of(name)
        entries = toml_file.read(path)
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        in_jax = sum(entry.native for entry in entries)
        found.append(
            {
                "name": name,
                "models": len(entries),
                "in_jax": in_jax,
                "description": first.removeprefix("# "),
            }
        )
    return found


def _extras() -> list[dict[str, Any]]:
    return [
        {
            "extra": extra,
            "for": purpose,
            "installed": importlib.util.find_spec(package) is not None,
        }
        for extra, (package, purpose) in EXTRAS.items()
    ]


def _architecture_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Architectures in JAX", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("architecture", overflow="fold")
    table.add_column("family")
    for column in ("params", "GMACs", "pixels"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row["name"],
            row["family"],
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['gmacs']:.3g}",
            str(row["input_size"]),
        )
    return table


def _bank_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(
        title="Ready-made banks: jaxparc rank tiny photos/",
        title_justify="left",
        box=SIMPLE_HEAD,
        caption=escape("the others need torch: jaxparc[timm]"),
        caption_justify="left",
    )
    table.add_column("bank")
    for column in ("models", "in JAX"):
        table.add_column(column, justify="right")
    table.add_column("what", overflow="fold")
    for row in rows:
        table.add_row(row["name"], str(row["models"]), str(row["in_jax"]), row["description"])
    return table


def _extra_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="Extras", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("a bank can have")
    table.add_column("here")
    for row in rows:
        command = f'pip install "jaxparc[{row["extra"]}]"'
        table.add_row(row["for"], escape("installed" if row["installed"] else command))
    return table
