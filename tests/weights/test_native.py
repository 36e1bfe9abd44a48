"""Files in this library's own names."""

import json

import pytest
from safetensors.numpy import save_file
from weights.written import assert_is, keras_mobilenet, pickled, state_of, tfjs

from jaxparc import weights
from jaxparc.weights import WeightsError, formats, native, reading


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mean", None, "mean is None; expected three numbers"),
        ("mean", "abc", "mean is abc; expected three numbers"),
        ("mean", [0.1, float("nan"), 0.1], r"mean is \[0.1, nan, 0.1\]; expected three"),
        ("std", [1, 0, 1], r"std is \[1, 0, 1\]; expected three numbers above 0"),
        ("std", [1, 1], "std is .*; expected three"),
        ("mean", ..., "mean is None; expected"),
        ("architecture", ..., "the weights are of None; expected resnet18"),
        ("stride_in_1x1", "yes", "stride_in_1x1 is yes; expected a bool"),
        (None, "[", "the metadata 'jaxparc' cannot be read"),
        (None, "3", "the metadata 'jaxparc' cannot be read"),
        (None, "[" * 10_000, "the metadata 'jaxparc' cannot be read"),
    ],
)
def test_what_our_own_files_say_of_themselves_is_checked(key, value, message, state, tmp_path):
    loaded = weights.load("resnet18", pickled(tmp_path / "w.pkl", state))
    path = tmp_path / "own.safetensors"
    native.save(loaded, path)
    told = native.header_of(reading.checkpoint(path).metadata)
    if key is None:
        text = value
    else:
        told = {k: v for k, v in told.items() if k != key} | ({} if value is ... else {key: value})
        text = json.dumps(told)
    save_file(reading.read(path), path, {formats.KEY: text})
    with pytest.raises(WeightsError, match=message) as error:
        weights.load("resnet18", path)
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    "given",
    [
        {"channels": "bgr"},
        {"stride_in_1x1": True},
        {"variant": "msra"},
        {"scheme": "detectron2"},
        {"ignore": ["criterion.*"]},
    ],
)
def test_what_our_own_files_have_decided_is_not_passed_over_in_silence(given, state, tmp_path):
    path = tmp_path / "w.safetensors"
    native.save(weights.load("resnet18", pickled(tmp_path / "w.pkl", state)), path)
    agreed = weights.load("resnet18", path, channels="rgb", stride_in_1x1=False)
    assert_is(agreed, state)
    with pytest.raises(WeightsError, match=next(iter(given))):
        weights.load("resnet18", path, **given)


def test_what_weights_decided_is_kept(tmp_path):
    loaded = weights.load("mobilenet_v2", tfjs(tmp_path, keras_mobilenet(state_of("mobilenet_v2"))))
    native.save(loaded, tmp_path / "own.safetensors")
    again = weights.load("mobilenet_v2", tmp_path / "own.safetensors")
    assert (again.module, again.spec.mean) == (loaded.module, loaded.spec.mean)
