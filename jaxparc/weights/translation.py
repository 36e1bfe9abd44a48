"""What a naming scheme is: a function from a state dict to one in torchvision's names and layouts.

A scheme renames the arrays that it can explain and keeps the names of all others, so that the
accounting in `torchvision` lists them by their names in the file.
"""

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

State = Mapping[str, np.ndarray]
"""A state dict: arrays by name."""

Metadata = Mapping[str, Any]
"""Strings and numbers that a checkpoint holds beside the weights."""

Colour = tuple[float, float, float]
"""One number for each of red, green and blue."""

Renames = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
"""Pairs of a regular expression and its replacement, applied in turn."""


class Variant(NamedTuple):
    """How a network differs from the architecture's default, where names alone do not tell.

    Attributes:
        options: fields of the module.
        mean: of images in [0, 1], RGB; None for the architecture's.
        std: likewise.
        bgr: whether the first convolution takes images as BGR.
    """

    options: Mapping[str, Any] = MappingProxyType({})
    mean: Colour | None = None
    std: Colour | None = None
    bgr: bool = False


class Translated(NamedTuple):
    """A state dict in torchvision's names and layouts.

    Attributes:
        scheme: the name of the scheme.
        state: arrays by torchvision's names; unexplained ones by their names in the file.
        left_out: names in the file that are not of the network, on purpose.
        variants: the networks that have these names, by variant.
        evident: the variant that the file declares; None if it declares none.
        by_scheme: the variant if the scheme is given by the user and the file declares none.
        beside: arrays outside of the network, which are left out if the network is complete.
        notes: what the user should know about the choices made.
    """

    scheme: str
    state: dict[str, np.ndarray]
    left_out: tuple[str, ...]
    variants: Mapping[str, Variant] = MappingProxyType({"": Variant()})
    evident: str | None = ""
    by_scheme: str | None = None
    beside: Mapping[str, np.ndarray] = MappingProxyType({})
    notes: tuple[str, ...] = ()


Scheme = Callable[[str, State, Metadata], Translated | None]
"""Translates the weights of an architecture; None if their names are not of the scheme."""


def renamed(name: str, rules: Renames) -> str:
    """Return a name after all substitutions, applied in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
