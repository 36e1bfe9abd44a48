"""The selectors: each a pure function of one `Probe` to one number, larger is better.

Nothing here jits or maps; `jaxparc.score_bank` does. Undefined scores are NaN, never 0.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from jax import Array

from jaxparc.labels import KINDS
from jaxparc.selectors.dds import dds as dds
from jaxparc.selectors.dds import reference_arrangement
from jaxparc.selectors.heuristic import heuristic as heuristic
from jaxparc.selectors.hscore import hscore as hscore
from jaxparc.selectors.knn import knn as knn
from jaxparc.selectors.knn import lost as distances_lost
from jaxparc.selectors.leep import leep as leep
from jaxparc.selectors.logistic import logistic as logistic
from jaxparc.selectors.logistic import lost as optimum_lost
from jaxparc.selectors.nce import nce as nce
from jaxparc.selectors.parc import annotation_ranks
from jaxparc.selectors.parc import parc as parc
from jaxparc.selectors.probe import Probe
from jaxparc.selectors.rsa import reference_ranks
from jaxparc.selectors.rsa import rsa as rsa


@dataclasses.dataclass(frozen=True)
class Selector:
    """A method, and what it looks at.

    Attributes:
        function: of one `Probe`; takes `n_dims=f` if `reducible`, and `target=` if there is
            `target`.
        title: as tables print it.
        needs: the fields of `Probe` that must be there.
        reducible: whether the features can be reduced by PCA first ("parc_f32").
        kinds: of labels that it takes, of `jaxparc.labels.KINDS`.
        needs_two: whether a class with a single image makes no sense to it.
        target: the part of the score that all models of a bank share, of the same `Probe` (without
            features) and options; None if there is none.
        lost: of the same `Probe` and options, whether float32 is too coarse for the score, which is
            then computed in float64; None if it never is.
        undefined: when it is NaN.
        bytes_per_pair: of memory that it takes per n^2, beyond products of all images.
    """

    function: Callable[..., Array]
    title: str
    needs: tuple[str, ...] = ("features", "labels")
    reducible: bool = True
    kinds: tuple[str, ...] = KINDS
    needs_two: bool = False
    target: Callable[..., Array] | None = None
    lost: Callable[..., Array] | None = None
    undefined: str = ""
    bytes_per_pair: int = 0


_CLASSES = ("classes",)

_RANKS = 40  # bytes
_FLAT = "an image has one value in all its standardised features"
_DISTRIBUTION = "probs have no logarithm"

SELECTORS: Mapping[str, Selector] = MappingProxyType(
    {
        "parc": Selector(
            parc, "PARC", target=annotation_ranks, undefined=_FLAT, bytes_per_pair=_RANKS
        ),
        "rsa": Selector(
            rsa,
            "RSA",
            ("features", "reference"),
            target=reference_ranks,
            undefined=f"{_FLAT}, or in the reference's",
            bytes_per_pair=_RANKS,
        ),
        "dds": Selector(
            dds,
            "DDS",
            ("features", "reference"),
            target=reference_arrangement,
            undefined="an image has only 0 as standardised features, or as the reference's, or all "
            "images are equally far apart",
            bytes_per_pair=8,
        ),
        "nce": Selector(
            nce,
            "NCE",
            ("probs", "labels"),
            reducible=False,
            kinds=_CLASSES,
            undefined=_DISTRIBUTION,
        ),
        "leep": Selector(
            leep,
            "LEEP",
            ("probs", "labels"),
            reducible=False,
            kinds=_CLASSES,
            undefined=_DISTRIBUTION,
        ),
        "hscore": Selector(
            hscore, "H-Score", kinds=_CLASSES, undefined="features have no direction"
        ),
        "knn": Selector(
            knn,
            "1-NN CV",
            needs_two=True,
            lost=distances_lost,
            undefined="an image's features have no direction",
        ),
        "logistic": Selector(
            logistic,
            "Logistic",
            kinds=_CLASSES,
            needs_two=True,
            lost=optimum_lost,
            undefined="no optimum is found at this size of the features: standardise them",
        ),
        "heuristic": Selector(
            heuristic,
            "Heuristic",
            ("layers", "source_images", "target_images"),
            reducible=False,
            undefined="layers, source_images or target_images are no positive numbers",
        ),
    }
)


@dataclasses.dataclass(frozen=True)
class Method:
    """A selector with its options bound: what one column of a score table holds.

    Attributes:
        label: the column's name, such as "parc_f32+l".
        title: as tables print it, such as "PARC f=32 + layers".
        selector: what computes it.
        function: of one `Probe`, and of `target` if there is one.
        target: of one `Probe` without features, what all models of a bank share; or None.
        lost: of one `Probe`, whether float32 is too coarse; or None.
        steep: likewise, whether it is if features were rounded to float32; or None.
        needs: the fields of `Probe` that must be there.
        plus_layers: whether eq. 6 is applied to the scores of a target's models.
    """

    label: str
    title: str
    selector: Selector
    function: Callable[..., Array]
    target: Callable[[Probe], Array] | None
    lost: Callable[[Probe], Array] | None
    steep: Callable[[Probe], Array] | None
    needs: tuple[str, ...]
    plus_layers: bool = False

    @property
    def reads_images(self) -> bool:
        """Whether it looks at features."""
        return "features" in self.needs

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of labels that it takes."""
        return self.selector.kinds


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
    title, needs = selector.title, selector.needs
    options: tuple[tuple[str, Any], ...] = ()
    if matched[2]:
        if not selector.reducible:
            raise ValueError(f"method {name!r}: {matched[1]} takes no reduction of features")
        options = (("n_dims", int(matched[2])),)
        title += f" f={matched[2]}"
    if matched[3]:
        title += " + layers"
        needs = tuple(dict.fromkeys((*needs, "layers")))
    return _method(name, title, selector, options, needs, bool(matched[3]))


def _method(
    label: str,
    title: str,
    selector: Selector,
    options: tuple[tuple[str, Any], ...],
    needs: tuple[str, ...],
    plus_layers: bool = False,
) -> Method:
    reduction = tuple(option for option in options if option[0] == "n_dims")
    return Method(
        label,
        title,
        selector,
        _bound(selector.function, options),
        selector.target and _bound(selector.target, options),
        selector.lost and _bound(selector.lost, options),
        _bound(Probe.steep, reduction) if reduction else None,
        needs,
        plus_layers,
    )


@functools.cache
def _bound(
    function: Callable[..., Array], options: tuple[tuple[str, Any], ...]
) -> Callable[..., Array]:
    # One object for "parc_f32" and "parc_f32+l": what is compiled is kept per function.
    return functools.partial(function, **dict(options)) if options else function


def _of_function(function: Callable[..., Array]) -> Method:
    bound = function.keywords if isinstance(function, functools.partial) else {}
    inner = function.func if isinstance(function, functools.partial) else function
    for name, selector in SELECTORS.items():
        if selector.function is inner:
            options = tuple(sorted(bound.items()))
            label = ",".join(f"{key}={value}" for key, value in options)
            label = f"{name}({label})" if label else name
            return _method(label, label, selector, options, selector.needs)
    raise ValueError(f"{function!r} is not a selector; known: {_known()}")


def _known() -> str:
    names = ", ".join(SELECTORS)
    return f"{names}; with a reduction such as parc_f32, with layers such as parc_f32+l"
