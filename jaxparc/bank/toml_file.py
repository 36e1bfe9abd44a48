"""bank.toml: the pretrained models of a bank, and how to preprocess images for them.

[[model]]
name = "resnet50-imagenet"            # shown in the ranking; also names its feature file
architecture = "resnet50"             # a key of jaxparc.models.MODELS
weights = "weights/resnet50.pth"      # relative to this file; read by jaxparc.weights.load
scheme = "pytorch"                    # naming scheme of the weights; detected by default
variant = "torchvision"               # which of several networks with these names (docs/models.md)
weights_key = "state_dict_ema"        # which of several sets of weights in the file
ignore = ["criterion.*"]              # names in the file that do not belong to the network
channels = "rgb"                      # or "bgr"; by default as the weights require
stride_in_1x1 = false                 # for ResNets; by default as the weights require
source = "imagenet2012"               # the training set; optional, like all but the first three
source_images = 1281167               # for the heuristic
layers = 50                           # for "+ layers"; the architecture's by default
size = 224                            # height and width of the input images, in pixels
mean = [0.485, 0.456, 0.406]          # of images in [0, 1], RGB; by default as the weights require
std = [0.229, 0.224, 0.225]
licence = "BSD-3-Clause"
prior = 80.9                          # any number that is larger for models that are better at most
                                      # tasks, such as accuracy on ImageNet; these run first
"""

import dataclasses
import functools
import math
import tomllib
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxparc import files, printing
from jaxparc.errors import InputError

Colour = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One model of a bank; fields that are None follow from the weights or the architecture.

    The fields are the keys of a bank file, and:

    Attributes:
        refused: why the model's name cannot be used as a file name; None if it can.
    """

    name: str
    architecture: str
    weights: Path
    scheme: str | None = None
    variant: str | None = None
    weights_key: str | None = None
    ignore: tuple[str, ...] = ()
    channels: str | None = None
    stride_in_1x1: bool | None = None
    source: str | None = None
    source_images: int | None = None
    layers: int | None = None
    size: int | None = None
    mean: Colour | None = None
    std: Colour | None = None
    licence: str | None = None
    prior: float | None = None
    refused: str | None = None

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What determines the features: settings, and a hash of the weights, which is read once.

        Raises:
            OSError: the weights cannot be read.
            InputError: the weights are not a regular file.
        """
        from jaxparc import weights

        settings = {key: getattr(self, key) for key, kind in KEYS.items() if kind.affects_features}
        return {**settings, "weights": weights.fingerprint(self.weights)}


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
            both = f"{entries[entry.name].weights} and {entry.weights}"
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
    if missing := {"architecture", "weights"} - table.keys():
        raise InputError(f"{where} has no {' and no '.join(sorted(missing))}")
    if unknown := table.keys() - KEYS.keys():
        raise InputError(f"{where}: unknown key {shown(min(unknown))}; known: {', '.join(KEYS)}")
    for key, value in table.items():
        if not KEYS[key].fits(value):
            raise InputError(f"{where}: {key} is {shown(value)}; expected {KEYS[key].expected}")
    try:
        models.get(table["architecture"])
        schemes.check(table["architecture"], table.get("scheme"))
        weights = path.parent / Path(table["weights"]).expanduser()
    except (ValueError, RuntimeError) as error:  # RuntimeError: no home directory for ~
        raise InputError(f"{where}: {error}") from None
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    return Entry(**{**given, "weights": weights, "refused": name_flaw(table["name"])})


class Key(NamedTuple):
    """The values that a key of a model may have.

    Attributes:
        fits: function that returns whether a value has the right type and range.
        expected: the same in words, for error messages.
        affects_features: whether the features depend on the value.
    """

    fits: Callable[[Any], bool]
    expected: str
    affects_features: bool = True


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
    "name": Key(lambda x: isinstance(x, str), "a string", affects_features=False),
    "architecture": Key(_is_word, _WORD),
    "weights": Key(_is_word, _WORD),
    "scheme": Key(_is_word, _WORD),
    "variant": Key(_is_word, _WORD),
    "weights_key": Key(_is_word, _WORD),
    "ignore": Key(lambda x: isinstance(x, list) and all(map(_is_word, x)), "a list of patterns"),
    "channels": Key(lambda x: x in ("rgb", "bgr"), '"rgb" or "bgr"'),
    "stride_in_1x1": Key(lambda x: isinstance(x, bool), "true or false"),
    "source": Key(_is_word, _WORD, affects_features=False),
    "source_images": Key(_whole(10**15), "an integer of at least 1", affects_features=False),
    "layers": Key(_whole(10**6), "an integer of at least 1", affects_features=False),
    "size": Key(_whole(10**4), "an integer from 1 to 10000"),
    "mean": Key(_colour(False), "three numbers from 0 to 1, for red, green and blue"),
    "std": Key(_colour(True), "three numbers above 0 and at most 1, for red, green and blue"),
    "licence": Key(_is_word, _WORD, affects_features=False),
    "prior": Key(_is_prior, "a finite number", affects_features=False),
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


def load(entry: Entry) -> Any:
    """Load a model's network and weights; the entry's mean and std, if given, take precedence.

    Returns:
        A `weights.Loaded`.

    Raises:
        InputError: the weights do not fit the network.
        OSError: the weights cannot be read.
    """
    from jaxparc import weights
    from jaxparc.weights import loading

    loaded = weights.load(entry.architecture, entry.weights, **loading.options_of(entry))
    mean, std = entry.mean or loaded.spec.mean, entry.std or loaded.spec.std
    return loaded._replace(spec=dataclasses.replace(loaded.spec, mean=mean, std=std))
