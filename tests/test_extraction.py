import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from learnable import SIZE, source_of, task_of

import jaxparc
from jaxparc import backend, extraction
from jaxparc.geometry import Geometry
from jaxparc.models import inference, layers
from jaxparc.training import batches, steps
from jaxparc.training.decoding import CentralCrops

DEVICES = jax.local_device_count()
RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(21, 6, 5, 3)).astype(np.float32)
MANY = np.resize(IMAGES, (5 * DEVICES + 1, 6, 5, 3))
WEIGHTS = {
    "features": RNG.normal(size=(90, 8)).astype(np.float32),
    "logits": RNG.normal(size=(8, 4)).astype(np.float32),
}


def model(weights, images):
    features = jnp.tanh(images.reshape(len(images), -1) @ weights["features"])
    return features, features @ weights["logits"]


def expected():
    features = np.tanh(IMAGES.reshape(21, -1).astype(np.float64) @ WEIGHTS["features"])
    exp = np.exp(features @ WEIGHTS["logits"])
    return features, exp / exp.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("batch_size", [1, 4, 5, 21, 64])
def test_every_image_once_whatever_the_batch(batch_size):
    features, probs = expected()
    found = jaxparc.extract(model, IMAGES, WEIGHTS, batch_size=batch_size)
    assert found.features.dtype == found.probs.dtype == np.float32
    np.testing.assert_allclose(found.features, features, atol=1e-5)
    np.testing.assert_allclose(found.probs, probs, atol=1e-5)


def test_a_closure_and_features_alone():
    found = jaxparc.extract(lambda images: model(WEIGHTS, images)[0], IMAGES)
    np.testing.assert_allclose(found.features, expected()[0], atol=1e-5)
    assert found.probs is None


def test_other_frameworks_get_numpy():
    seen = []

    def theirs(images):
        assert type(images) is np.ndarray
        seen.append(len(images))
        return np.tanh(images.reshape(len(images), -1) @ WEIGHTS["features"])

    found = jaxparc.extract(theirs, IMAGES, batch_size=8, jit=False)
    np.testing.assert_allclose(found.features, expected()[0], atol=1e-5)
    assert seen == [8, 8, 8]


def test_all_devices_work():
    shares = []

    def watched(images):
        shares.append(images.shape[0])
        return images.reshape(len(images), -1)

    jaxparc.extract(watched, IMAGES, batch_size=2 * DEVICES)
    assert set(shares) == {2}


# On the device


def own_network():
    task = task_of("alexnet")
    variables = steps.initial(task.module, SIZE, 0)
    return compiled(task, variables), CentralCrops(source_of(21), Geometry(SIZE)), None


@pytest.mark.parametrize("network", [own_network, lambda: (model, IMAGES, WEIGHTS)])
def test_device_arrays_by_choice(network, copied):
    apply_fn, images, weights = network()
    options = {"batch_size": 8, "jit": weights is not None}
    host = jaxparc.extract(apply_fn, images, weights, **options)
    assert copied  # by default
    copied.clear()
    with jax.transfer_guard_device_to_host("disallow"):
        device = jaxparc.extract(apply_fn, images, weights, as_numpy=False, **options)
    assert copied == []
    for found, expected in ((device.features, host.features), (device.probs, host.probs)):
        assert isinstance(found, jax.Array)
        assert type(expected) is np.ndarray
        assert found.devices() == {jax.local_devices()[0]}
        assert found.dtype == expected.dtype == np.float32
        np.testing.assert_array_equal(found, expected)


def test_results_of_other_frameworks_are_placed_on_the_device():
    found = jaxparc.extract(
        lambda images: images.reshape(len(images), -1),
        IMAGES.astype(np.float16),
        batch_size=8,
        jit=False,
        as_numpy=False,
    )
    assert isinstance(found.features, jax.Array)
    assert found.features.dtype == np.float32
    np.testing.assert_allclose(found.features, IMAGES.reshape(21, -1), rtol=1e-3, atol=1e-6)
    assert found.probs is None


def test_a_compiled_network_returns_arrays_of_the_first_device():
    apply_fn, crops, _ = own_network()
    outputs = apply_fn(crops[:8])
    assert [output.shape[0] for output in outputs] == [8, 8]
    assert all(output.devices() == {jax.local_devices()[0]} for output in outputs)


