"""Addresses of models: where the models of a bank come from, as commands are given them.

    bank.toml          a bank file, see `toml_file`
    FOLDER             every weight file in a folder, and every folder of a model hub in it
    [NAME=]FILE        a weight file; its name without the suffix by default
    tiny, small, base  a bank file of this package, see `ready_made`, unless it is a path here
    [NAME=]hf://OWNER/NAME  a network of a model hub, see `hub`
    [NAME=]KIND:VALUE  a network of another kind, such as timm:vit_small_patch14_dinov2 or
                       keras:ResNet50V2; see `entry.KINDS`

The architecture of weights without a bank file is detected from the names and shapes in the file,
unless NAME is one.
"""

import dataclasses
import os
import re
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxparc import files, models, printing
from jaxparc.bank import hub, ready_made, toml_file
from jaxparc.bank.entry import KINDS, Entry
from jaxparc.errors import InputError


def read(addresses: Sequence[str]) -> list[Entry]:
    """Read the models of a bank from their addresses.

    Raises:
        InputError: an address is invalid; a file cannot be read, or does not tell its architecture
            (all such files are named); a name is duplicated or cannot be used as a file name; or
            there are no models.
    """
    if len(addresses) == 1:
        return _entries(addresses[0])
    found = (entry for address in addresses for entry in _entries(address))
    return toml_file.named(found, "--models", "; give one as NAME=FILE")


def folder_of(addresses: Sequence[str]) -> Path:
    """Return the bank file, or the innermost folder that holds all models.

    Models from one folder share the folder of their features, however many are ranked.
    """
    places = []
    for address in addresses:
        rest = _split(address)[1]
        if _is_ready_made(rest) and len(addresses) == 1:
            return ready_made.path_of(rest)
        if _is_ready_made(rest) or _is_of_hub(rest) or _kind_of(rest) is not None:
            continue  # of no folder: those of the other models decide
        path = Path(os.path.abspath(rest))
        places.append(path if path.is_dir() or _is_bank_file(str(path)) else path.parent)
    return Path(os.path.commonpath(places)) if places else Path.cwd()


def _entries(address: str) -> list[Entry]:
    """Return the models of one address, under the name that it gives, if any."""
    name, path = _split(address)
    kind = next(source for source in SOURCES.values() if source.matches(path))
    entries = kind.read(path, name)
    if name is None:
        return entries
    if len(entries) != 1:
        count = printing.count(len(entries), "model")
        raise InputError(f"{address}: {path} holds {count}; NAME= is for one")
    return toml_file.named(
        [dataclasses.replace(entries[0], name=name, refused=toml_file.name_flaw(name))], address
    )


def _split(address: str) -> tuple[str | None, str]:
    """Split an address into the name that it gives, if any, and the rest."""
    given = re.fullmatch(r"([^=/]+)=(.+)", address, re.DOTALL)
    name, path = (None, address) if given is None or os.path.exists(address) else given.groups()
    return name, os.path.expanduser(path)


def _is_bank_file(path: str) -> bool:
    return path.endswith(".toml")


def _kind_of(address: str) -> str | None:
    """Return the kind of an address KIND:VALUE; None if it is a path."""
    kind, colon, value = address.partition(":")
    known = colon and value and kind in KINDS and KINDS[kind].address
    return kind if known and not os.path.exists(address) else None


def _is_of_hub(address: str) -> bool:
    return address.startswith(hub.SCHEME)


def _is_ready_made(address: str) -> bool:
    return address in ready_made.NAMES and not os.path.exists(address)


def _of_hub(address: str, name: str | None) -> list[Entry]:
    repository = hub.repository_of(address)
    assert repository is not None
    if name is not None and name in models.MODELS:
        kind, architecture = "architecture", name
    else:
        kind, architecture = hub.network_of(repository)
    stem = repository.partition("/")[2]
    return [Entry(stem, architecture, hub=repository, kind=kind, refused=toml_file.name_flaw(stem))]


