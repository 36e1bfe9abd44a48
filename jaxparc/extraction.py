"""What any model sees in images: your own apply function in, features and probabilities out."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxparc import parallel
from jaxparc.errors import InputError


class Extracted(NamedTuple):
    """One model's features of n images, as `score_bank(features=...)` takes them.

    Attributes:
        features: (n, d) float32, the input of the model's last linear layer.
        probs: (n, z) float32, the softmax of its logits; None for a model that returns none.
        layers: number of layers, as the heuristic takes it; None if unknown.
        source_images: number of images that the model was trained on; None if unknown.
    """

    features: np.ndarray
    probs: np.ndarray | None = None
    layers: int | None = None
    source_images: int | None = None


def extract(
    apply_fn: Callable[..., Any],
    images: Any,
    variables: Any = None,
    *,
    batch_size: int = 64,
    jit: bool = True,
) -> Extracted:
    """Runs a model over images in batches, on all local devices.

    Args:
        apply_fn: of one batch of images, or of (variables, batch) if variables are given; returns
            features (b, d), or these and logits (b, z). Features are what enters the last linear
            layer. It must be in inference mode, and treat every image alone.
        images: (n, ...), as `apply_fn` takes them, preprocessed: an array, or anything that gives
            rows when it is sliced.
        variables: any pytree of arrays, placed on every device once. A function that closes over
            its weights works as well, and compiles them in.
        batch_size: of all devices together; rounded up to a multiple of their number. The last
            batch is filled up, and what was filled up is cut off again.
        jit: whether `apply_fn` is JAX. Otherwise, as of another framework, it gets NumPy batches.

    Returns:
        Features and, if there are logits, class probabilities: what `score_bank` takes.

    Raises:
        ValueError: there is no image, `apply_fn` is no function (such as a module in its place), or
            it returns something else; the message says what.
    """
    _require_function(apply_fn)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected at least 1")
    n = len(images)
    if n == 0:
        raise InputError("there is no image")
    devices = jax.local_device_count() if jit else 1
    size = -(-min(batch_size, n) // devices) * devices
    call = functools.partial(_call, apply_fn, variables is not None)
    if jit:
        step = parallel.data_parallel(functools.partial(_gathered, call), (0, None))
        placed = parallel.replicate({} if variables is None else variables)
    rows: list[tuple[np.ndarray, ...]] = []
    for start in range(0, n, size):
        batch = np.asarray(images[start : start + size])
        count = len(batch)
        # The last image again, rather than zeros: whatever the model does to them, it has done.
        batch = np.concatenate([batch, np.repeat(batch[-1:], size - count, axis=0)])
        if jit:
            found = step(parallel.shard({"images": batch})["images"], placed)
            outputs = tuple(np.asarray(o).reshape(size, -1)[:count] for o in found)
        else:
            outputs = tuple(np.asarray(o)[:count] for o in _outputs(call(batch, variables), size))
        rows.append(outputs)
    features, *logits = (
        np.concatenate(part).astype(np.float32) for part in zip(*rows, strict=True)
    )
    return Extracted(features, np.asarray(jax.nn.softmax(logits[0])) if logits else None)


def _require_function(apply_fn: Any) -> None:
    """Refuse a network where a function of images is expected."""
    owner = getattr(apply_fn, "__self__", apply_fn)  # of a method
    named = type(owner).__name__
    if isinstance(apply_fn, type):
        what, form = f"the class {apply_fn.__name__}", "a function, such as its network's .apply"
    elif any(parent.__module__.startswith("torch.nn") for parent in type(owner).__mro__):
        what = f"the torch module {named}"
        form = "a function of a NumPy batch that runs it and returns NumPy arrays, with jit=False"
    elif (
        callable(getattr(apply_fn, "init", None))
        and callable(getattr(apply_fn, "apply", None))
        and getattr(apply_fn, "scope", None) is None  # one that is bound knows its variables
    ):
        what, form = f"the module {named}", "its function, module.apply, and variables"
    elif not callable(apply_fn):
        what, form = f"a {named}", "a function of images, or of (variables, images)"
    else:
        return
    raise InputError(f"apply_fn is {what}; expected {form}")


def _call(apply_fn: Callable[..., Any], takes_variables: bool, images: Any, variables: Any) -> Any:
    return apply_fn(variables, images) if takes_variables else apply_fn(images)


def _gathered(call: Callable[..., Any], images: Array, variables: Any) -> tuple[Array, ...]:
    """All devices' outputs."""
    outputs = _outputs(call(images, variables), len(images))
    return tuple(jax.lax.all_gather(jnp.asarray(o), parallel.AXIS) for o in outputs)


def _outputs(found: Any, b: int) -> tuple[Any, ...]:
    """Features, or features and logits, if that is what it is."""
    outputs = found if isinstance(found, tuple | list) else (found,)
    shapes = [tuple(getattr(output, "shape", ())) for output in outputs]
    if not 1 <= len(shapes) <= 2 or any(len(s) != 2 or s[0] != b for s in shapes):
        told = ", ".join(map(str, shapes)) or "nothing"
        raise InputError(f"apply_fn returns {told}; expected features ({b}, d), or with logits")
    return tuple(outputs)
