"""Weight files of every kind, written by the tests."""

import json
import pickle
import re

import h5py
import numpy as np
from golden import drawn

from jaxparc.weights import torchvision


def state_of(name="resnet18", num_classes=5):
    shapes = torchvision.variable_shapes(name, num_classes=num_classes, width=0.0625)
    entries = torchvision.entries(name, shapes)
    return drawn.weights({entry.key: entry.torch_shape for entry in entries})


def pickled(path, content):
    path.write_bytes(pickle.dumps(content))
    return path


def assert_is(loaded, state, offset=0):
    kernel = loaded.variables["params"]["conv1"]["kernel"]
    expected = state["conv1.weight"].transpose(2, 3, 1, 0) + offset
    np.testing.assert_allclose(kernel, expected, atol=1e-6)


def plus(state, offset):
    return {key: array + np.float32(offset) for key, array in state.items()}


def hdf5(path, groups):
    with h5py.File(path, "w") as file:
        for group, arrays in groups.items():
            for name, array in arrays.items():
                file[f"{group}/{name}"] = array
    return path


def keras_mobilenet(state):
    """Its names and layouts."""
    given = {}
    for key, array in state.items():
        module, _, leaf = key.rpartition(".")
        name, kind = MOBILENET[module]
        if array.ndim == 4:
            array = array.transpose(2, 3, 0, 1) if kind == "dw" else array.transpose(2, 3, 1, 0)
            leaf = "depthwise_kernel" if kind == "dw" else "kernel"
        elif kind == "dense":
            array, leaf = array.T, "kernel" if leaf == "weight" else "bias"
        else:
            leaf = {
                "weight": "gamma",
                "bias": "beta",
                "running_mean": "moving_mean",
                "running_var": "moving_variance",
            }[leaf]
        given[f"{name}/{leaf}"] = array
    return given


def mobilenet_modules():
    """torchvision's module -> Keras's layer, and its kind."""
    found = {
        "features.0.0": ("Conv1", "conv"),
        "features.0.1": ("bn_Conv1", "norm"),
        "features.18.0": ("Conv_1", "conv"),
        "features.18.1": ("Conv_1_bn", "norm"),
        "classifier.1": ("predictions", "dense"),
        "features.1.conv.0.0": ("expanded_conv_depthwise", "dw"),
        "features.1.conv.0.1": ("expanded_conv_depthwise_BN", "norm"),
        "features.1.conv.1": ("expanded_conv_project", "conv"),
        "features.1.conv.2": ("expanded_conv_project_BN", "norm"),
    }
    for i in range(1, 17):
        place = f"features.{i + 1}.conv"
        found |= {
            f"{place}.0.0": (f"block_{i}_expand", "conv"),
            f"{place}.0.1": (f"block_{i}_expand_BN", "norm"),
            f"{place}.1.0": (f"block_{i}_depthwise", "dw"),
            f"{place}.1.1": (f"block_{i}_depthwise_BN", "norm"),
            f"{place}.2": (f"block_{i}_project", "conv"),
            f"{place}.3": (f"block_{i}_project_BN", "norm"),
        }
    return found


MOBILENET = mobilenet_modules()


def tfjs(folder, arrays, quantised=None):
    """As tensorflowjs_converter writes them."""
    data, weights = b"", []
    for name, array in arrays.items():
        weight = {"name": name, "shape": array.shape, "dtype": "float32"}
        if quantised == "float16":
            weight["quantization"] = {"dtype": "float16"}
            data += array.astype("<f2").tobytes()
        elif quantised:
            most = np.iinfo(quantised).max
            scale = float(np.ptp(array)) / most or 1.0
            weight["quantization"] = {
                "dtype": quantised,
                "min": float(array.min()),
                "scale": scale,
                "original_dtype": "float32",
            }
            data += np.round((array - array.min()) / scale).astype(quantised).tobytes()
        else:
            data += array.astype("<f4").tobytes()
        weights.append(weight)
    (folder / "shard").write_bytes(data)
    manifest = {"weightsManifest": [{"paths": ["shard"], "weights": weights}]}
    (folder / "model.json").write_text(json.dumps(manifest))
    return folder


def renamed(state, *rules):
    """The same arrays under other names."""
    found = {}
    for key, array in state.items():
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        found[key] = array
    return found


def hugging_face(state, prefix="resnet."):
    """transformers' names."""
    return renamed(
        state,
        (r"^conv1\.", "embedder.embedder.convolution."),
        (r"^bn1\.", "embedder.embedder.normalization."),
        (r"^layer(\d)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.layers."),
        (r"\.conv(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.convolution."),
        (r"\.bn(\d)\.", lambda m: f".layer.{int(m[1]) - 1}.normalization."),
        (r"\.downsample\.0\.", ".shortcut.convolution."),
        (r"\.downsample\.1\.", ".shortcut.normalization."),
        (r"^(?=em|en)", prefix),
        (r"^fc\.", "classifier.1."),
    )


def torchvision_regnet(state):
    """torchvision's names of a RegNet in timm's."""
    return renamed(
        state,
        (r"^s(\d)\.b(\d+)\.", lambda m: f"trunk_output.block{m[1]}.block{m[1]}-{int(m[2]) - 1}."),
        (r"\.(conv\d)\.conv\.", r".\1.0."),
        (r"\.(conv\d)\.bn\.", r".\1.1."),
        (r"\.conv(\d)\.(?=[01]\.)", lambda m: f".f.{'abc'[int(m[1]) - 1]}."),
        (r"\.se\.", ".f.se."),
        (r"\.downsample\.conv\.", ".proj.0."),
        (r"\.downsample\.bn\.", ".proj.1."),
        (r"^stem\.conv\.", "stem.0."),
        (r"^stem\.bn\.", "stem.1."),
        (r"^head\.fc\.", "fc."),
    )
