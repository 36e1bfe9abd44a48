"""Compiled programs that outlive a process."""

import os
import warnings


def cache_compilations() -> None:
    """Keep compiled programs on disk, so that a resumed run or another worker compiles nothing.

    They go to JAX_COMPILATION_CACHE_DIR, by default ~/.cache/jaxparc/compiled.
    """
    import jax

    folder = os.path.expanduser("~/.cache/jaxparc/compiled")
    # There may be no home, neither in the environment nor of the user.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ and folder[0] != "~":
        jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # A process that is killed while writing leaves a broken entry, which is compiled again.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