@pytest.mark.parametrize("as_numpy", [True, False])
def test_a_batch_is_fetched_once_the_next_is_dispatched(as_numpy, monkeypatch):
    events = []

    class Output:
        def __init__(self, array):
            self.array, self.shape = array, array.shape

        def __array__(self, *args, **options):
            events.append(f"got {int(self.array[0, 0])}")
            return self.array

    def wait(outputs):
        events.append(f"got {int(outputs['features'][0, 0])}")
        return outputs

    def run(images):
        number = sum(event.startswith("ran") for event in events)
        events.append(f"ran {number}")
        output = np.full((len(images), 2), number, np.float32)
        return Output(output) if as_numpy else output

    monkeypatch.setattr(jax, "block_until_ready", wait)
    options = {"batch_size": DEVICES, "jit": False, "as_numpy": as_numpy}
    jaxparc.extract(run, MANY[: 4 * DEVICES], **options)
    expected = "ran 0, ran 1, got 0, ran 2, got 1, ran 3, got 2, got 3"
    assert ", ".join(events) == expected


# Out of memory


def out_of_memory():
    return jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


class Late:
    """Features of which the device finds out too late that it has no memory."""

    def __init__(self, shape):
        self.shape = shape

    def __array__(self, *args, **options):
        raise out_of_memory()


@pytest.mark.parametrize("way", ["compiled", "called", "fetched"])
def test_batches_are_halved_when_out_of_memory(way):
    tried = []

    def features(images):
        share = len(images) // (1 if way == "compiled" else DEVICES)
        tried.append(share)
        if share > 1:
            if way == "fetched":
                return Late((len(images), 90))
            raise out_of_memory()
        return images.reshape(len(images), -1)

    message = f"out of memory with batches of {4 * DEVICES} images; {DEVICES} images worked"
    with pytest.warns(UserWarning, match=message) as caught:
        found = jaxparc.extract(features, MANY, batch_size=4 * DEVICES, jit=way == "compiled")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(found.features, MANY.reshape(len(MANY), -1))
    assert sorted(set(tried)) == [1, 2, 4]
    assert tried == sorted(tried, reverse=True)


def test_batches_before_the_one_that_was_too_large_are_kept():
    seen = []

    def features(images):
        seen.append(len(images))
        if len(seen) == 3:
            raise out_of_memory()
        return images.reshape(len(images), -1)

    size = 2 * DEVICES
    with pytest.warns(UserWarning, match=f"{size} images; {DEVICES} images worked"):
        found = jaxparc.extract(features, MANY, batch_size=size, jit=False)
    np.testing.assert_array_equal(found.features, MANY.reshape(len(MANY), -1))
    # the first was fetched when the third failed, and the second was still in flight
    assert seen == [size] * 3 + [DEVICES] * 4


