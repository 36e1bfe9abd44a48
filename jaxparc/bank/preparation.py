"""Bring the features of a model into the range that float32 can score, and find their flaws.

Features of a dtype that float32 can hold are examined in the program that scores them, so that
arrays on a device stay there. float64 features are examined on the host and rounded.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc.errors import InputError

# Features whose largest magnitude lies between these powers of two are scored unchanged. Others are
# first divided by a power of two, so that squares and sums of squares stay within float32.
LARGEST = -20, 40
# float32 is too coarse for a column whose range is below SMALLEST times the largest feature, and
# for a column that was rounded to float32 and whose magnitude exceeds OFFSET times its range.
SMALLEST = 2.0**-80
OFFSET = 1024.0

# Flaws of features, for which no score is defined.
NOT_FINITE = "features are not finite"
CONSTANT = "features are the same for every image"


class Prepared(NamedTuple):
    """Features ready to be scored.

    Attributes:
        features: (n, d), of a dtype that float32 can hold; `original` divided by 2**exponent.
        original: (n, d), as passed by the caller.
        exponent: the power of two that the features were divided by; 0 if they were not scaled.
        rounded: whether `features` have fewer digits than `original`.
        coarse: whether float32 cannot represent the differences between images.
        flaw: why no score is defined on these features; None if nothing is wrong.
        examined: whether the other attributes are known; if not, `examine` finds the same facts.
    """

    features: np.ndarray | Array
    original: np.ndarray | Array
    exponent: int = 0
    rounded: bool = False
    coarse: bool = False
    flaw: str | None = None
    examined: bool = True

    def float64(self) -> np.ndarray:
        """Return the features in float64, (n, d), divided by the same power of two."""
        return np.ldexp(np.asarray(self.original).astype(np.float64), -self.exponent)


class _Examined(NamedTuple):
    """Facts about the columns of features, () bool, and the power of two to divide by, () int."""

    finite: Any
    constant: Any
    exponent: Any
    small: Any  # the range of a column is below SMALLEST times the largest feature
    offset: Any  # the magnitude of a column exceeds OFFSET times its range


def read(owner: str, array: Any, *, copy: bool = False) -> Prepared:
    """Read the features of a model; arrays on a device stay there.

    Args:
        owner: what the features belong to, for error messages.
        array: (n, d) real numbers.
        copy: whether to copy them unless they are on a device.

    Returns:
        float64 features as `prepare` returns them; others unchanged and unexamined, which
        `examine` does in the program that scores them.

    Raises:
        InputError: `array` does not hold real numbers.
    """
    x = _real(owner, array)
    if copy and isinstance(x, np.ndarray):
        x = x.copy()
    return prepare(owner, x) if x.dtype == np.float64 else Prepared(x, x, examined=False)


def prepare(owner: str, array: Any) -> Prepared:
    """Examine features on the host, and convert them to the form that is scored.

    Args:
        owner: what the features belong to, for error messages.
        array: (n, d) real numbers.

    Returns:
        The features, as float32.

    Raises:
        InputError: `array` does not hold real numbers.
    """
    x = np.asarray(_real(owner, array))
    if x.dtype != np.float64:
        x = x.astype(np.float32, copy=False)
    with np.errstate(invalid="ignore"):  # NaN
        highest, lowest = (edge.astype(np.float64) for edge in (x.max(axis=0), x.min(axis=0)))
        found = _examined(highest, lowest, np)
    if not found.finite or found.constant:
        flaw = CONSTANT if found.finite else NOT_FINITE
        return Prepared(np.zeros(x.shape, np.float32), x, flaw=flaw)
    exponent = int(found.exponent)
    scaled = np.ldexp(x, -exponent) if exponent else x
    with np.errstate(under="ignore"):
        features = scaled.astype(np.float32, copy=False)
    rounded = x.dtype == np.float64 and not np.array_equal(features, scaled)
    coarse = bool(found.small) or (rounded and bool(found.offset))
    return Prepared(features, x, exponent, rounded, coarse)


def examine(x: Array) -> tuple[Array, Array, Array]:
    """Examine features in a program, as `prepare` does on the host.

    Args:
        x: (n, d), of a dtype that float32 can hold.

    Returns:
        (n, d) float32, the features divided by a power of two, or zeros if they have a flaw; the
        power of two, () float32; and (3,) bool: whether they are not finite, whether they are the
        same for every image, and whether float32 cannot represent the differences between images.
    """
    x = x.astype(jnp.float32)
    found = _examined(jnp.max(x, axis=0), jnp.min(x, axis=0), jnp)
    # On a CPU the largest and the smallest of values may leave NaN out.
    finite = jnp.all(jnp.isfinite(x))
    # By their bits: the arithmetic of some devices takes subnormal numbers for zero.
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & np.uint32(0x7FFFFFFF)
    subnormal = jnp.any((bits > 0) & (bits < np.uint32(0x00800000)))
    constant = found.constant & ~subnormal
    flawed = ~finite | constant
    # In two factors, each of which is a normal number.
    half = found.exponent // 2
    one = jnp.float32(1)
    x = x * jnp.ldexp(one, -half) * jnp.ldexp(one, half - found.exponent)
    flags = jnp.stack([~finite, finite & constant, found.small | subnormal])
    return jnp.where(flawed, 0.0, x), jnp.ldexp(one, found.exponent), flags


# Greatest distance of the sum of an image's probabilities from 1.
SUMS = np.float32(1e-2)


def normalise(probs: Array) -> tuple[Array, Array]:
    """Divide the class probabilities of each image by their sum.

    Args:
        probs: (n, z).

    Returns:
        (n, z) float32, and () bool: whether some are negative or NaN, or a sum is too far from 1.
    """
    probs = probs.astype(jnp.float32)
    sums = jnp.sum(probs, axis=1, keepdims=True)
    proper = (jnp.min(probs) >= 0) & jnp.all(jnp.abs(sums - 1) <= SUMS)
    return probs / sums, ~proper


def _examined(highest: Any, lowest: Any, xp: Any) -> _Examined:
    """Examine the largest and the smallest value of each column, (d,), with NumPy or jax.numpy."""
    largest = xp.maximum(abs(highest), abs(lowest))
    exponent = xp.frexp(xp.max(largest))[1]
    exponent = xp.where((LARGEST[0] < exponent) & (exponent <= LARGEST[1]), 0, exponent)
    largest = xp.ldexp(largest, -exponent)
    spread = xp.ldexp(highest, -exponent) - xp.ldexp(lowest, -exponent)
    varies = spread > 0
    return _Examined(
        xp.all(xp.isfinite(highest) & xp.isfinite(lowest)),
        xp.all(highest == lowest),
        exponent,
        xp.any(varies & (spread < SMALLEST * xp.max(largest))),
        xp.any(varies & (largest > OFFSET * spread)),
    )


_NARROW = frozenset(
    map(jnp.dtype, ("float32", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "bool"))
)


def _real(owner: str, array: Any) -> np.ndarray | Array:
    """Return numbers unchanged if float32 can hold their dtype, else as float32 or float64."""
    if isinstance(array, np.ma.MaskedArray):
        array = np.ma.filled(array.astype(np.float64), np.nan)
    if isinstance(array, Array) and array.dtype in _NARROW:
        return array
    try:
        x = np.asarray(array)
        if x.dtype.kind not in "biufOV" or x.dtype.names is not None:
            raise TypeError(f"their dtype is {x.dtype}")
        if x.dtype in _NARROW and x.dtype.isnative:
            return x
        narrow = x.dtype.kind != "O" and x.dtype.itemsize <= (2 if x.dtype.kind in "biu" else 4)
        with np.errstate(over="ignore"):  # of a type wider than float64
            return x.astype(np.float32 if narrow else np.float64, copy=False)
    except (TypeError, ValueError, RuntimeError) as error:  # a torch tensor with a gradient
        message = (
            f"{owner}: features cannot be read as real numbers: {' '.join(str(error).split())}"
        )
        raise InputError(message) from error
