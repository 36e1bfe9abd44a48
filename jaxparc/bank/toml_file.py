"""bank.toml: the pretrained models of a bank, and how to preprocess images for them.

[[model]]
name = "resnet50-imagenet"            # shown in the ranking; also names its feature file
architecture = "resnet50"             # a key of jaxparc.models.MODELS; or one of the other kinds:
# timm = "vit_small_patch14_dinov2"   # of timm, with weights from the hub or a file
# torch = "package.module:function"   # a torch.nn.Module that a function returns
# onnx = "model.onnx"
# keras = "ResNet50V2"                # of keras.applications, or a .keras file
# jax = "package.module:function"     # an apply function and variables
weights = "weights/resnet50.pth"      # relative to this file; read by jaxparc.weights.load;
                                      # or "hf://OWNER/NAME", of a model hub
scheme = "pytorch"                    # naming scheme of the weights; detected by default
variant = "torchvision"               # which of several networks with these names (docs/models.md)
weights_key = "state_dict_ema"        # which of several sets of weights in the file
ignore = ["criterion.*"]              # names in the file that do not belong to the network
channels = "rgb"                      # or "bgr"; by default as the weights require
stride_in_1x1 = false                 # for ResNets; by default as the weights require
source = "imagenet2012"               # the training set; optional, like all below
source_images = 1281167               # for the heuristic
layers = 50                           # for "+ layers"; the architecture's by default
features = "avg_pool"                 # of torch, onnx and keras: what has the features
size = 224                            # height and width of the input images, in pixels
crop = 0.875                          # side of the central crop, relative to the resized image
resize = "squash"                     # to a square; or "shortest": only the shorter side
interpolation = "bilinear"            # or "bicubic"
mean = [0.485, 0.456, 0.406]          # of images in [0, 1], RGB; by default as the weights require
std = [0.229, 0.224, 0.225]
licence = "BSD-3-Clause"
prior = 80.9                          # any number that is larger for models that are better at most
                                      # tasks, such as accuracy on ImageNet; these run first
"""

import dataclasses
import math
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxparc import files, printing
from jaxparc.bank import hub
from jaxparc.bank.entry import COMMON, KINDS, Entry
from jaxparc.errors import InputError
from jaxparc.geometry import INTERPOLATIONS, RESIZES


