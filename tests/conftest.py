"""Every test runs on four CPU devices with JAX's implicit conversions turned off.

With JAXPARC_TEST_PLATFORM=cuda, say, tests run on the devices of that platform instead.
"""

import functools
import gc
import hashlib
import mmap
import os
import pickle
import signal
from pathlib import Path

# Several processes run tests: with threads of their own, SciPy and scikit-learn would wait for one
# another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jaxlib
import numpy as np
import pytest

from jaxparc import files
from jaxparc.commands import parser

try:
    from jaxparc.weights import torchvision
except ModuleNotFoundError:  # tests of what needs no more than the base install run without flax
    torchvision = None

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As for a job in the background of a script: processes that tests interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

PLATFORM = os.environ.get("JAXPARC_TEST_PLATFORM", "cpu")
# The CPU remains: scores that need float64 are computed there.
jax.config.update("jax_platforms", "cpu" if PLATFORM == "cpu" else f"{PLATFORM},cpu")
if hasattr(jax.config, "jax_num_cpu_devices"):
    jax.config.update("jax_num_cpu_devices", 4)
else:  # JAX before 0.5
    FOUR_DEVICES = "--xla_force_host_platform_device_count=4"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FOUR_DEVICES}"
if PLATFORM != "cpu":
    # Several processes share an accelerator, none of which may take most of its memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # Tests compare float32 with float64, and a training with its repetition bit by bit; by default
    # products of float32 have the digits of bfloat16, and sums the order that is fastest.
    jax.config.update("jax_default_matmul_precision", "highest")
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true"
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Compilation is most of the time that fast tests take. What one process compiled, the others and
# later runs read; two thirds go with optimisations that a few calls of a program are not worth.
NO_FUSION_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_configure(config):
    if hasattr(config, "cache"):  # pytest -p no:cacheprovider
        folder = config.cache.mkdir("compiled")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        # For other processes, which would write to the user's.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
        if torchvision is not None:
            torchvision.variable_shapes = kept_shapes(config.cache.mkdir("shapes"))
    # Commands in this process would keep every small program, too.
    parser.cache_compilations = lambda: None
    if PLATFORM == "cpu":
        jax.config.update("jax_disable_most_optimizations", True)
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # for other processes
        if is_flag(NO_FUSION_EMITTERS):
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {NO_FUSION_EMITTERS}"


def kept_shapes(folder):
    """`torchvision.variable_shapes`, with what any process has traced kept in a folder.

    Tracing takes up to a second for each of a hundred networks, in several tests.
    """
    trace = torchvision.variable_shapes.__wrapped__
    sources = sorted(Path(trace.__code__.co_filename).parents[1].glob("models/*.py"))
    version = b"".join(path.read_bytes() for path in sources)

    @functools.lru_cache(maxsize=256)
    def shapes(name, **options):
        asked = repr((name, sorted(options.items()), jax.__version__)).encode()
        path = folder / hashlib.sha256(version + asked).hexdigest()
        if not path.exists():
            with files.replacing(path) as temporary:
                temporary.write_bytes(pickle.dumps(trace(name, **options)))
        return pickle.loads(path.read_bytes())

    return shapes


def pytest_collection_finish(session):
    # What is there now stays until the end; looking for garbage in it takes a second every few.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


# Every compiled program is a few mappings of memory, of which Linux allows a process 65,530; beyond
# that, compiling ends in a segmentation fault.
MOST_MAPPINGS = 30_000
MAPPINGS = Path("/proc/self/maps")


def pytest_runtest_teardown(item, nextitem):
    """Forget compiled programs between modules before there are too many."""
    if nextitem is not None and nextitem.path == item.path:
        return
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


def is_flag(text):
    """Whether this XLA knows a flag; it ends the process for one that it does not know."""
    # Between zeros, as a string of the program: names of former flags are in its schema.
    name = b"\0" + text.removeprefix("--").split("=")[0].encode() + b"\0"
    for path in Path(jaxlib.__file__).parent.glob("*.so"):
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library,
        ):
            if library.find(name) >= 0:
                return True
    return False


@pytest.fixture(autouse=True)
def optimisations(request):
    """Compile as users do for tests that compare digits with others', or measure."""
    few = jax.config.read("jax_disable_most_optimizations")
    if request.node.get_closest_marker("optimised"):
        jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", few)


@pytest.fixture
def copied(monkeypatch):
    """Shapes of the device arrays that NumPy copies: a CPU is exempt from JAX's transfer guard."""
    shapes = []

    def noting(convert):
        def noted(given, *args, **options):
            arrays = given if isinstance(given, list | tuple) else [given]
            shapes.extend(a.shape for a in arrays if isinstance(a, jax.Array))
            return convert(given, *args, **options)

        return noted

    for name in ("array", "asarray", "concatenate", "stack"):
        monkeypatch.setattr(np, name, noting(getattr(np, name)))
    return shapes
