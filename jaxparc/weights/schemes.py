"""The naming schemes of each architecture, and which of them a weight file has."""

from jaxparc.weights import families
from jaxparc.weights.errors import WeightsError
from jaxparc.weights.translation import Metadata, State, Translated


def check(name: str, scheme: str | None) -> None:
    """Check that an architecture has a scheme.

    Raises:
        WeightsError: it has no scheme of this name.
    """
    known = families.of(name).schemes
    if scheme is not None and scheme not in known:
        raise WeightsError(f"unknown scheme {scheme!r} of {name}; known: {', '.join(known)}")


def translate(
    name: str, state: State, scheme: str | None = None, metadata: Metadata | None = None
) -> Translated:
    """Apply a scheme; by default, the first one that has these names.

    Args:
        name: architecture.
        state: arrays by their names in the file.
        scheme: the name of a scheme.
        metadata: strings and numbers beside the weights.

    Raises:
        WeightsError: the names are not of the scheme, or of no scheme; the message shows some of
            them. Or several networks have them.
    """
    check(name, scheme)
    known = families.of(name).schemes
    for given in known if scheme is None else (scheme,):
        if (translated := known[given](name, state, metadata or {})) is not None:
            return translated
    which = "of no known scheme" if scheme is None else f"not of the scheme {scheme!r}"
    raise WeightsError(
        f"the names of the weights are {which}: {', '.join(list(state)[:6])}; known: "
        f"{', '.join(known)}"
    )


def architecture_of(state: State) -> str | None:
    """Return the architecture that weights have by their names; None if they do not tell."""
    found = (family.architecture_of(state) for family in families.FAMILIES)
    return next((name for name in found if name is not None), None)