def test_out_of_memory_with_one_image_per_device_is_an_error():
    tried = []

    def features(images):
        tried.append(len(images) // DEVICES)
        raise out_of_memory()

    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        jaxparc.extract(features, MANY, batch_size=4 * DEVICES, jit=False)
    assert tried == [4, 2, 1]


def test_other_errors_are_raised_at_once():
    tried = []

    def features(images):
        tried.append(1)
        raise jax.errors.JaxRuntimeError("INTERNAL: the device is gone")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        jaxparc.extract(features, MANY, batch_size=4 * DEVICES, jit=False)
    assert tried == [1]


def test_images_are_read_ahead_in_another_thread():
    class Lazy:
        """Images that are only there in slices; notes how many there were, and in which thread."""

        def __init__(self):
            self.reads = []

        def __len__(self):
            return len(IMAGES)

        def __getitem__(self, rows):
            self.reads.append((rows.start, threading.current_thread() is threading.main_thread()))
            return IMAGES[rows]

    lazy, seen = Lazy(), []

    def slowly(images):
        deadline = time.monotonic() + 10
        while len(lazy.reads) < min(3, len(seen) + 2) and time.monotonic() < deadline:
            time.sleep(0.001)
        seen.append(len(lazy.reads))
        return images.reshape(len(images), -1)

    found = jaxparc.extract(slowly, lazy, batch_size=8, jit=False)
    np.testing.assert_array_equal(found.features, IMAGES.reshape(21, -1))
    assert lazy.reads == [(0, False), (8, False), (16, False)]
    assert seen == [2, 3, 3]  # the next batch was there while the model ran


def test_an_error_of_the_images_reaches_the_caller():
    class Broken(list):
        def __getitem__(self, rows):
            if rows.start == 8:
                raise OSError("image 9 cannot be read")
            return IMAGES[rows]

    with pytest.raises(OSError, match="image 9 cannot be read"):
        jaxparc.extract(model, Broken([0] * 21), WEIGHTS, batch_size=8)


def test_facts_about_the_model_go_with_it():
    found = jaxparc.extract(model, IMAGES, WEIGHTS, layers=18, source_images=1000)
    assert (found.layers, found.source_images) == (18, 1000)
    found = jaxparc.extract(model, IMAGES, WEIGHTS)
    assert (found.layers, found.source_images, found.activations) == (None, None, {})


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("logits", [True, False])
def test_activations_are_named(jit, logits):
    def apply(variables, images):
        others = {"b": 2 * images[:, :2], "a": 3 * images[:, :3]}  # in the order of the model
        return (images, *([images @ variables] if logits else []), others)

    images = np.arange(44, dtype=np.float32).reshape(11, 4)
    found = jaxparc.extract(apply, images, np.eye(4, dtype=np.float32), batch_size=4, jit=jit)
    assert (found.probs is not None) == logits
    np.testing.assert_array_equal(found.features, images)
    np.testing.assert_array_equal(found.activations["b"], 2 * images[:, :2])
    np.testing.assert_array_equal(found.activations["a"], 3 * images[:, :3])
    with pytest.raises(ValueError, match=r"returns \(\d+, 4\), \(\d+,\); expected features"):
        jaxparc.extract(lambda x: (x, {"a": x[:, 0]}), images, jit=jit)


def test_it_needs_jax_numpy_and_rich_alone():
    code = """
import sys
for name in ("grain", "orbax", "flax", "optax", "tensorflow_datasets", "scipy", "PIL", "absl"):
    sys.modules[name] = None  # importing it raises
import numpy as np
import jaxparc
found = jaxparc.extract(lambda images: images.reshape(len(images), -1), np.ones((3, 2, 2)))
print(found.features.shape)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("(3, 4)\n", 0), done.stderr


# Networks of `models`


def compiled(task, variables, **options):
    return extraction.compile_network(
        task.module, variables, mean=task.mean, std=task.std, **options
    )


def test_a_network_gives_the_features_and_probabilities_of_every_image_in_order():
    task = task_of()
    variables, source = steps.initial(task.module, SIZE, 0), source_of(41)
    crops = CentralCrops(source, Geometry(SIZE))
    apply_fn = compiled(task, variables, dtype=jnp.float32)
    found = jaxparc.extract(apply_fn, crops, batch_size=16, jit=False)
    batch = next(batches.batches(source, batch_size=41, size=SIZE, train=False))
    images = layers.normalise(jnp.asarray(batch["image"]), task.mean, task.std)
    logits, activations = task.module.apply(variables, images)
    np.testing.assert_allclose(found.features, activations["features"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.probs, jax.nn.softmax(logits), rtol=1e-4, atol=1e-6)


def test_a_network_without_a_head_gives_features_alone():
    task = task_of("alexnet")
    variables = steps.initial(task.module, SIZE, 0)
    bare = task._replace(module=task.module.clone(num_classes=0))
    head = {"kernel": variables["params"]["head"]["kernel"][:, :0], "bias": np.zeros(0, np.float32)}
    without = {**variables, "params": {**variables["params"], "head": head}}
    crops = CentralCrops(source_of(9), Geometry(SIZE))
    expected, found = (
        jaxparc.extract(compiled(*model, dtype=jnp.float32), crops, jit=False)
        for model in ((task, variables), (bare, without))
    )
    assert found.probs is None
    np.testing.assert_allclose(found.features, expected.features, rtol=1e-5, atol=1e-6)


def test_networks_extract_in_bfloat16_on_an_accelerator(monkeypatch):
    task = task_of("alexnet")
    variables = steps.initial(task.module, SIZE, 0)
    crops = CentralCrops(source_of(9), Geometry(SIZE))
    found = {}
    for choices in (backend.CPU, backend.ACCELERATOR):
        monkeypatch.setattr(backend, "choices", lambda choices=choices: choices)
        found[choices.extraction_dtype] = jaxparc.extract(
            compiled(task, variables), crops, jit=False
        )
    exact, rounded = found[None].features, found[jnp.bfloat16].features
    assert rounded.dtype == np.float32
    assert 1e-4 < np.abs(rounded - exact).max() / np.abs(exact).max() < 5e-2


def test_networks_of_one_architecture_share_a_program(monkeypatch):
    task = task_of("alexnet", num_classes=3)
    crops = CentralCrops(source_of(8), Geometry(SIZE))
    traced, apply = [], inference.apply

    def noted(*given, **options):
        traced.append(1)
        return apply(*given, **options)

    monkeypatch.setattr(inference, "apply", noted)
    features = [
        jaxparc.extract(
            compiled(task, steps.initial(task.module, SIZE, seed)), crops, jit=False
        ).features
        for seed in range(3)
    ]
    assert len(traced) == 1
    assert not np.array_equal(features[0], features[1])


@pytest.mark.parametrize("as_numpy", [True, False])
def test_what_it_gives_goes_into_a_bank(as_numpy):
    found = jaxparc.extract(model, IMAGES, WEIGHTS, as_numpy=as_numpy)
    scores = jaxparc.score_bank(
        {"own": found.features},
        np.arange(21) % 3,
        methods=("parc", "nce"),
        probs={"own": found.probs},
    )
    assert np.isfinite(scores.values).all()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda images: images, "apply_fn returns (8, 6, 5, 3); expected features (8, d)"),
        (lambda images: images.sum(), "apply_fn returns (); expected"),
        (lambda images: (images[:, 0, 0],) * 3, "(8, 3), (8, 3), (8, 3); expected"),
        (lambda images: images[:1, 0, 0], "apply_fn returns (1, 3); expected"),
        (lambda images: {"x": images}, "apply_fn returns (); expected"),
    ],
)
def test_other_outputs_are_refused(function, reason):
    for jit in (True, False):
        with pytest.raises(ValueError, match=re.escape(reason) if not jit else "apply_fn returns"):
            jaxparc.extract(function, IMAGES, batch_size=8, jit=jit)


def test_no_image_and_no_batch_are_refused():
    with pytest.raises(ValueError, match="images are empty; expected at least 1"):
        jaxparc.extract(model, IMAGES[:0], WEIGHTS)
    with pytest.raises(ValueError, match="batch_size is 0"):
        jaxparc.extract(model, IMAGES, WEIGHTS, batch_size=0)


class Network(nn.Module):
    @nn.compact
    def __call__(self, images):
        return nn.Dense(8)(images.reshape(len(images), -1))


class Pair(NamedTuple):
    """As Haiku has it."""

    init: Callable
    apply: Callable


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (Network(), "apply_fn is the module Network; expected its function, module.apply, and var"),
        (Pair(model, model), "apply_fn is the module Pair; expected its function, module.apply"),
        (Network, "apply_fn is the class Network; expected a function, such as its network's .app"),
        (IMAGES, "apply_fn is a ndarray; expected a function of images, or of (variables, images)"),
        ("resnet50", "apply_fn is a str; expected a function of images"),
        (None, "apply_fn is a NoneType; expected a function of images"),
    ],
    ids=lambda given: type(given).__name__,
)
def test_a_network_instead_of_its_function_is_refused(given, reason, jit):
    with pytest.raises(ValueError, match=re.escape(reason)):
        jaxparc.extract(given, IMAGES, WEIGHTS, jit=jit)


def test_a_network_that_is_bound_and_an_apply_are_functions():
    network = Network()
    variables = network.init(jax.random.key(0), IMAGES)
    found = jaxparc.extract(network.bind(variables), IMAGES)
    again = jaxparc.extract(network.apply, IMAGES, variables)
    np.testing.assert_allclose(found.features, again.features, atol=1e-5)


def test_a_torch_module_is_refused():
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(3, 2)
    for given in (module, module.forward):
        with pytest.raises(ValueError, match="is the torch module Linear; .* with jit=False"):
            jaxparc.extract(given, IMAGES, jit=False)
