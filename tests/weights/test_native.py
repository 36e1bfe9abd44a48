"""Files in this library's own names."""

import json

import pytest
from safetensors.numpy import save_file
from weights.written import assert_is, keras_mobilenet, pickled, state_of, tfjs

from jaxparc import models
from jaxparc.weights import WeightsError, native, reading


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mean", None, "its mean is None; expected three numbers"),
        ("mean", "abc", "its mean is abc; expected three numbers"),
        ("mean", [0.1, float("nan"), 0.1], r"its mean is \[0.1, nan, 0.1\]; expected three"),
        ("std", [1, 0, 1], r"its std is \[1, 0, 1\]; expected three numbers above 0"),
        ("std", [1, 1], "its std is .*; expected three"),
        ("mean", ..., "its mean is None; expected"),
        ("architecture", ..., "it is of None, not of resnet18"),
        ("stride_in_1x1", "yes", "its stride_in_1x1 is yes; expected a bool"),
        (None, "[", "what it says of itself cannot be read"),
        (None, "3", "what it says of itself cannot be read"),
        (None, "[" * 10_000, "what it says of itself cannot be read"),
    ],
)
def test_what_our_own_files_say_of_themselves_is_checked(key, value, message, state, tmp_path):
    loaded = models.load("resnet18", pickled(tmp_path / "w.pkl", state))
    path = tmp_path / "own.safetensors"
    native.save(loaded, path)
    told = native.told(reading.checkpoint(path).facts)
    if key is None:
        text = value
    else:
        told = {k: v for k, v in told.items() if k != key} | ({} if value is ... else {key: value})
        text = json.dumps(told)
    save_file(reading.read(path), path, {reading.KEY: text})
    with pytest.raises(WeightsError, match=message) as error:
        models.load("resnet18", path)
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
    native.save(models.load("resnet18", pickled(tmp_path / "w.pkl", state)), path)
    agreed = models.load("resnet18", path, channels="rgb", stride_in_1x1=False)
    assert_is(agreed, state)
    with pytest.raises(WeightsError, match=next(iter(given))):
        models.load("resnet18", path, **given)


def test_what_weights_decided_is_kept(tmp_path):
    loaded = models.load("mobilenet_v2", tfjs(tmp_path, keras_mobilenet(state_of("mobilenet_v2"))))
    native.save(loaded, tmp_path / "own.safetensors")
    again = models.load("mobilenet_v2", tmp_path / "own.safetensors")
    assert (again.module, again.spec.mean) == (loaded.module, loaded.spec.mean)
