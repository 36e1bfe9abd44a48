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
from jaxparc import extraction
from jaxparc.models import inference, layers
from jaxparc.training import batches, steps
from jaxparc.training.decoding import CentralCrops

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(21, 6, 5, 3)).astype(np.float32)
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
    assert jax.local_device_count() == 4
    shares = []

    def watched(images):
        shares.append(images.shape[0])
        return images.reshape(len(images), -1)

    jaxparc.extract(watched, IMAGES, batch_size=8)
    assert set(shares) == {2}


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
    assert jaxparc.extract(model, IMAGES, WEIGHTS)[2:] == (None, None)


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
    crops = CentralCrops(source, SIZE)
    found = jaxparc.extract(compiled(task, variables), crops, batch_size=16, jit=False)
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
    crops = CentralCrops(source_of(9), SIZE)
    expected, found = (
        jaxparc.extract(compiled(*model), crops, jit=False)
        for model in ((task, variables), (bare, without))
    )
    assert found.probs is None
    np.testing.assert_array_equal(found.features, expected.features)


def test_networks_of_one_architecture_share_a_program(monkeypatch):
    task = task_of("alexnet", num_classes=3)
    crops = CentralCrops(source_of(8), SIZE)
    traced, apply = [], inference.apply

    def noted(*given):
        traced.append(1)
        return apply(*given)

    monkeypatch.setattr(inference, "apply", noted)
    features = [
        jaxparc.extract(
            compiled(task, steps.initial(task.module, SIZE, seed)), crops, jit=False
        ).features
        for seed in range(3)
    ]
    assert len(traced) == 1
    assert not np.array_equal(features[0], features[1])


def test_what_it_gives_goes_into_a_bank():
    found = jaxparc.extract(model, IMAGES, WEIGHTS)
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
