"""Extract features and class probabilities of images with any model, given its apply function.

`compile_network` turns a network of `models` into an apply function.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from jaxparc import backend, parallel
from jaxparc.errors import InputError


class Extracted(NamedTuple):
    """One model's features of n images, as `score_bank(features=...)` takes them.

    Attributes:
        features: (n, d) float32, the input of the model's last linear layer.
        probs: (n, z) float32, the softmax of its logits; None if the model returns no logits.
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
    layers: int | None = None,
    source_images: int | None = None,
) -> Extracted:
    """Run a model over images in batches, on all local devices.

    Args:
        apply_fn: function of one batch of images, or of (variables, batch) if variables are given;
            returns features (b, d), or features and logits (b, z). Features are the input of the
            last linear layer. The model must be in inference mode and treat images independently.
        images: (n, ...), preprocessed as `apply_fn` expects: an array, or anything that returns
            rows when sliced. It is sliced in another thread, one batch ahead.
        variables: any pytree of arrays, placed on every device once. A function that closes over
            its weights works as well, but compiles them in as constants.
        batch_size: images per batch, over all devices; rounded up to a multiple of their number.
            The last batch is padded, and the padding is removed again.
        jit: whether to compile `apply_fn` for all devices. Pass False for a function that is not
            JAX or is already compiled; it then receives NumPy batches.
        layers: number of layers of the model, stored in the result.
        source_images: number of images that the model was trained on, stored in the result.

    Returns:
        Features and, if `apply_fn` returns logits, class probabilities.

    Raises:
        InputError: there are no images, batch_size is below 1, `apply_fn` is not a function (but a
            module, say), or it returns anything other than features or features and logits.
    """
    _require_function(apply_fn)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected at least 1")
    n = len(images)
    if n == 0:
        raise InputError("images are empty; expected at least 1")
    devices = jax.local_device_count()
    size = -(-min(batch_size, n) // devices) * devices
    call = functools.partial(_call, apply_fn, variables is not None)
    if jit:
        step = parallel.data_parallel(functools.partial(_gathered, call), (0, None))
        placed = parallel.replicate({} if variables is None else variables)
    rows: list[tuple[np.ndarray, ...]] = []
    for batch in _read_ahead(images, n, size):
        count = len(batch)
        # Padded with the last image rather than zeros, which may be invalid input for the model.
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
    probs = np.asarray(jax.nn.softmax(logits[0])) if logits else None
    return Extracted(features, probs, layers, source_images)


def compile_network(
    module: Any,
    variables: Mapping[str, Any],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: DTypeLike | None = None,
) -> Callable[[np.ndarray], tuple[np.ndarray, ...]]:
    """Return a network as an apply function for `extract(..., jit=False)`, on all local devices.

    Networks of one architecture share one compiled program.

    Args:
        module: a network of `models`.
        variables: its weights.
        mean: mean of each channel, for images in [0, 1].
        std: standard deviation of each channel, for images in [0, 1].
        dtype: dtype of the computation; by default `backend.Choices.extraction_dtype`: the
            network's own on a CPU, and bfloat16 elsewhere.

    Returns:
        A function of (b, h, w, 3) uint8, b a multiple of the number of devices. It returns features
        (b, d) and, if the network has a head, logits (b, z), float32.
    """
    from jaxparc.models import inference  # needs flax

    if dtype is None:
        dtype = backend.choices().extraction_dtype
    module = module.clone(**{} if dtype is None else {"dtype": dtype}, axis_name=parallel.AXIS)
    prepared = parallel.replicate(inference.prepare(module, variables))
    step = _compiled_network(module, mean, std)

    def apply_fn(images: np.ndarray) -> tuple[np.ndarray, ...]:
        found = step(prepared, parallel.shard({"image": images})["image"])
        return tuple(np.asarray(output).reshape(len(images), -1) for output in found)

    return apply_fn


@functools.lru_cache(maxsize=32)
def _compiled_network(
    module: Any, mean: tuple[float, ...], std: tuple[float, ...]
) -> Callable[..., tuple[Array, ...]]:
    from jaxparc.models import inference, layers

    def network(variables: Any, images: Array) -> tuple[Array, ...]:
        found = inference.apply(module, variables, layers.normalise(images, mean, std))
        features, logits = found
        outputs = (features, logits) if logits.shape[1] else (features,)
        return tuple(jax.lax.all_gather(output, parallel.AXIS) for output in outputs)

    return parallel.data_parallel(network, (None, 0))


def _read_ahead(images: Any, n: int, size: int) -> Iterator[np.ndarray]:
    """Slice images into batches, reading or decoding the next one while the model runs."""
    with futures.ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(_slice, images, 0, size)
        for start in range(size, n + size, size):
            batch = ahead.result()
            if start < n:
                ahead = reader.submit(_slice, images, start, size)
            yield batch


def _slice(images: Any, start: int, size: int) -> np.ndarray:
    return np.asarray(images[start : start + size])


def _require_function(apply_fn: Any) -> None:
    """Refuse a network where a function of images is expected."""
    owner = getattr(apply_fn, "__self__", apply_fn)  # the object of a bound method
    named = type(owner).__name__
    if isinstance(apply_fn, type):
        what, form = f"the class {apply_fn.__name__}", "a function, such as its network's .apply"
    elif any(parent.__module__.startswith("torch.nn") for parent in type(owner).__mro__):
        what = f"the torch module {named}"
        form = "a function of a NumPy batch that runs it and returns NumPy arrays, with jit=False"
    elif (
        callable(getattr(apply_fn, "init", None))
        and callable(getattr(apply_fn, "apply", None))
        and getattr(apply_fn, "scope", None) is None  # a bound module has its variables
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
    """Return the outputs of all devices, on each device."""
    outputs = _outputs(call(images, variables), len(images))
    return tuple(jax.lax.all_gather(jnp.asarray(o), parallel.AXIS) for o in outputs)


def _outputs(found: Any, b: int) -> tuple[Any, ...]:
    """Return features, or features and logits, as a tuple; refuse anything else."""
    outputs = found if isinstance(found, tuple | list) else (found,)
    shapes = [tuple(getattr(output, "shape", ())) for output in outputs]
    if not 1 <= len(shapes) <= 2 or any(len(s) != 2 or s[0] != b for s in shapes):
        returned = ", ".join(map(str, shapes)) or "nothing"
        raise InputError(f"apply_fn returns {returned}; expected features ({b}, d), or with logits")
    return tuple(outputs)