def read(path: str | Path) -> list[Entry]:
    """Read the models of a bank file.

    Raises:
        InputError: the file cannot be read; a key of a model is missing, unknown or invalid; a name
            is duplicated; or no name can be used as a file name. The message names the file, the
            model and the key.
    """
    path = Path(path)
    try:
        content = tomllib.loads(files.read_text(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {printing.reason(error)}") from error
    except RecursionError:
        raise InputError(f"{path} cannot be read: nested too deeply") from None
    except ValueError as error:  # not TOML, not UTF-8, or a number with too many digits
        text = str(error)
        raise InputError(
            text if text.startswith(str(path)) else f"{path} cannot be read: {text}"
        ) from error
    tables = content.get("model")
    if not isinstance(tables, list) or set(content) != {"model"} or not tables:
        found = ", ".join(key if key.isprintable() else shown(key) for key in content) or "nothing"
        raise InputError(f"{path} holds {found}; expected [[model]] tables")
    return named([_entry(path, number, table) for number, table in enumerate(tables, 1)], str(path))


def named(models: Iterable[Entry], where: str, remedy: str = "") -> list[Entry]:
    """Check that models differ in name; those that only differ by case or form are refused.

    Args:
        models: the models.
        where: where they come from, for messages.
        remedy: what to do about a duplicated name, for its message.

    Raises:
        InputError: a name is duplicated, or no name can be used as a file name.
    """
    entries: dict[str, Entry] = {}
    names: dict[str, str] = {}  # by case-folded name, as some file systems ignore case
    for entry in models:
        if entry.name in entries:
            both = " and ".join(e.where for e in (entries[entry.name], entry))
            raise InputError(f"{where}: duplicate model {shown(entry.name)}: {both}{remedy}")
        same = names.setdefault(_folded(entry.name), entry.name)
        if same != entry.name and entry.refused is None:
            refused = f"some file systems do not distinguish it from {same!r}"
            entry = dataclasses.replace(entry, refused=refused)
        entries[entry.name] = entry
    if all(entry.refused for entry in entries.values()):
        first = next(iter(entries.values()))
        raise InputError(f"{where}: model {shown(first.name)}: {first.refused}")
    return list(entries.values())


def _entry(path: Path, number: int, table: Any) -> Entry:
    from jaxparc import models
    from jaxparc.weights import schemes

    where = f"{path}: model {number}"
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise InputError(f"{where} has no name")
    where = f"{path}: model {shown(table['name'])}"
    repository = _repository(table, where)
    named = [kind for kind in KINDS if kind in table]
    if not named and repository is not None and repository.startswith("timm/"):
        # The repository is named after the network.
        kind_of, network = hub.network_of(repository)
        table, named = {kind_of: network, **table}, [kind_of]
    if len(named) != 1:
        found = " and ".join(named) or f"none of {', '.join(KINDS)}"
        raise InputError(f"{where} has {found}; expected one of them")
    name, kind = named[0], KINDS[named[0]]
    if unknown := table.keys() - KEYS.keys():
        raise InputError(f"{where}: unknown key {shown(min(unknown))}; known: {', '.join(KEYS)}")
    if missing := kind.needs - table.keys():
        raise InputError(f"{where} has no {' and no '.join(sorted(missing))}")
    if other := table.keys() - {name} - COMMON - kind.keys:
        raise InputError(f"{where}: {min(other)} is for other kinds than {name}")
    for key, value in table.items():
        if not KEYS[key].fits(value):
            raise InputError(f"{where}: {key} is {shown(value)}; expected {KEYS[key].expected}")
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    given["architecture"] = given.pop(name)
    try:
        if name == "architecture":
            models.get(table["architecture"])
            schemes.check(table["architecture"], table.get("scheme"))
        elif _is_file(name, given["architecture"]):
            given["architecture"] = str(path.parent / Path(given["architecture"]).expanduser())
        if repository is not None:
            given["hub"] = repository
            del given["weights"]
        elif "weights" in table:
            given["weights"] = path.parent / Path(table["weights"]).expanduser()
    except (ValueError, RuntimeError) as error:  # RuntimeError: no home directory for ~
        raise InputError(f"{where}: {error}") from None
    return Entry(**given, kind=name, refused=name_flaw(table["name"]))


def _repository(table: Mapping[str, Any], where: str) -> str | None:
    """Return the repository of a hub that has the weights, if one has.

    Raises:
        InputError: the address is invalid, or the kind of network takes none.
    """
    address = table.get("weights")
    try:
        found = hub.repository_of(address) if isinstance(address, str) else None
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    if found is not None and "keras" in table:
        raise InputError(f"{where}: weights = {shown(address)} is for architecture and timm")
    return found


def _is_file(kind: str, address: str) -> bool:
    """Return whether the network itself is a file, whose path is relative to the bank file."""
    return kind == "onnx" or (kind == "keras" and address.endswith((".keras", ".h5")))


class Key(NamedTuple):
    """The values that a key of a model may have.

    Attributes:
        fits: function that returns whether a value has the right type and range.
        expected: the same in words, for error messages.
    """

    fits: Callable[[Any], bool]
    expected: str


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and printing.visible(value) == value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_prior(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _whole(most: int) -> Callable[[Any], bool]:
    return lambda x: _is_number(x) and isinstance(x, int) and 1 <= x <= most


def _colour(above: bool) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        if not isinstance(value, list) or len(value) != 3 or not all(map(_is_number, value)):
            return False
        # False for NaN. A std below 1e-6 would divide by 0 in float32.
        return all((1e-6 if above else 0) <= x <= 1 for x in value)

    return fits


_WORD = "a string of printable characters"

KEYS: Mapping[str, Key] = {
    "name": Key(lambda x: isinstance(x, str), "a string"),
    **{kind: Key(_is_word, _WORD) for kind in KINDS},
    "weights": Key(_is_word, _WORD),
    "scheme": Key(_is_word, _WORD),
    "variant": Key(_is_word, _WORD),
    "weights_key": Key(_is_word, _WORD),
    "ignore": Key(lambda x: isinstance(x, list) and all(map(_is_word, x)), "a list of patterns"),
    "channels": Key(lambda x: x in ("rgb", "bgr"), '"rgb" or "bgr"'),
    "stride_in_1x1": Key(lambda x: isinstance(x, bool), "true or false"),
    "source": Key(_is_word, _WORD),
    "source_images": Key(_whole(10**15), "an integer of at least 1"),
    "layers": Key(_whole(10**6), "an integer of at least 1"),
    "features": Key(_is_word, _WORD),
    "size": Key(_whole(10**4), "an integer from 1 to 10000"),
    "mean": Key(_colour(False), "three numbers from 0 to 1, for red, green and blue"),
    "std": Key(_colour(True), "three numbers above 0 and at most 1, for red, green and blue"),
    "crop": Key(lambda x: _is_number(x) and 0.1 <= x <= 1, "a number from 0.1 to 1"),
    "resize": Key(lambda x: x in RESIZES, " or ".join(map(repr, RESIZES))),
    "interpolation": Key(lambda x: x in INTERPOLATIONS, ", ".join(map(repr, INTERPOLATIONS))),
    "licence": Key(_is_word, _WORD),
    "prior": Key(_is_prior, "a finite number"),
}


def name_flaw(name: str) -> str | None:
    """Return why a name cannot be used as a file name; None if it can."""
    try:
        files.check_name(name)
    except ValueError as error:
        return str(error)
    return None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def printable_name(entry: Entry) -> str:
    """Return a model's name for a terminal, quoted if it cannot be used as a file name."""
    return entry.name if entry.refused is None else shown(entry.name)


def shown(value: Any) -> str:
    """Return a value of a bank file for a message, on one line of at most 60 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number with more digits than Python prints
        return "too long to be shown"
    return text if len(text) <= 60 else f"{text[:57]}..."
