"""The selectors: pure functions from a `Probe` to one number, larger is better.

Nothing here jits or vmaps; `jaxparc.score_bank` does. Undefined scores are NaN, never 0.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from jax import Array

from jaxparc.errors import InputError
from jaxparc.labels import KINDS, Labels, no_two_of_a_class, two_of_each_class
from jaxparc.selectors.dds import contributions as dds_contributions
from jaxparc.selectors.dds import dds as dds
from jaxparc.selectors.dds import reference_arrangement
from jaxparc.selectors.gbc import N_DIMS as GBC_N_DIMS
from jaxparc.selectors.gbc import contributions as gbc_contributions
from jaxparc.selectors.gbc import gbc as gbc
from jaxparc.selectors.gbc import needs_float64 as gbc_needs_float64
from jaxparc.selectors.heuristic import contributions as heuristic_contributions
from jaxparc.selectors.heuristic import heuristic as heuristic
from jaxparc.selectors.hscore import caveat as hscore_caveat
from jaxparc.selectors.hscore import contributions as hscore_contributions
from jaxparc.selectors.hscore import hscore as hscore
from jaxparc.selectors.hscore_shrunk import contributions as hscore_shrunk_contributions
from jaxparc.selectors.hscore_shrunk import hscore_shrunk as hscore_shrunk
from jaxparc.selectors.hscore_shrunk import needs_float64 as hscore_shrunk_needs_float64
from jaxparc.selectors.knn import contributions as knn_contributions
from jaxparc.selectors.knn import knn as knn
from jaxparc.selectors.knn import needs_float64 as knn_needs_float64
from jaxparc.selectors.knn import summaries as knn_summaries
from jaxparc.selectors.leep import contributions as leep_contributions
from jaxparc.selectors.leep import leep as leep
from jaxparc.selectors.lfc import contributions as lfc_contributions
from jaxparc.selectors.lfc import lfc as lfc
from jaxparc.selectors.logistic import contributions as logistic_contributions
from jaxparc.selectors.logistic import logistic as logistic
from jaxparc.selectors.logistic import needs_float64 as logistic_needs_float64
from jaxparc.selectors.logme import contributions as logme_contributions
from jaxparc.selectors.logme import logme as logme
from jaxparc.selectors.logme import needs_float64 as logme_needs_float64
from jaxparc.selectors.logme import summaries as logme_summaries
from jaxparc.selectors.nce import contributions as nce_contributions
from jaxparc.selectors.nce import nce as nce
from jaxparc.selectors.ncm import contributions as ncm_contributions
from jaxparc.selectors.ncm import ncm as ncm
from jaxparc.selectors.ncm import needs_float64 as ncm_needs_float64
from jaxparc.selectors.ncm import summaries as ncm_summaries
from jaxparc.selectors.nleep import N_DIMS as NLEEP_N_DIMS
from jaxparc.selectors.nleep import caveat as nleep_caveat
from jaxparc.selectors.nleep import contributions as nleep_contributions
from jaxparc.selectors.nleep import nleep as nleep
from jaxparc.selectors.outcomes import bounds as bounds_of_outcomes
from jaxparc.selectors.parc import annotation_ranks
from jaxparc.selectors.parc import check as parc_check
from jaxparc.selectors.parc import contributions as parc_contributions
from jaxparc.selectors.parc import parc as parc
from jaxparc.selectors.probe import Probe as Probe
from jaxparc.selectors.ridge import contributions as ridge_contributions
from jaxparc.selectors.ridge import needs_float64 as ridge_needs_float64
from jaxparc.selectors.ridge import ridge as ridge
from jaxparc.selectors.rsa import contributions as rsa_contributions
from jaxparc.selectors.rsa import reference_ranks
from jaxparc.selectors.rsa import rsa as rsa
from jaxparc.selectors.sfda import N_DIMS as SFDA_N_DIMS
from jaxparc.selectors.sfda import contributions as sfda_contributions
from jaxparc.selectors.sfda import needs_float64 as sfda_needs_float64
from jaxparc.selectors.sfda import sfda as sfda
from jaxparc.selectors.transrate import contributions as transrate_contributions
from jaxparc.selectors.transrate import needs_float64 as transrate_needs_float64
from jaxparc.selectors.transrate import transrate as transrate


@dataclasses.dataclass(frozen=True)
class Selector:
    """A selector with the properties that `score_bank` depends on.

    Attributes:
        function: maps a `Probe` to the score, () float32; takes `n_dims=f` if `reducible`, and
            `target=` if `target` is given.
        title: name in tables.
        contributions: maps the same arguments to what each image contributes to the score, (n,) and
            up to a constant: to first order, the score of a resample of the images is the mean over
            it. The standard error of the score is that of the mean.
        needs: the fields of `Probe` that it reads.
        reducible: whether the features can be reduced by PCA first ("parc_f32").
        n_dims: the number of components that it reduces features to if its name has no suffix; None
            if it then reads the features as they are.
        kinds: the kinds of labels that it accepts, from `jaxparc.labels.KINDS`.
        check: maps encoded labels to the reason why the score is not defined on them, phrased as
            the end of a sentence about the method, or None if it is defined.
        target: maps a `Probe` without features, and the same options, to the part of the score that
            all models of a bank share.
        needs_float64: maps a `Probe`, and the same options, to whether float32 is too coarse for
            the score, which is then computed in float64.
        summaries: maps the options to the names in `probe.SUMMARIES` of all that the score, if its
            components are found by iteration, needs of the features; None, or a function that
            returns None, if it needs the features themselves.
        undefined: the reason why the score of finite, non-constant features can be NaN.
        caveat: maps a score, the feature width and the encoded labels to a warning about what the
            score does not show, or None.
        bytes_per_pair: bytes of memory per n^2, beyond the inner products of all images.
        bounds: maps the kind of labels to the lowest and the highest possible score; or None.
    """

    function: Callable[..., Array]
    title: str
    contributions: Callable[..., Array]
    needs: tuple[str, ...] = ("features", "labels")
    reducible: bool = True
    n_dims: int | None = None
    kinds: tuple[str, ...] = KINDS
    check: Callable[[Labels], str | None] | None = None
    target: Callable[..., Array] | None = None
    needs_float64: Callable[..., Array] | None = None
    summaries: Callable[..., tuple[str, ...] | None] | None = None
    undefined: str = ""
    caveat: Callable[[float, int, Labels], str | None] | None = None
    bytes_per_pair: int = 0
    bounds: Callable[[str], tuple[float, float]] | None = None


def _gram(**options: Any) -> tuple[str, ...]:
    return ("centred_gram",)


def _gram_or_products(*, n_dims: int | None = None) -> tuple[str, ...]:
    return ("products",) if n_dims is None else ("centred_gram",)


def _gram_if_reduced(*, n_dims: int | None = None) -> tuple[str, ...] | None:
    return None if n_dims is None else ("centred_gram",)


def _leaves_one_out(labels: Labels) -> str | None:
    alone = no_two_of_a_class(labels)
    return alone and f"predicts the class of an image from other images of it; {alone}"


_CLASSES = ("classes",)
_RANKS = 40  # bytes per pair of images
_CONSTANT = "all standardised features of an image are equal"
_NO_LOGARITHM = "the logarithm of probs is not finite"

SELECTORS: Mapping[str, Selector] = MappingProxyType(
    {
        "parc": Selector(
            parc,
            "PARC",
            parc_contributions,
            check=parc_check,
            target=annotation_ranks,
            summaries=_gram_or_products,
            undefined=_CONSTANT,
            bytes_per_pair=_RANKS,
        ),
        "rsa": Selector(
            rsa,
            "RSA",
            rsa_contributions,
            ("features", "reference"),
            target=reference_ranks,
            summaries=_gram_or_products,
            undefined=f"{_CONSTANT}, or of the reference's",
            bytes_per_pair=_RANKS,
        ),
        "dds": Selector(
            dds,
            "DDS",
            dds_contributions,
            ("features", "reference"),
            target=reference_arrangement,
            summaries=_gram_or_products,
            undefined="all standardised features of an image, or of the reference's, are 0, or all "
            "images are equally far apart",
            bytes_per_pair=8,
        ),
        "nce": Selector(
            nce,
            "NCE",
            nce_contributions,
            ("probs", "labels"),
            reducible=False,
            kinds=_CLASSES,
            undefined=_NO_LOGARITHM,
        ),
        "leep": Selector(
            leep,
            "LEEP",
            leep_contributions,
            ("probs", "labels"),
            reducible=False,
            kinds=_CLASSES,
            undefined=_NO_LOGARITHM,
        ),
        "hscore": Selector(
            hscore,
            "H-Score",
            hscore_contributions,
            kinds=_CLASSES,
            summaries=_gram_if_reduced,
            undefined="the features have rank 0",
            caveat=hscore_caveat,
        ),
        "knn": Selector(
            knn,
            "1-NN CV",
            knn_contributions,
            check=two_of_each_class,
            needs_float64=knn_needs_float64,
            summaries=knn_summaries,
            undefined="distances between images are not finite",
            bounds=bounds_of_outcomes,
        ),
        "logistic": Selector(
            logistic,
            "Logistic",
            logistic_contributions,
            kinds=_CLASSES,
            check=two_of_each_class,
            needs_float64=logistic_needs_float64,
            summaries=_gram,
            undefined="the optimiser does not converge on features of this scale; standardise them",
            bounds=bounds_of_outcomes,
        ),
        "ridge": Selector(
            ridge,
            "Ridge",
            ridge_contributions,
            check=_leaves_one_out,
            needs_float64=ridge_needs_float64,
            summaries=_gram,
            undefined="the predictions are not finite",
            bytes_per_pair=32,
            bounds=bounds_of_outcomes,
        ),
        "lfc": Selector(
            lfc,
            "LFC",
            lfc_contributions,
            kinds=_CLASSES,
            check=parc_check,
            summaries=_gram,
            undefined="the inner products of all pairs of images are equal",
            bytes_per_pair=28,
        ),
        "ncm": Selector(
            ncm,
            "NCM",
            ncm_contributions,
            kinds=_CLASSES,
            check=_leaves_one_out,
            needs_float64=ncm_needs_float64,
            summaries=ncm_summaries,
            undefined="the features of all images have the same direction",
            bytes_per_pair=16,
            bounds=bounds_of_outcomes,
        ),
        "logme": Selector(
            logme,
            "LogME",
            logme_contributions,
            needs_float64=logme_needs_float64,
            summaries=logme_summaries,
            undefined="the features are constant after the reduction, or fit a column of the "
            "labels exactly",
            bytes_per_pair=32,
        ),
        "transrate": Selector(
            transrate,
            "TransRate",
            transrate_contributions,
            kinds=_CLASSES,
            needs_float64=transrate_needs_float64,
            summaries=_gram,
            undefined="features are too large or too small beside the constant eps; standardise "
            "them",
            bytes_per_pair=8,
        ),
        "gbc": Selector(
            gbc,
            "GBC",
            gbc_contributions,
            n_dims=GBC_N_DIMS,
            kinds=_CLASSES,
            needs_float64=gbc_needs_float64,
            summaries=_gram,
            undefined="squared distances between classes are not finite",
        ),
        "hscore_shrunk": Selector(
            hscore_shrunk,
            "Shrunk H-Score",
            hscore_shrunk_contributions,
            kinds=_CLASSES,
            needs_float64=hscore_shrunk_needs_float64,
            summaries=_gram,
            undefined="the shrinkage of the covariance matrix is 0",
            bytes_per_pair=12,
        ),
        "sfda": Selector(
            sfda,
            "SFDA",
            sfda_contributions,
            n_dims=SFDA_N_DIMS,
            kinds=_CLASSES,
            check=two_of_each_class,
            needs_float64=sfda_needs_float64,
            summaries=_gram,
            undefined="logits of the discriminant are not finite",
        ),
        "nleep": Selector(
            nleep,
            "N-LEEP",
            nleep_contributions,
            n_dims=NLEEP_N_DIMS,
            kinds=_CLASSES,
            summaries=_gram,
            undefined="squared distances between images are not finite",
            caveat=nleep_caveat,
            bytes_per_pair=16,
        ),
        "heuristic": Selector(
            heuristic,
            "Heuristic",
            heuristic_contributions,
            ("layers", "source_images", "target_images"),
            reducible=False,
            undefined="layers, source_images or target_images is not a positive number",
        ),
    }
)
"""The selectors, by name, in the order of the tables."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A selector with its options bound: one column of a score table.

    Attributes:
        label: the column's name, such as "parc_f32+l".
        title: name in tables, such as "PARC f=32 + layers".
        selector: the selector that computes it.
        function: maps a `Probe`, and `target=` if there is one, to the score.
        contributions: maps the same arguments to what each image contributes; see `Selector`.
        target: maps a `Probe` without features to the part that all models share; or None.
        needs_float64: maps a `Probe` to whether float32 is too coarse; or None.
        needs_float64_if_rounded: the same, for features that were rounded to float32; or None.
        unresolved: maps a `Probe` without features to whether its summaries do not determine the
            score; or None.
        summaries: all that it needs of the features, from `probe.SUMMARIES`; None if it needs the
            features themselves.
        n_dims: f, the number of components that it reduces features to; or None.
        needs: the fields of `Probe` that it reads, "layers" if `plus_layers`, and "prior" if
            `plus_prior`.
        plus_layers: whether eq. 6 is applied to the scores of a target's models.
        plus_prior: whether a number of each model is added to the standardised scores.
    """

    label: str
    title: str
    selector: Selector
    function: Callable[..., Array]
    contributions: Callable[..., Array]
    target: Callable[[Probe], Array] | None
    needs_float64: Callable[[Probe], Array] | None
    needs_float64_if_rounded: Callable[[Probe], Array] | None
    unresolved: Callable[[Probe], Array] | None
    summaries: tuple[str, ...] | None
    n_dims: int | None
    needs: tuple[str, ...]
    plus_layers: bool = False
    plus_prior: bool = False

    @property
    def reads_images(self) -> bool:
        """Whether the method reads features."""
        return "features" in self.needs

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of labels that the method accepts."""
        return self.selector.kinds

    @property
    def members(self) -> "tuple[Method, ...]":
        """The method itself; see `Ensemble`."""
        return (self,)

    def bounds(self, kind: str) -> tuple[float, float] | None:
        """Return the lowest and the highest possible score, or None if these are not known."""
        if self.selector.bounds is None or self.plus_layers or self.plus_prior:
            return None
        return self.selector.bounds(kind)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """The mean of methods, each standardised over the models of a call: a column like a `Method`.

    Attributes:
        label: the column's name, such as "mean(parc_f32,knn)".
        title: name in tables.
        members: the methods.
        plus_layers: see `Method`.
        plus_prior: see `Method`.
    """

    label: str
    title: str
    members: tuple[Method, ...]
    plus_layers: bool = False
    plus_prior: bool = False

    def bounds(self, kind: str) -> None:
        """Return None, as standardised scores have no bounds."""

    @property
    def needs(self) -> tuple[str, ...]:
        """What the members need, "layers" if `plus_layers`, and "prior" if `plus_prior`."""
        needs = [need for member in self.members for need in member.needs]
        needs += ["layers"] * self.plus_layers + ["prior"] * self.plus_prior
        return tuple(dict.fromkeys(needs))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of labels that all members accept."""
        return tuple(kind for kind in KINDS if all(kind in m.kinds for m in self.members))


@functools.lru_cache(maxsize=256)
def method(name: str | Callable[[Probe], Array]) -> Method | Ensemble:
    """Return the method of a name such as "parc", "parc_f32" or "knn+l", or of a function.

    Args:
        name: a key of `SELECTORS`, optionally followed by "_f" and a number of dimensions, or the
            mean of several, such as "mean(parc_f32,knn)", and either optionally followed by "+l",
            "+p" or both; or a function of this module, its options bound by `functools.partial`.

    Raises:
        InputError: the method is unknown, or its features cannot be reduced.

    Examples:
        >>> method("parc_f32+l").title
        'PARC f=32 + layers'
        >>> method("mean(knn,ncm)").needs
        ('features', 'labels')
    """
    if not isinstance(name, str):
        return _of_function(name)
    if matched := re.fullmatch(r"mean\((.*)\)(\+l)?(\+p)?", name):
        return _ensemble(name, matched[1], bool(matched[2]), bool(matched[3]))
    return _of_name(name)


def _ensemble(label: str, names: str, plus_layers: bool, plus_prior: bool) -> Ensemble:
    split = [name.strip() for name in names.split(",")]
    if not all(split) or "(" in names:
        raise InputError(f"method {label!r}: expected names of methods in mean(...), with commas")
    members = tuple(map(_of_name, split))
    if len({member.function for member in members}) < max(2, len(members)):
        raise InputError(f"method {label!r}: expected at least two distinct methods in mean(...)")
    if added := [member.label for member in members if member.plus_layers or member.plus_prior]:
        raise InputError(
            f"method {label!r}: {added[0]!r} in mean(...); expected +l and +p after it"
        )
    title = f"mean of {', '.join(member.title for member in members)}"
    label = f"mean({','.join(member.label for member in members)})"
    label += "+l" * plus_layers + "+p" * plus_prior
    title += " + layers" * plus_layers + " + prior" * plus_prior
    return Ensemble(label, title, members, plus_layers, plus_prior)


def _of_name(name: str) -> Method:
    matched = re.fullmatch(r"([a-z_]+?)(?:_f([1-9][0-9]*))?(\+l)?(\+p)?", name)
    if matched is None or matched[1] not in SELECTORS:
        raise InputError(f"unknown method {name!r}; known: {_known()}")
    selector = SELECTORS[matched[1]]
    title, needs = selector.title, selector.needs
    options: tuple[tuple[str, Any], ...] = ()
    if matched[2]:
        if not selector.reducible:
            raise InputError(f"method {name!r}: {matched[1]} cannot be reduced by PCA")
        options = (("n_dims", int(matched[2])),)
        title += f" f={matched[2]}"
    if matched[3]:
        title += " + layers"
        needs = tuple(dict.fromkeys((*needs, "layers")))
    if matched[4]:
        title += " + prior"
        needs = (*needs, "prior")
    return _method(name, title, selector, options, needs, bool(matched[3]), bool(matched[4]))


def _method(
    label: str,
    title: str,
    selector: Selector,
    options: tuple[tuple[str, Any], ...],
    needs: tuple[str, ...],
    plus_layers: bool = False,
    plus_prior: bool = False,
) -> Method:
    if selector.n_dims is not None:  # "gbc" and "gbc_f64" share one function
        options = tuple(sorted(({"n_dims": selector.n_dims} | dict(options)).items()))
    n_dims: int | None = dict(options).get("n_dims")
    reduction = () if n_dims is None else (("n_dims", n_dims),)
    return Method(
        label,
        title,
        selector,
        _bound(selector.function, options),
        _bound(selector.contributions, options),
        selector.target and _bound(selector.target, options),
        selector.needs_float64 and _bound(selector.needs_float64, options),
        _bound(Probe.ill_conditioned, reduction) if reduction else None,
        _bound(Probe.unresolved, reduction) if reduction else None,
        selector.summaries and selector.summaries(**dict(options)),
        n_dims,
        needs,
        plus_layers,
        plus_prior,
    )


@functools.cache
def _bound(
    function: Callable[..., Array], options: tuple[tuple[str, Any], ...]
) -> Callable[..., Array]:
    # Cached, so that "parc_f32" and "parc_f32+l" share one function and so one compiled program.
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
    raise InputError(f"{function!r} is not a selector; known: {_known()}")


def _known() -> str:
    names = ", ".join(SELECTORS)
    return (
        f"{names}; with a reduction such as parc_f32, with layers such as parc_f32+l, with a prior "
        "such as parc_f32+p, and means such as mean(parc_f32,knn)"
    )
