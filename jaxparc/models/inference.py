"""Fast inference: the same function of images, with variables that are prepared once.

Batch norm is folded into the convolution before it (Jacob et al. 2018, section 3.2, eq. 14); where
there is none, it becomes a scale and a shift. Where `backend.Choices` says so, as on a CPU, 3x3
convolutions of stride 1 use Winograd's F(2x2, 3x3), with 16 multiplications where the direct form
has 36 (Lavin and Gray 2016, section 4.1), and a batch is processed in chunks whose activations fit
the cache.
"""

import collections
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array, lax
from jax.ad_checkpoint import checkpoint_name

from jaxparc import backend
from jaxparc.models import convolutions
from jaxparc.models.layers import BatchNorm

Variables = Mapping[str, Any]
Path = tuple[str, ...]

_MIN_CHANNELS = 48  # with fewer, the direct form is as fast, and compiles faster
_SIDE = 64  # pixels of the image that is traced: enough for every network


class _Plan(NamedTuple):
    """Which layers of a network can be prepared.

    Attributes:
      norms: for each batch norm, its path, its eps, and the path of the convolution whose output it
        alone takes, None if there is no such convolution.
      winograd: the paths of convolutions that Winograd's algorithm can compute.
    """

    norms: tuple[tuple[Path, float, Path | None], ...]
    winograd: tuple[Path, ...]


def prepare(module: nn.Module, variables: Variables, winograd: bool | None = None) -> Variables:
    """Return the variables that `apply` takes.

    Args:
      module: one of the networks.
      variables: what its `apply` takes.
      winograd: whether convolutions use Winograd's algorithm; by default, if `backend.choices` says
        so and the network computes in float32.

    Returns:
      "params", with folded convolutions and without batch norm; "folded", the shifts of batch norm,
      and its scales where they are not folded; and "winograd", transformed kernels (4, 4, c, c') in
      place of those in "params".
    """
    if winograd is None:
        winograd = backend.choices().winograd and jnp.dtype(module.dtype) == jnp.float32
    return _prepare(module, variables, winograd)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _prepare(module: nn.Module, variables: Variables, winograd: bool) -> Variables:
    plan = _plan(module, variables)
    params = traverse_util.flatten_dict(variables["params"])
    statistics = traverse_util.flatten_dict(variables.get("batch_stats", {}))
    folded, transformed = {}, {}
    for norm, eps, conv in plan.norms:
        scale = params.pop((*norm, "scale")) * lax.rsqrt(statistics[(*norm, "var")] + eps)
        folded[(*norm, "bias")] = params.pop((*norm, "bias")) - statistics[(*norm, "mean")] * scale
        if conv is None:
            folded[(*norm, "scale")] = scale
            continue
        params[(*conv, "kernel")] *= scale
        if (*conv, "bias") in params:
            params[(*conv, "bias")] *= scale
    for conv in plan.winograd if winograd else ():
        transformed[(*conv, "kernel")] = _winograd_kernel(params.pop((*conv, "kernel")))
    collections = {"params": params, "folded": folded, "winograd": transformed}
    return {name: traverse_util.unflatten_dict(flat) for name, flat in collections.items()}


def apply(
    module: nn.Module, variables: Variables, images: Array, *, activations: bool = False
) -> tuple[Any, ...]:
    """Apply a network in inference mode.

    Args:
      module: one of the networks.
      variables: what `prepare` returned.
      images: (b, h, w, 3) float, normalised.
      activations: whether to return those of the named stages as well.

    Returns:
      Penultimate features (b, d), logits (b, c) and, if requested, stage -> activations (b, d'),
      averaged over positions; float32; equal to those of `module.apply` up to rounding.
    """

    def whole(images: Array) -> tuple[Any, ...]:
        with nn.intercept_methods(_call_prepared), convolutions.at_inference():
            applied: Any = module.apply(variables, images)
        logits, stages = applied
        features = stages.pop("features")
        pooled = (_pooled(stages),) if activations else ()
        return features, logits, *pooled

    b, chunk = len(images), backend.choices().chunk
    if chunk is None or b % chunk or b == chunk:
        return whole(images)
    outputs = lax.map(whole, images.reshape(-1, chunk, *images.shape[1:]))
    return jax.tree.map(lambda rows: rows.reshape(b, -1), outputs)


def _pooled(stages: Mapping[str, Array]) -> Mapping[str, Array]:
    """Return the means of (b, ..., d) over all positions, (b, d) float32, in the same order."""
    # A compiled function would return a dict sorted by name.
    return collections.OrderedDict(
        (name, x.mean(axis=tuple(range(1, x.ndim - 1)), dtype=jnp.float32))
        for name, x in stages.items()
    )


