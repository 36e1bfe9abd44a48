"""Every test runs on four CPU devices with JAX's implicit conversions turned off."""

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Compilation is most of the time that fast tests take. What one process compiled, the others and
# later runs read; a third goes with optimisations that a few calls of a program are not worth.
jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_configure(config):
    if hasattr(config, "cache"):  # pytest -p no:cacheprovider
        folder = config.cache.mkdir("compiled")
        jax.config.update("jax_compilation_cache_dir", str(folder))


@pytest.fixture(autouse=True)
def optimisations(request):
    """Compile as users do for tests that measure, or that run whole benchmarks."""
    as_users = {"optimised", "slow", "real"}
    if as_users.isdisjoint(mark.name for mark in request.node.iter_markers()):
        yield
        return
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
