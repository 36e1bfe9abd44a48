"""Persistent cache of compiled programs."""

import os
import warnings


def cache_compilations() -> None:
    """Cache compiled programs on disk, so that resumed runs and other workers need not recompile.

    The cache is in JAX_COMPILATION_CACHE_DIR, by default ~/.cache/jaxparc/compiled.
    """
    import jax

    folder = os.path.expanduser("~/.cache/jaxparc/compiled")
    # A user may have no home directory, in which case ~ is not expanded.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and folder[0] != "~":
        jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A process that is killed while writing leaves a broken entry, which is compiled again.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