def _plan(module: nn.Module, variables: Variables) -> _Plan:
    """Trace an image through the network, to find which batch norm follows which convolution."""
    convolutions: dict[str, Path] = {}
    norms: dict[str, tuple[Path, float]] = {}
    winograd: list[Path] = []

    def trace(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        layer = context.module
        name = "/".join(layer.path)
        if isinstance(layer, BatchNorm):
            norms[name] = layer.path, layer.eps
            return call(checkpoint_name(args[0], name), *args[1:], **kwargs)
        output = call(*args, **kwargs)
        if isinstance(layer, nn.Conv):
            convolutions[name] = layer.path
            if _has_winograd(layer, args[0].shape[-1]):
                winograd.append(layer.path)
            return checkpoint_name(output, name)
        return output

    image = jax.ShapeDtypeStruct((1, _SIDE, _SIDE, 3), jnp.float32)
    with nn.intercept_methods(trace):
        jaxpr = jax.make_jaxpr(module.apply)(variables, image).jaxpr

    # The names that were given to arrays are operations of their own in the traced program.
    uses = Counter(map(id, jaxpr.outvars))
    convolved: dict[int, Path] = {}  # by the id of a variable
    inputs: dict[str, int] = {}  # of batch norms, likewise
    for equation in jaxpr.eqns:
        uses.update(id(variable) for variable in equation.invars)
        name = equation.params.get("name") if equation.primitive.name == "name" else None
        if name in convolutions:
            convolved[id(equation.outvars[0])] = convolutions[name]
        elif name in norms:
            inputs[name] = id(equation.invars[0])
    return _Plan(
        tuple(
            (path, eps, convolved.get(inputs[name]) if uses[inputs[name]] == 1 else None)
            for name, (path, eps) in norms.items()
        ),
        tuple(winograd),
    )


def _has_winograd(layer: nn.Conv, channels: int) -> bool:
    return (
        (layer.kernel_size, layer.strides, layer.padding) == ((3, 3), 1, 1)
        and layer.feature_group_count == 1
        and min(channels, layer.features) >= _MIN_CHANNELS
    )


def _call_prepared(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Call a layer with prepared variables."""
    layer = context.module
    if isinstance(layer, BatchNorm):
        y = args[0].astype(jnp.float32)
        if layer.has_variable("folded", "scale"):
            y = y * layer.get_variable("folded", "scale")
        return (y + layer.get_variable("folded", "bias")).astype(layer.dtype)
    if isinstance(layer, nn.Conv) and layer.has_variable("winograd", "kernel"):
        y = _winograd(args[0], layer.get_variable("winograd", "kernel"))
        return y + layer.get_variable("params", "bias") if layer.use_bias else y
    return call(*args, **kwargs)


# Lavin and Gray's B, G and A of F(2x2, 3x3), section 4.1.
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)


def _winograd_kernel(kernel: Array) -> Array:
    """Return G g G^T, (4, 4, c, c'), of kernels g (3, 3, c, c')."""
    return jnp.einsum("ai,ijcd,bj->abcd", _G, kernel, _G, precision=lax.Precision.HIGHEST)


def _winograd(x: Array, kernel: Array) -> Array:
    """Convolve by 3x3 kernels with stride 1 and padding 1, as products of transformed tiles.

    Args:
      x: (b, h, w, c).
      kernel: (4, 4, c, c'), from `_winograd_kernel`.

    Returns:
      (b, h, w, c').
    """
    b, h, w, c = x.shape
    rows, columns = -(-h // 2), -(-w // 2)  # of tiles with 2x2 outputs and 4x4 inputs
    padded = jnp.pad(x, ((0, 0), (1, 1 + 2 * rows - h), (1, 1 + 2 * columns - w), (0, 0)))
    down = _into_tiles([padded[:, i : i + 2 * rows - 1 : 2] for i in range(4)])
    both = [_into_tiles([d[:, :, j : j + 2 * columns - 1 : 2] for j in range(4)]) for d in down]
    tiles = jnp.stack([tile for row in both for tile in row]).reshape(16, -1, c)
    products = jnp.einsum("kic,kcd->kid", tiles, kernel.reshape(16, c, -1))
    products = products.reshape(4, 4, b, rows, columns, -1)
    across = [
        jnp.stack(_out_of_tiles([line[j] for j in range(4)]), axis=3).reshape(
            b, rows, 2 * columns, -1
        )
        for line in _out_of_tiles([products[i] for i in range(4)])
    ]
    return jnp.stack(across, axis=2).reshape(b, 2 * rows, 2 * columns, -1)[:, :h, :w]


def _into_tiles(lines: Sequence[Array]) -> tuple[Array, ...]:
    """Return B^T d along one axis."""
    a, b, c, d = lines
    return a - c, b + c, c - b, b - d


def _out_of_tiles(lines: Sequence[Array]) -> tuple[Array, ...]:
    """Return A^T m along one axis."""
    a, b, c, d = lines
    return a + b + c, b - c - d
