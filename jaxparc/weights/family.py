"""How a family of networks is named in published weights."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from jaxparc.weights.translation import Scheme, State

Path = tuple[str, ...]
"""Names from the collection to the array, as in `flax.traverse_util.flatten_dict`."""

COUNTER = r".*\.num_batches_tracked"  # which a fixed momentum does not need


class Layout(NamedTuple):
    """How the axes of an array differ from ours.

    Attributes:
        torch_shape: in published weights.
        view: `torch_shape` with flattened axes separated.
        axes: the transposition from `view` to our layout.
    """

    torch_shape: tuple[int, ...]
    view: tuple[int, ...]
    axes: tuple[int, ...]


def flattened_map(shape: tuple[int, ...], side: int) -> Layout:
    """Return the layout of a linear layer's kernel whose input is a flattened map.

    torch flattens a map in the order (c, h, w), and we in the order (h, w, c).

    Args:
        shape: of our kernel, (side * side * c, c').
        side: height and width of the map.
    """
    channels = shape[0] // side**2
    return Layout(shape[::-1], (shape[1], channels, side, side), (2, 3, 1, 0))


def _usual(path: Path, shape: tuple[int, ...]) -> Layout | None:
    return None


def _no_options(architecture: str, state: State) -> Mapping[str, Any]:
    return {}


class Family(NamedTuple):
    """Networks of one file of `jaxparc.models`, and the naming schemes of their weights.

    Attributes:
        architectures: their names, keys of `models.MODELS`.
        rename: function from an architecture and the path of one of our modules, joined by dots, to
            its canonical name: torchvision's, or timm's where it has more of the networks.
        stem: the path of our first convolution.
        schemes: scheme -> function from an architecture, a state dict and metadata to a state dict
            in canonical names, or None if the names are not of the scheme; in the order of trying.
        architecture_of: function from a state dict, in the names of any scheme, to its
            architecture, or a description of another network; None if it is of another family.
        options: function from an architecture and a state dict in canonical names to the fields
            of the module that the shapes decide.
        left_out: patterns of canonical names that are left out on purpose and may be absent.
        layout: function from the path of one of our arrays and its shape to its layout, where that
            is not the usual one.
    """

    architectures: Collection[str]
    rename: Callable[[str, str], str]
    stem: str
    schemes: Mapping[str, Scheme]
    architecture_of: Callable[[State], str | None]
    options: Callable[[str, State], Mapping[str, Any]] = _no_options
    left_out: tuple[str, ...] = (COUNTER,)
    layout: Callable[[Path, tuple[int, ...]], Layout | None] = _usual
