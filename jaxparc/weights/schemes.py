"""Which scheme a file of weights has: found by its names, or given."""

from collections.abc import Mapping

from jaxparc.weights import WeightsError, others, resnets
from jaxparc.weights.torchvision import Facts, Scheme, State, Translated


def of(name: str) -> Mapping[str, Scheme]:
    """The schemes that weights of an architecture may have, by name, in the order of trying."""
    return resnets.SCHEMES if name.startswith("resnet") else others.schemes(name)


def check(name: str, scheme: str | None) -> None:
    """Raises a `WeightsError` for a scheme that weights of an architecture cannot have."""
    known = of(name)
    if scheme is not None and scheme not in known:
        raise WeightsError(f"unknown scheme {scheme!r} of {name}; known: {', '.join(known)}")


def translate(
    name: str, state: State, scheme: str | None = None, facts: Facts | None = None
) -> Translated:
    """Applies a scheme, or the first one that has these names.

    Args:
        name: architecture.
        state: arrays by their names in the file.
        scheme: whose names they are; by default, found.
        facts: strings and numbers beside the weights.

    Raises:
        WeightsError: no scheme has these names, or not the given one; the message shows some of
            them. Or several networks have them.
    """
    check(name, scheme)
    known = of(name)
    for given in known if scheme is None else (scheme,):
        if (found := known[given](state, facts or {})) is not None:
            return found
    which = "of no known scheme" if scheme is None else f"not {scheme}'s"
    raise WeightsError(
        f"the names of these weights are {which}: {', '.join(list(state)[:6])}; known: "
        f"{', '.join(known)}"
    )


def looks_like(state: State) -> str | None:
    """The architecture that weights are of, by their names, if that can be told."""
    for translation in resnets.SCHEMES.values():
        if (found := translation(state, {})) is not None:
            return resnets.looks_like(found.state)
    return others.looks_like(state)