def _network(address: str, name: str | None) -> list[Entry]:
    kind, _, value = address.partition(":")
    if needs := KINDS[kind].needs:
        raise InputError(
            f"{address}: networks of {kind} need {' and '.join(sorted(needs))}; expected a bank "
            f'file with {kind} = "{value}" and these'
        )
    given = re.sub(r"[^\w.-]+", "-", value.rpartition("/")[2]).removesuffix(".keras")
    given = name or given
    return [Entry(given, value, kind=kind, refused=toml_file.name_flaw(given))]


def _folder(path: str, name: str | None) -> list[Entry]:
    """Read the models of a folder: its weight files, and the folders of a model hub in it."""
    places = _weights_in(Path(path))
    if not places:
        raise InputError(f"{path} holds no weight files that can be read")
    entries, flaws = [], []
    for place in places:
        try:
            entries.append(_model(place, name))
        except InputError as error:
            flaws.append(str(error))
    if flaws:
        raise InputError("\n".join(flaws))
    return toml_file.named(entries, path)


def _weights_in(folder: Path) -> list[Path]:
    """Return the weight files of a folder, and of the folders of a model hub in it or as it."""
    found = [path for path in (folder, *sorted(folder.iterdir())) if _is_model(path)]
    shards = {part for path in found for part in _parts(path)}
    return [path for path in found if path not in shards]


def _is_model(path: Path) -> bool:
    from jaxparc.weights import formats

    if path.is_dir():
        return any((path / name).is_file() for name in formats.HUB_FILES)
    # Of a hub's files, which may be the same weights in several formats, the folder uses one.
    hidden = path.name.startswith(".") or path.name in formats.HUB_FILES
    return not hidden and formats.is_known(path)


def _parts(path: Path) -> list[Path]:
    """Return the other files that a weight file consists of; none if it cannot be read."""
    from jaxparc.weights import formats

    try:
        return formats.files_of(formats.resolve(path))[1:]
    except Exception:  # whatever a library raises on a damaged file; `_model` reports it
        return []


def _file(path: str, name: str | None) -> list[Entry]:
    return toml_file.named([_model(Path(path), name)], path)


def _model(path: Path, name: str | None) -> Entry:
    """Return the model of a weight file, or of the folder of a hub."""
    from jaxparc.weights import formats

    place = Path(os.path.abspath(path))
    if place.name in formats.HUB_FILES:
        place = place.parent
    stem = place.name if place.is_dir() else files.stem_of(place)
    return Entry(stem, _architecture(path, name), path, refused=toml_file.name_flaw(stem))


def _architecture(path: Path, name: str | None) -> str:
    from jaxparc import weights

    if name is not None and name in models.MODELS:
        return name
    remedy = f"{path.name} can be given as ARCHITECTURE={path}, or in a bank file"
    try:
        found = weights.guess(path)
    except weights.WeightsError as error:
        raise InputError(f"{error}; {remedy}") from None
    except OSError as error:
        raise InputError(printing.line(error)) from None
    if found not in models.MODELS:
        known = ", ".join(models.MODELS)
        raise InputError(f"{path}: the weights are of {found}; known architectures: {known}")
    return found


class Source(NamedTuple):
    """A kind of address.

    Attributes:
        matches: function that returns whether an address, without NAME=, is of this kind.
        read: function from an address and the name that it gives, or None, to the models.
    """

    matches: Callable[[str], bool]
    read: Callable[[str, str | None], list[Entry]]


SOURCES: Mapping[str, Source] = types.MappingProxyType(
    {
        "bank file": Source(_is_bank_file, lambda path, name: toml_file.read(path)),
        "hub": Source(_is_of_hub, _of_hub),
        "ready-made bank": Source(
            _is_ready_made, lambda name, _: toml_file.read(ready_made.path_of(name))
        ),
        "folder": Source(os.path.isdir, _folder),
        "network": Source(lambda address: _kind_of(address) is not None, _network),
        "weight file": Source(lambda path: True, _file),
    }
)
"""Kind -> how to recognise and read an address of it; the first kind that matches is used."""
