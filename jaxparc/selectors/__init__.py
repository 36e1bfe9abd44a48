"""The selectors: each a pure function of one `Probe` to one number, larger is better.

Nothing here jits or maps; `jaxparc.score_bank` does. Undefined scores are NaN, never 0.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from jax import Array

from jaxparc.capacity import heuristic as heuristic
from jaxparc.probe import Probe
from jaxparc.selectors.dds import dds as dds
from jaxparc.selectors.knn import knn as knn
from jaxparc.selectors.leep import leep as leep
from jaxparc.selectors.nce import nce as nce
from jaxparc.selectors.parc import parc as parc
from jaxparc.selectors.rsa import rsa as rsa


@dataclasses.dataclass(frozen=True)
class Selector:
    """A method, and what it looks at.

    Attributes:
        function: of one `Probe`; takes `n_dims=f` if `reducible`.
        title: as tables print it.
        needs: the fields of `Probe` that must be there.
        reducible: whether the features can be reduced by PCA first ("parc_f32").
        multi_label: whether images may have several labels.
    """

    function: Callable[..., Array]
    title: str
    needs: tuple[str, ...] = ("features", "labels")
    reducible: bool = True
    multi_label: bool = True


SELECTORS: Mapping[str, Selector] = MappingProxyType(
    {
        "parc": Selector(parc, "PARC"),
        "rsa": Selector(rsa, "RSA", ("features", "reference")),
        "dds": Selector(dds, "DDS", ("features", "reference")),
        "nce": Selector(nce, "NCE", ("probs", "labels"), reducible=False, multi_label=False),
        "leep": Selector(leep, "LEEP", ("probs", "labels"), reducible=False, multi_label=False),
        "knn": Selector(knn, "1-NN CV"),
        "heuristic": Selector(
            heuristic, "Heuristic", ("layers", "source_images", "target_images"), reducible=False
        ),
    }
)


@dataclasses.dataclass(frozen=True)
class Method:
    """A selector with its options bound: what one column of a score table holds.

    Attributes:
        label: the column's name, such as "parc_f32+l".
        title: as tables print it, such as "PARC f=32 + layers".
        function: of one `Probe`.
        needs: the fields of `Probe` that must be there.
        multi_label: whether images may have several labels.
        plus_layers: whether eq. 6 is applied to the scores of a target's models.
    """

    label: str
    title: str
    function: Callable[[Probe], Array]
    needs: tuple[str, ...]
    multi_label: bool
    plus_layers: bool = False


@functools.lru_cache(maxsize=256)
def method(name: str | Callable[[Probe], Array]) -> Method:
    """The method of a name such as "parc", "parc_f32" or "knn+l", or of a selector function.

    Args:
        name: a key of `SELECTORS`, then "_f" and a number of dimensions, then "+l", both
            optional; or a function of this module, its options bound by `functools.partial`.

    Raises:
        ValueError: unknown, or a reduction that the selector does not have.
    """
    if not isinstance(name, str):
        return _of_function(name)
    matched = re.fullmatch(r"([a-z]+)(?:_f([1-9][0-9]*))?(\+l)?", name)
    if matched is None or matched[1] not in SELECTORS:
        raise ValueError(f"unknown method {name!r}; known: {_known()}")
    selector = SELECTORS[matched[1]]
    function, title, needs = selector.function, selector.title, selector.needs
    if matched[2]:
        if not selector.reducible:
            raise ValueError(f"method {name!r}: {matched[1]} takes no reduction of features")
        function = _reduced(function, int(matched[2]))
        title += f" f={matched[2]}"
    if matched[3]:
        title += " + layers"
        needs = tuple(dict.fromkeys((*needs, "layers")))
    return Method(name, title, function, needs, selector.multi_label, bool(matched[3]))


@functools.cache
def _reduced(function: Callable[..., Array], n_dims: int) -> Callable[[Probe], Array]:
    # One object for "parc_f32" and "parc_f32+l": what is compiled is kept per function.
    return functools.partial(function, n_dims=n_dims)


def _of_function(function: Callable[[Probe], Array]) -> Method:
    bound = function.keywords if isinstance(function, functools.partial) else {}
    inner = function.func if isinstance(function, functools.partial) else function
    for name, selector in SELECTORS.items():
        if selector.function is inner:
            options = ",".join(f"{key}={value}" for key, value in bound.items())
            label = f"{name}({options})" if options else name
            return Method(label, label, function, selector.needs, selector.multi_label)
    raise ValueError(f"{function!r} is not a selector; known: {_known()}")


def _known() -> str:
    names = ", ".join(SELECTORS)
    return f"{names}; with a reduction such as parc_f32, with layers such as parc_f32+l"
