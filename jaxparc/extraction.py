"""Extract features and class probabilities of images with any model, given its apply function.

`compile_network` turns a network of `models` into an apply function.
"""

import collections
import functools
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import DTypeLike

from jaxparc import backend, parallel
from jaxparc.errors import InputError, is_out_of_memory

_IN_FLIGHT = 2  # batches: one to compute while the other is fetched; more would hold more images


class Extracted(NamedTuple):
    """One model's features of n images, as `score_bank(features=...)` takes them.

    Attributes:
        features: (n, d) float32, the input of the model's last linear layer.
        probs: (n, z) float32, the softmax of its logits; None if the model returns no logits.
        layers: number of layers, as the heuristic takes it; None if unknown.
        source_images: number of images that the model was trained on; None if unknown.
        activations: name -> (n, d) float32, of other layers; empty if the model returns none.
    """

    features: np.ndarray | Array
    probs: np.ndarray | Array | None = None
    layers: int | None = None
    source_images: int | None = None
    activations: Mapping[str, np.ndarray | Array] = types.MappingProxyType({})


def extract(
    apply_fn: Callable[..., Any],
    images: Any,
    variables: Any = None,
    *,
    batch_size: int = 64,
    jit: bool = True,
    as_numpy: bool = True,
    layers: int | None = None,
    source_images: int | None = None,
) -> Extracted:
    """Run a model over images in batches, on all local devices.

    If a device runs out of memory, batches are halved, down to one image per device.

    Args:
        apply_fn: function of one batch of images, or of (variables, batch) if variables are given;
            returns features (b, d), or features and logits (b, z), and may return last a mapping
            from names of other layers to their activations (b, d). Features are the input of the
            last linear layer. The model must be in inference mode and treat images independently.
        images: (n, ...), preprocessed as `apply_fn` expects: an array, or anything that returns
            rows when sliced. It is sliced in another thread, one batch ahead.
        variables: any pytree of arrays, placed on every device once. A function that closes over
            its weights works as well, but compiles them in as constants.
        batch_size: images per batch, over all devices; rounded up to a multiple of their number.
            The last batch is padded, and the padding is removed again.
        jit: whether to compile `apply_fn` for all devices. Pass False for a function that is not
            JAX or is already compiled; it then receives NumPy batches.
        as_numpy: whether to copy the results to the host. With False they are `jax.Array`s on the
            first local device, whichever devices computed them, and are never copied to the host.
        layers: number of layers of the model, stored in the result.
        source_images: number of images that the model was trained on, stored in the result.

    Returns:
        Features, class probabilities if `apply_fn` returns logits, and its activations.

    Raises:
        InputError: there are no images, batch_size is below 1, `apply_fn` is not a function (but a
            module, say), or it returns anything other than features or features and logits.
        jax.errors.JaxRuntimeError: a device is out of memory with one image per device.

    Warns:
        UserWarning: batches were halved; the message gives their size.
    """
    _require_function(apply_fn)
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; expected at least 1")
    n = len(images)
    if n == 0:
        raise InputError("images are empty; expected at least 1")
    call = functools.partial(_call, apply_fn, variables is not None)
    run = _on_all_devices(call, variables) if jit else functools.partial(_on_host, call, variables)
    devices = jax.local_device_count()
    asked = size = -(-min(batch_size, n) // devices) * devices
    parts: list[_Outputs] = []
    start = 0
    while start < n:
        try:
            for outputs in _outputs_of(run, images, start, size, as_numpy=as_numpy):
                parts.append(outputs)
                start += size
        except Exception as error:
            if size == devices or not is_out_of_memory(error):
                raise
            size = size // 2 // devices * devices or devices
    if size < asked:
        warnings.warn(
            f"extract: out of memory with batches of {asked} images; {size} images worked",
            stacklevel=2,
        )
    found = {key: _joined([part[key] for part in parts], n) for key in parts[0]}
    features, logits = found.pop(FEATURES), found.pop(LOGITS, None)
    probs: np.ndarray | Array | None = None if logits is None else jax.nn.softmax(logits)
    if as_numpy and probs is not None:
        probs = np.asarray(probs)
    activations = {key[0]: array for key, array in found.items() if isinstance(key, tuple)}
    return Extracted(features, probs, layers, source_images, activations)


def compile_network(
    module: Any,
    variables: Mapping[str, Any],
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dtype: DTypeLike | None = None,
    activations: bool = False,
) -> Callable[[np.ndarray], tuple[Any, ...]]:
    """Return a network as an apply function for `extract(..., jit=False)`, on all local devices.

    Networks of one architecture share one compiled program.

    Args:
        module: a network of `models`.
        variables: its weights.
        mean: mean of each channel, for images in [0, 1].
        std: standard deviation of each channel, for images in [0, 1].
        dtype: dtype of the computation; by default `backend.Choices.extraction_dtype`: the
            network's own on a CPU, and bfloat16 elsewhere.
        activations: whether to return those of the named stages as well, averaged over positions.

    Returns:
        A function of (b, h, w, 3) uint8, b a multiple of the number of devices. It returns features
        (b, d), logits (b, z) if the network has a head, and a mapping from stages to activations
        (b, d) if requested, float32, on the first local device. It returns before they are
        computed.
    """
    from jaxparc.models import inference  # needs flax

    if dtype is None:
        dtype = backend.choices().extraction_dtype
    module = module.clone(**{} if dtype is None else {"dtype": dtype}, axis_name=parallel.AXIS)
    prepared = parallel.replicate(inference.prepare(module, variables))
    step = _compiled_network(module, mean, std, activations)

    def apply_fn(images: np.ndarray) -> tuple[Any, ...]:
        return _on_first_device(step(prepared, parallel.shard({"image": images})["image"]))

    return apply_fn


@functools.lru_cache(maxsize=32)
def _compiled_network(
    module: Any, mean: tuple[float, ...], std: tuple[float, ...], activations: bool
) -> Callable[..., tuple[Any, ...]]:
    from jaxparc.models import inference, layers

    def network(variables: Any, images: Array) -> tuple[Any, ...]:
        normalised = layers.normalise(images, mean, std)
        features, logits, *stages = inference.apply(
            module, variables, normalised, activations=activations
        )
        return _gathered((features, *([logits] if logits.shape[1] else []), *stages))

    return parallel.data_parallel(network, (None, 0))


def compile_function(apply_fn: Callable[..., Any], variables: Any) -> Callable[..., Any]:
    """Return a JAX function as an apply function for `extract(..., jit=False)`.

    Args:
        apply_fn: function of (variables, batch), as `extract` takes it.
        variables: any pytree of arrays, placed on every device.

    Returns:
        A function of a batch (b, ...), b a multiple of the number of devices, that returns features
        (b, d), or features and logits (b, z), on the first local device.
    """
    _require_function(apply_fn)
    run = _on_all_devices(functools.partial(_call, apply_fn, True), variables)

    def compiled(batch: np.ndarray) -> tuple[Any, ...]:
        found = run(batch)
        others = {key[0]: x for key, x in found.items() if isinstance(key, tuple)}
        outputs = [found[key] for key in (FEATURES, LOGITS) if key in found]
        return (*outputs, others) if others else tuple(outputs)

    return compiled


def _read_ahead(images: Any, first: int, size: int) -> Iterator[np.ndarray]:
    """Slice images into batches, reading or decoding the next one while the model runs."""
    n = len(images)
    with futures.ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(_slice, images, first, size)
        for start in range(first + size, n + size, size):
            batch = ahead.result()
            if len(batch) != (expected := min(start, n) - (start - size)):
                raise InputError(
                    f"images {start - size} to {min(start, n) - 1}: a slice has {len(batch)} rows; "
                    f"expected {expected}"
                )
            if start < n:
                ahead = reader.submit(_slice, images, start, size)
            yield batch


def _slice(images: Any, start: int, size: int) -> np.ndarray:
    return np.asarray(images[start : start + size])


def _require_function(apply_fn: Any) -> None:
    """Check that `apply_fn` is a function of images, and not a network.

    Raises:
        InputError: it is not.
    """
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


def _on_all_devices(call: Callable[..., Any], variables: Any) -> Callable[[np.ndarray], "_Outputs"]:
    """Return a function of a batch that runs `call`, compiled, on all devices."""

    def share(images: Array, variables: Any) -> _Outputs:
        return _gathered(_outputs(call(images, variables), len(images)))

    step = parallel.data_parallel(share, (0, None))
    placed = parallel.replicate({} if variables is None else variables)

    def run(batch: np.ndarray) -> _Outputs:
        return _on_first_device(step(parallel.shard({"images": batch})["images"], placed))

    return run


def _on_host(call: Callable[..., Any], variables: Any, batch: np.ndarray) -> "_Outputs":
    return _outputs(call(batch, variables), len(batch))


def _gathered(outputs: Any) -> Any:
    """Return the rows of all devices, on each device, of all arrays of a pytree."""
    return jax.tree.map(
        lambda x: jax.lax.all_gather(jnp.asarray(x), parallel.AXIS, tiled=True), outputs
    )


def _on_first_device(outputs: Any) -> Any:
    """Return the first local device's copy of replicated arrays, without waiting for it."""
    return jax.tree.map(lambda output: output.addressable_data(0), outputs)


def _outputs_of(
    run: Callable[[np.ndarray], "_Outputs"],
    images: Any,
    start: int,
    size: int,
    *,
    as_numpy: bool,
) -> Iterator["_Outputs"]:
    """Run a model over the images from `start` on, and yield the outputs of each batch.

    Outputs are yielded once they are computed, after the next batch has been dispatched. An error
    of a device belongs to the first batch that was not yielded.
    """
    fetch = _fetched if as_numpy else _computed
    ahead: collections.deque[_Outputs] = collections.deque()
    for batch in _read_ahead(images, start, size):
        # Padded with the last image rather than zeros, which may be invalid input for the model.
        padding = np.repeat(batch[-1:], size - len(batch), axis=0)
        ahead.append(run(np.concatenate([batch, padding])))
        if len(ahead) == _IN_FLIGHT:
            yield fetch(ahead.popleft())
    while ahead:
        yield fetch(ahead.popleft())


def _fetched(outputs: "_Outputs") -> "_Outputs":
    return collections.OrderedDict((key, np.asarray(output)) for key, output in outputs.items())


def _computed(outputs: "_Outputs") -> "_Outputs":
    """Wait for arrays on devices, and place others there."""
    arrays = collections.OrderedDict(
        (key, output if isinstance(output, Array) else np.asarray(output))
        for key, output in outputs.items()
    )
    found: _Outputs = jax.block_until_ready(jax.device_put(arrays, jax.local_devices()[0]))
    return found


def _joined(parts: Sequence[Any], n: int) -> Any:
    """Return n rows, without the padding of the last batch, as float32."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)[:n].astype(np.float32)
    return jnp.concatenate(parts)[:n].astype(jnp.float32)


# What a model returns: `FEATURES`, `LOGITS` if there are any, and (name,) of other layers.
_Key = str | tuple[str]
# A compiled function would return a dict in the order of its sorted keys.
_Outputs = collections.OrderedDict[_Key, Any]
FEATURES, LOGITS = "features", "logits"


def _outputs(found: Any, b: int) -> _Outputs:
    """Return what a model returned for b images, by name.

    Raises:
        InputError: it is not features, or features and logits, with or without activations.
    """
    outputs = [*found] if isinstance(found, tuple | list) else [found]
    others = outputs.pop() if len(outputs) > 1 and isinstance(outputs[-1], Mapping) else {}
    named: _Outputs = collections.OrderedDict(zip((FEATURES, LOGITS), outputs, strict=False))
    named.update({(str(name),): array for name, array in others.items()})
    shapes = [tuple(getattr(output, "shape", ())) for output in (*outputs, *others.values())]
    if not 1 <= len(outputs) <= 2 or any(len(s) != 2 or s[0] != b for s in shapes):
        returned = ", ".join(map(str, shapes)) or "nothing"
        raise InputError(f"apply_fn returns {returned}; expected features ({b}, d), or with logits")
    return named
