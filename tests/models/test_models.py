import functools
import pkgutil

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import every
from jax.sharding import PartitionSpec as P

from jaxparc import backend, models
from jaxparc.bank import facts
from jaxparc.models import layers
from jaxparc.weights import torchvision

CLASSES = 7
every_model = every.model()
every_stem = pytest.mark.parametrize("stem", ["imagenet", "small"])


def shapes_of(module, size, batch=2, **options):
    """Shapes of the variables and of what `apply` returns, without computing anything."""
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    if not options:
        returned, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), images)
        return variables, returned
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    return variables, jax.eval_shape(functools.partial(module.apply, **options), variables, images)


def drawn(shapes, seed=0):
    """Variables of these shapes: He-scaled kernels; everything else as initialised."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        if path[-1] == "kernel":
            gain = np.sqrt(2 / np.prod(shape.shape[:-1]))
            return jnp.asarray(gain * rng.standard_normal(shape.shape), jnp.float32)
        return jnp.full(shape.shape, float(path[-1] in ("scale", "var")), jnp.float32)

    return flax.traverse_util.path_aware_map(draw, shapes)


# The registry


def test_nothing_is_missing_from_the_registry():
    beside = {"convolutions", "layers", "inference", "inverted_residuals", "positions", "spec"}
    files = {m.name for m in pkgutil.iter_modules(models.__path__)} - beside
    assert files == {file.__name__.rpartition(".")[2] for file in models.FILES}
    assert len(models.MODELS) == sum(len(file.SPECS) for file in models.FILES)
    for file in models.FILES:
        assert {spec.name for spec in file.SPECS} & {*every.REPRESENTATIVES, *every.SLOW}, file
    for name, spec in models.MODELS.items():
        assert spec.name == name
        assert models.get(name) is spec
        hash(spec)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_what_a_specification_says_is_counted(name):
    spec = models.get(name)
    shapes = torchvision.variable_shapes(name, num_classes=1000)
    assert shapes["params"]["head"]["kernel"].shape == (spec.feature_width, 1000)
    assert spec.layers == layers_of(name, shapes["params"])
    assert spec.parameters == sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@every.model(slow=every.REPRESENTATIVES)
def test_multiply_adds_are_counted(name):
    spec = models.get(name)
    assert spec.gmacs == pytest.approx(facts.gmacs_of(name, spec.input_size), rel=5e-3)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
def test_forms_for_a_cpu_add_no_operations(name):
    """Of maps smaller than their window, and of groups that are joined."""
    found = []
    for choices in (backend.CPU, backend.ACCELERATOR):
        with backend.using(choices):
            found.append(facts.gmacs_of(name, 64))
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("vgg15", "vgg19, vgg16, vgg13"),
        ("ResNet-50", "resnet50, resnet50d, seresnet50"),
        ("swin", "swin_"),
        ("", ""),
    ],
)
def test_an_unknown_name_is_refused_with_the_closest(name, closest):
    with pytest.raises(ValueError, match=f"^unknown architecture '{name}'; the closest are ") as e:
        models.get(name)
    assert f"the closest are {closest}" in str(e.value)
    assert str(e.value).endswith(" (`jaxparc models` lists all)")
    assert len(str(e.value)) < 200


# The networks


@every_model
def test_outputs_of_a_narrow_network_in_bfloat16(name):
    spec = models.get(name)
    width = every.NARROWEST.get(name, 0.125)
    module = spec.module(num_classes=CLASSES, width=width, stem="small", dtype=jnp.bfloat16)
    variables, (logits, activations) = shapes_of(module, 32)
    assert (logits.shape, logits.dtype) == ((2, CLASSES), jnp.float32)
    features = activations.pop("features")
    assert (features.shape, features.dtype) == ((2, round(spec.feature_width * width)), jnp.float32)
    assert {a.dtype for a in activations.values()} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert variables["params"]["head"]["kernel"].shape == (features.shape[1], CLASSES)


@every_model
def test_feature_width_and_depth_at_width_one(name):
    spec = models.get(name)
    variables, (_, activations) = shapes_of(spec.module(num_classes=CLASSES), spec.input_size)
    assert activations["features"].shape == (2, spec.feature_width)
    assert layers_of(name, variables["params"]) == spec.layers


def layers_of(name, params):
    """The number of convolutions and linear layers, as the papers count them."""
    beside = {"downsample_conv", "se", "q"}  # q: of attention pooling, where no image goes
    paths = flax.traverse_util.flatten_dict(params)
    kernels = [p for p in paths if p[-1] == "kernel" and beside.isdisjoint(p)]
    # two layers in each of GoogLeNet's nine modules of six convolutions, and in each of
    # SqueezeNet's eight of three
    return len(kernels) - {"googlenet": 9 * 4, "squeezenet1_1": 8}.get(name, 0)


@every_model
@every_stem
def test_smallest_input(name, stem):
    spec = models.get(name)
    smallest = spec.min_size[stem]
    module = spec.module(num_classes=CLASSES, stem=stem)
    _, (_, activations) = shapes_of(module, smallest)
    assert all(a.size > 0 for a in activations.values())
    message = f"{name}: images have {smallest - 1}x{smallest - 1} .* at least {smallest}x{smallest}"
    with pytest.raises(ValueError, match=message):
        shapes_of(module, smallest - 1)


@every_model
def test_wrong_input(name):
    spec = models.get(name)
    with pytest.raises(ValueError, match=f"{name}: unknown stem 'tiny'; known: imagenet, small"):
        shapes_of(spec.module(num_classes=CLASSES, stem="tiny"), 64)
    module = spec.module(num_classes=CLASSES)
    for shape in [(2, 64, 64), (2, 64, 64, 1)]:
        with pytest.raises(ValueError, match=f"{name}: images have shape"):
            jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))


@every_model
def test_every_batch_norm_gets_the_mask_and_the_axis(name):
    module = models.get(name).module(num_classes=CLASSES, width=0.125, axis_name="devices")
    mask = np.array([True, False])
    calls = []

    def record(next_function, args, kwargs, context):
        if isinstance(context.module, layers.BatchNorm):
            calls.append((context.module.axis_name, kwargs["train"], kwargs["mask"] is mask))
            kwargs["train"] = False  # there is no axis here
        return next_function(*args, **kwargs)

    rngs = {"dropout": jax.random.key(0)}
    with nn.intercept_methods(record):
        variables, _ = shapes_of(module, 64, train=True, mask=mask, rngs=rngs)
    norms = len(jax.tree.leaves(variables.get("batch_stats", {}))) // 2
    initialised, applied = calls[:norms], calls[norms:]
    assert initialised == [("devices", False, False)] * norms
    assert applied == [("devices", True, True)] * norms


def test_padded_rows_change_nothing():
    module = models.get("resnet18").module(num_classes=CLASSES, width=0.125, stem="small")
    variables = drawn(shapes_of(module, 8)[0])
    images = np.random.default_rng(1).standard_normal((4, 8, 8, 3), np.float32)
    mask = np.array([True, True, False, True])

    @jax.jit
    def forward(images, mask):
        return module.apply(variables, images, train=True, mask=mask, mutable=["batch_stats"])

    (expected, _), expected_stats = forward(images[mask], None)
    images[2] = np.nan
    (logits, _), stats = forward(images, mask)
    np.testing.assert_allclose(logits[mask], expected, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), stats, expected_stats)


@pytest.mark.parametrize(
    "name",
    ["alexnet", "googlenet", "squeezenet1_1", "mobilenet_v2", "vgg11", "mobilenetv3_small_100"],
)
def test_dropout(name):
    spec = models.get(name)
    options = {"train": True, "mutable": ["batch_stats"]}
    with pytest.raises(flax.errors.InvalidRngError):
        shapes_of(spec.module(num_classes=CLASSES, dropout_rate=0.3), 64, **options)
    shapes_of(spec.module(num_classes=CLASSES, dropout_rate=0.0), 64, **options)


# Batch norm


def normalise(x, mask=None, train=True, **fields):
    """What a fresh BatchNorm gives: values, and the statistics afterwards."""
    channels = np.shape(x)[-1:]
    variables = {
        "params": {"scale": jnp.full(channels, 1.5), "bias": jnp.full(channels, 0.5)},
        "batch_stats": {"mean": jnp.full(channels, 2.0), "var": jnp.full(channels, 3.0)},
    }
    layer = layers.BatchNorm(**fields)
    y, updated = layer.apply(variables, x, train=train, mask=mask, mutable=["batch_stats"])
    return y, updated["batch_stats"]


def test_batch_norm_against_float64():
    # a mean of a thousand deviations: E[x^2] - E[x]^2 would be off by a tenth in float32
    x = np.random.default_rng(0).standard_normal((8, 5, 3, 4), np.float32) + np.float32(1000)
    y, stats = jax.jit(normalise)(x)
    exact = x.astype(np.float64)
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    expected = (exact - mean) / np.sqrt(var + 1e-5) * 1.5 + 0.5
    np.testing.assert_allclose(y, expected, atol=2e-3)  # a float32 of 1000 is known to 6e-5
    np.testing.assert_allclose(stats["mean"], 0.9 * 2 + 0.1 * mean, rtol=1e-6)
    np.testing.assert_allclose(stats["var"], 0.9 * 3 + 0.1 * var * 120 / 119, rtol=1e-5)


def test_batch_norm_at_evaluation_uses_the_running_statistics():
    x = np.random.default_rng(0).standard_normal((2, 3), np.float32)
    y, stats = normalise(x, train=False, axis_name="nowhere")
    np.testing.assert_allclose(y, (x - 2) / np.sqrt(3 + 1e-5) * 1.5 + 0.5, rtol=1e-5)
    assert (stats["mean"] == 2).all()
    assert (stats["var"] == 3).all()


def test_batch_norm_of_bfloat16_keeps_float32_statistics():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((64, 3)), jnp.bfloat16)
    y, stats = normalise(x, dtype=jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    assert stats["mean"].dtype == stats["var"].dtype == jnp.float32
    exact = np.asarray(x.astype(jnp.float32))
    np.testing.assert_allclose(stats["mean"], 1.8 + 0.1 * exact.mean(0), rtol=1e-6)


def test_batch_norm_with_padded_rows_is_batch_norm_without_them():
    x = np.random.default_rng(0).standard_normal((6, 2, 2, 3), np.float32)
    mask = np.array([1, 0, 1, 1, 0, 1], bool)
    expected, expected_stats = normalise(x[mask])
    x[~mask] = np.inf
    y, stats = normalise(x, mask)
    np.testing.assert_allclose(y[mask], expected, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), stats, expected_stats)


def test_batch_norm_gradient_is_that_of_the_plain_formula():
    x, weights = np.random.default_rng(0).standard_normal((2, 8, 3, 3, 2), np.float32)

    def plain(x):
        return 1.5 * (x - x.mean((0, 1, 2))) / jnp.sqrt(x.var((0, 1, 2)) + 1e-5) + 0.5

    expected = jax.jit(jax.grad(lambda x: (weights * plain(x)).sum()))(x)
    found = jax.jit(jax.grad(lambda x: (weights * normalise(x)[0]).sum()))(x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_batch_norm_on_several_devices_is_batch_norm_on_one(masked):
    devices = jax.local_device_count()
    if devices == 1:
        pytest.skip("there is one device")
    x, weights = np.random.default_rng(0).standard_normal((2, 3 * devices, 2, 2, 3), np.float32)
    # 3, 1, 0 and 2 real rows on the first devices
    real = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 1, 0, 1], bool)
    mask = np.resize(real, 3 * devices) if masked else None

    def loss_and_stats(x, mask, weights, axis_name=None):
        y, stats = normalise(x, mask, axis_name=axis_name)
        rows = weights if mask is None else jnp.where(mask[:, None, None, None], weights, 0.0)
        loss = (rows * y).sum()
        return loss if axis_name is None else jax.lax.psum(loss, axis_name), stats

    def sharded(x, mask, weights):
        def local(x, mask, weights):
            return loss_and_stats(x, mask, weights, "devices")

        mesh = jax.make_mesh((devices,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
        specs = P("devices"), P("devices") if masked else P(), P("devices")
        return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=P())(x, mask, weights)

    expected, found = (
        jax.jit(jax.value_and_grad(f, has_aux=True))(x, mask, weights)
        for f in (loss_and_stats, sharded)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


# Pooling


@pytest.mark.parametrize(
    ("window", "stride", "padding", "ceil_mode"),
    [(3, 2, 1, False), (3, 2, 0, False), (3, 1, 1, True), (3, 2, 0, True), (2, 2, 0, True)],
)
def test_max_pool_and_its_gradient(window, stride, padding, ceil_mode):
    x = np.random.default_rng(0).standard_normal((2, 7, 10, 3), np.float32)

    def ours(x):
        return layers.max_pool(x, window, stride, padding=padding, ceil_mode=ceil_mode)

    def flax_pool(x):
        # hanging over the far edge is the same as padding there
        far = padding + stride - 1 if ceil_mode else padding
        pads = ((padding, far), (padding, far))
        return nn.max_pool(x, (window, window), (stride, stride), pads)

    @functools.partial(jax.jit, static_argnums=0)
    def values_and_gradient(pool, x):
        y, pull = jax.vjp(pool, x)
        return y, pull(jnp.arange(y.size, dtype=jnp.float32).reshape(y.shape))[0]

    results = values_and_gradient(ours, x), values_and_gradient(flax_pool, x)
    jax.tree.map(np.testing.assert_array_equal, *results)


def test_max_pool_keeps_nan():
    x = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(jnp.nan)
    assert jnp.isnan(layers.max_pool(x, 3, 2)).all()


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_avg_pool(ceil_mode):
    """Windows that exceed the map average what is inside of it, or are left out."""
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 3), np.float32)
    y = layers.avg_pool(jnp.asarray(x), ceil_mode=ceil_mode)
    rows = 3 if ceil_mode else 2
    assert y.shape == (2, rows, 2, 3)
    for i in range(rows):
        for j in range(2):
            expected = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
            np.testing.assert_allclose(y[:, i, j], expected, atol=1e-6)
    assert layers.avg_pool(jnp.ones((1, 2, 2, 1), jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("size", [1, 2, 5, 6, 9, 13])
def test_adaptive_avg_pool(size):
    x = np.random.default_rng(0).standard_normal((1, size, size, 2), np.float32)
    y = layers.adaptive_avg_pool(jnp.asarray(x), 6)
    for i in range(6):
        for j in range(6):
            top, left = i * size // 6, j * size // 6
            bottom, right = int(np.ceil((i + 1) * size / 6)), int(np.ceil((j + 1) * size / 6))
            expected = x[0, top:bottom, left:right].mean((0, 1))
            np.testing.assert_allclose(y[0, i, j], expected, atol=1e-6)
