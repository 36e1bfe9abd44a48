"""Weights from a model hub, through huggingface_hub and its local cache.

What is in the cache is used without asking the hub. All files of a repository are of one commit.
"""

import functools
import json
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxparc import extras, models, printing, weights
from jaxparc.errors import InputError
from jaxparc.weights import configs, formats

SCHEME = "hf://"
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
_SECONDS = 10  # in which a hub that answers takes a connection
_OF_TENSORFLOW_JS = "model.json"
_WEIGHTS = tuple(name for name in formats.HUB_FILES if name != _OF_TENSORFLOW_JS)


def repository_of(address: str) -> str | None:
    """Return the OWNER/NAME of hf://OWNER/NAME; None of other addresses.

    Raises:
        InputError: it begins with hf:// and is not of this form.
    """
    if not address.startswith(SCHEME):
        return None
    repository = address.removeprefix(SCHEME)
    owner, _, name = repository.partition("/")
    if not owner or not name or "/" in name or not _is_plain(repository.replace("/", "")):
        raise InputError(f"{address!r} is not an address of a hub; expected hf://OWNER/NAME")
    return repository


def _is_plain(name: str) -> bool:
    return name.isascii() and all(c.isalnum() or c in "._-" for c in name)


@functools.cache
def fetch(repository: str, names: Sequence[str] = TIMM_FILES) -> Path:
    """Return the path of a file of a repository in the local cache, downloaded if necessary.

    Args:
        repository: OWNER/NAME.
        names: of the file; the first that exists.

    Raises:
        InputError: huggingface_hub is not installed, there is no such repository or file, or it is
            not in the cache and the hub does not answer.
    """
    path = _first(repository, names, None)
    if path is None:
        raise InputError(f"hf://{repository} holds none of {', '.join(names)}")
    return path


@functools.cache
def config(repository: str) -> Path | None:
    """Return the path of a repository's config.json in the local cache; None if it has none.

    Raises:
        InputError: as `fetch`.
    """
    return _first(repository, (configs.CONFIG,), None)


@functools.cache
def folder(repository: str) -> Path:
    """Return the folder of a repository in the local cache, with its configs and weights.

    Files that are missing in the cache are downloaded; the weights last, so that a folder that has
    them has the configs too.

    Raises:
        InputError: as `fetch`, or an index lists files outside of the folder.
    """
    cached = cached_folder(repository)
    if cached is not None and (cached / configs.CONFIG).exists():
        return cached
    try:
        found = config(repository)
    except InputError:
        if cached is None:
            raise
        return cached  # offline, with weights that were fetched alone
    commit = None if found is None else found.parent.name
    _first(repository, (configs.PREPROCESSOR,), commit)
    path = _first(repository, _WEIGHTS, commit)
    if path is None:
        raise InputError(f"hf://{repository} holds none of {', '.join(_WEIGHTS)}")
    for name in _shards(repository, path):
        if _first(repository, (name,), path.parent.name) is None:
            raise InputError(f"hf://{repository} has no {name}, which {path.name} lists")
    return path.parent


def cached_folder(repository: str) -> Path | None:
    """Return the folder of a repository if its weights are in the local cache; else None.

    Raises:
        InputError: an index lists files outside of the folder.
    """
    for name in _WEIGHTS:
        path = _cached(repository, name, None)
        if path is not None:
            whole = all((path.parent / shard).exists() for shard in _shards(repository, path))
            return path.parent if whole else None
    return None


def reachable() -> bool:
    """Return whether what is not in the local cache can be asked for."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and _answers(constants.ENDPOINT)


def repositories() -> list[str]:
    """Return the repositories whose weights are in the local cache, sorted."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return []
    found = []
    for place in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*")):
        repository = "/".join(place.name.split("--", 2)[1:])
        if cached_folder(repository) is not None:
            found.append(repository)
    return found


def _shards(repository: str, path: Path) -> Iterator[str]:
    """Yield the names of the shards of an index; none of a single file."""
    if not path.name.endswith(".json"):
        return
    try:
        listed: Any = json.loads(path.read_bytes())["weight_map"].values()
        names = sorted(set(map(str, listed)))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"hf://{repository}: {path.name} cannot be read: {error}") from None
    for name in names:
        if not _is_plain(name) or name.startswith("."):
            raise InputError(f"hf://{repository}: {path.name} lists {name[:60]!r}; expected a file")
        yield name


def _cached(repository: str, name: str, revision: str | None) -> Path | None:
    try:
        import huggingface_hub
    except ImportError:
        raise InputError(extras.missing("huggingface_hub", "hub")) from None
    path = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
    return Path(path) if isinstance(path, str) else None


def _first(repository: str, names: Sequence[str], revision: str | None) -> Path | None:
    """Return the path of the first of several files that exists; None if none does."""
    for name in names:
        if (path := _cached(repository, name, revision)) is not None:
            return path
    import huggingface_hub
    from huggingface_hub import constants, errors

    for name in names:
        try:
            if not (constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT)):
                raise errors.LocalEntryNotFoundError(name)
            return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
        except errors.LocalEntryNotFoundError:
            raise InputError(
                f"hf://{repository} is not in the local cache, and the hub does not answer; where "
                f"it does: hf download {repository}"
            ) from None
        except errors.EntryNotFoundError:
            continue
        except errors.GatedRepoError:
            raise InputError(
                f"hf://{repository} is gated: accept its terms on its page, and log in with "
                "hf auth login"
            ) from None
        except errors.RepositoryNotFoundError:
            raise InputError(f"hf://{repository}: there is no such public repository") from None
        except Exception as error:  # of the network, or a full disk
            raise InputError(
                f"hf://{repository} cannot be fetched: {printing.line(error)}"
            ) from error
    return None


@functools.cache
def _answers(endpoint: str) -> bool:
    """Return whether a hub takes connections.

    huggingface_hub tries for half a minute for each file, of which a bank has many.
    """
    if urllib.request.getproxies():
        return True
    parts = urllib.parse.urlsplit(endpoint)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=_SECONDS):
            return True
    except OSError:
        return False


def network_of(repository: str) -> tuple[str, str]:
    """Return the kind and the architecture of a repository's network, as a bank file has them.

    timm's repositories are named after it. Of others, config.json tells it, or else the weights.

    Raises:
        InputError: it cannot be told, or as `fetch`.
    """
    owner, _, name = repository.partition("/")
    if owner == "timm":
        architecture = name.partition(".")[0]
        return _of_timm(architecture, name)
    path = config(repository)
    declared = _declared(path)
    if declared is not None:
        return _of_timm(declared, declared)
    try:
        return "architecture", weights.guess(folder(repository))
    except weights.WeightsError as error:
        raise InputError(f"hf://{repository}: {error}") from None


def _of_timm(architecture: str, name: str) -> tuple[str, str]:
    own = architecture in models.MODELS
    return ("architecture", architecture) if own else ("timm", name)


def _declared(path: Path | None) -> str | None:
    """Return timm's name of the architecture that a config.json declares, if any."""
    try:
        declared = {} if path is None else json.loads(path.read_bytes())
        name = declared.get("architecture")
    except (ValueError, AttributeError, RecursionError):  # reading the weights reports it
        return None
    return name.partition(".")[0] if isinstance(name, str) else None
