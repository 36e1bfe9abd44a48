"""Choices among equivalent computations, by backend.

The choices for CPUs were measured on one (docs/performance.md), where XLA is slow at several
convolutions. Other backends use XLA's own operations.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True, kw_only=True)
class Choices:
    """How to compute what can be computed in several ways; results are equal up to rounding.

    Speeds are those of two CPU cores.

    Attributes:
        winograd: whether inference in float32 uses Winograd's algorithm for 3x3 convolutions. With
            `chunk`, ResNets are 1.2 to 1.8 times as fast.
        chunk: number of images that inference processes at a time, so that their activations fit
            the cache; None for the whole batch.
        pointwise_products: whether 1x1 convolutions are matrix products with their own gradient.
            XLA does not notice that they are: ResNet-50 trains half as fast.
        shifted_depthwise: whether depthwise convolutions are sums of shifted maps. XLA's take ten
            to thirty times as long.
        small_maps_as_products: whether ungrouped convolutions with a result smaller than their
            window are one matrix product. XLA's, or their gradients, take up to a hundred times as
            long: 2 x 2 maps of 512 channels.
        joined_groups: whether, at inference, convolutions in narrow groups are a few without
            groups, each of several groups with zeros between them. XLA's take up to seven times as
            long.
        means_as_products: whether the means of layer norm are matrix products. XLA computes what
            they are the means of again for each of its uses: a depthwise convolution before a
            layer norm takes five times as long.
        shifted_gradients: whether the gradients of large kernels and maps are matrix products of
            shifted maps. XLA's are convolutions whose window is the whole map.
        steps_per_call: number of training steps in one program, if the images are on the device.
            XLA's convolutions are up to twenty times as slow inside a loop.
        timed_grids: whether `training.grid` times runs in one program against runs one after
            another. Otherwise they run one after another: XLA's convolutions with several sets of
            weights are always slower.
        run_once: compiler options of programs that run once, such as initialisation. Random bits
            take far longer to optimise than to draw.
        gram_of_parts: whether the inner products of float32 features are sums of products of
            bfloat16 numbers, for matrix units; see `stats.gram_of_parts`.
        models_per_call: maximum number of models that one call of a program of `score_bank` scores.
            A CPU takes 1.4 times as long for four models at once as for one after another.
        calls_ahead: number of calls of `score_bank` under way while the models of the next one are
            read. Programs that run at once compete for the cores of a CPU.
        scoring_devices: whether `score_bank` uses all local devices: those of a CPU share its
            cores.
        scoring: compiler options of the programs of `score_bank`. XLA's fusion emitters for CPUs
            take a third of the time of the first call, and later calls are no faster with them.
        scoring_at_once: further options of programs that score several models at once. On a CPU
            with two cores, XLA's scheduler for concurrency has let such programs wait for ever
            (jaxlib 0.10.2).
        extraction_dtype: dtype in which networks extract features; None for the network's own.
            Matrix units compute in bfloat16 at their full rate; a CPU emulates it.
    """

    winograd: bool
    chunk: int | None
    pointwise_products: bool
    shifted_depthwise: bool
    small_maps_as_products: bool
    joined_groups: bool
    means_as_products: bool
    shifted_gradients: bool
    steps_per_call: int
    timed_grids: bool
    run_once: Mapping[str, Any]
    gram_of_parts: bool
    models_per_call: int
    calls_ahead: int
    scoring_devices: bool
    scoring: Mapping[str, Any]
    scoring_at_once: Mapping[str, Any]
    extraction_dtype: DTypeLike | None


CPU = Choices(
    winograd=True,
    chunk=8,
    pointwise_products=True,
    shifted_depthwise=True,
    small_maps_as_products=True,
    joined_groups=True,
    means_as_products=True,
    shifted_gradients=True,
    steps_per_call=1,
    timed_grids=False,
    run_once=MappingProxyType({"xla_backend_optimization_level": 0}),
    gram_of_parts=False,
    models_per_call=1,
    calls_ahead=0,
    scoring_devices=False,
    scoring=MappingProxyType({"xla_cpu_use_fusion_emitters": False}),
    scoring_at_once=MappingProxyType({"xla_cpu_enable_concurrency_optimized_scheduler": False}),
    extraction_dtype=None,
)
ACCELERATOR = Choices(
    winograd=False,
    chunk=None,
    pointwise_products=False,
    shifted_depthwise=False,
    small_maps_as_products=False,
    joined_groups=False,
    means_as_products=False,
    shifted_gradients=False,
    steps_per_call=10,
    timed_grids=True,
    run_once=MappingProxyType({}),
    gram_of_parts=True,
    models_per_call=128,
    calls_ahead=2,
    scoring_devices=True,
    scoring=MappingProxyType({}),
    scoring_at_once=MappingProxyType({}),
    extraction_dtype=jnp.bfloat16,
)


def for_backend(name: str) -> Choices:
    """Return the choices for a backend, such as "cpu", "gpu" or "tpu"."""
    return CPU if name == "cpu" else ACCELERATOR


_GIVEN: ContextVar[Choices | None] = ContextVar("choices", default=None)


def choices() -> Choices:
    """Return the choices for JAX's default backend, or those of `using`."""
    return _GIVEN.get() or for_backend(jax.default_backend())


@contextlib.contextmanager
def using(given: Choices) -> Iterator[None]:
    """Trace programs with other choices in this block."""
    token = _GIVEN.set(given)
    try:
        yield
    finally:
        _GIVEN.reset(token)


def counted() -> Choices:
    """Return the choices under which XLA counts operations: no form of them multiplies zeros."""
    return dataclasses.replace(choices(), joined_groups=False, small_maps_as_products=False)


def known(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the compiler options that this version of XLA has: they come and go."""
    return {name: value for name, value in options.items() if _is_known(name, value)}


@functools.cache
def _is_known(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True
