"""Weights from a model hub, which a server in this process stands for."""

import dataclasses
import hashlib
import http.server
import json
import sys
import threading

import numpy as np
import pytest
from golden import drawn
from safetensors.numpy import save

from experiments import benchmarks, finetune_all, pretrained, train_sources
from experiments.runner import command_line
from experiments.runner.run import Run, StageError
from jaxparc.bank import hub, sources, toml_file
from jaxparc.bank.kinds import native
from jaxparc.errors import InputError
from jaxparc.units.run import run_units
from jaxparc.weights import torchvision

huggingface_hub = pytest.importorskip("huggingface_hub")
utils = pytest.importorskip("huggingface_hub.utils")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TIMM_CONFIG = {
    "architecture": "resnet18",
    "num_classes": 3,
    "pretrained_cfg": {
        "input_size": [3, 64, 64],
        "mean": [0.4, 0.5, 0.6],
        "std": [0.2, 0.25, 0.3],
        "crop_pct": 0.95,
        "crop_mode": "center",
        "interpolation": "bicubic",
    },
}


def weights_of(name):
    shapes = torchvision.variable_shapes(name, num_classes=3, width=0.0625)
    entries = torchvision.entries(name, shapes)
    return drawn.weights({entry.key: entry.torch_shape for entry in entries})


WEIGHTS = weights_of("resnet18")


class Hub(http.server.ThreadingHTTPServer):
    """A hub on this machine.

    Attributes:
        files: (repository, name) -> content.
        gated: repositories that ask for a login.
        broken: names of files whose connection breaks halfway.
        requests: the paths that were asked for, in order.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.gated, self.broken, self.requests = {}, set(), set(), []

    def add(self, repository, **contents):
        for name, content in contents.items():
            content = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.files[repository, name.replace("__", ".")] = content


class Handler(http.server.BaseHTTPRequestHandler):
    """The part of the hub's API that downloads use: OWNER/NAME/resolve/REVISION/FILE."""

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, *, body):
        self.server.requests.append(f"{self.command} {self.path}")
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        file = rest.partition("/")[2]
        if all(key[0] != repository for key in self.server.files):
            return self._refuse(401, "RepoNotFound")
        if repository in self.server.gated:
            return self._refuse(403, "GatedRepo")
        if (content := self.server.files.get((repository, file))) is None:
            return self._refuse(404, "EntryNotFound")
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body and file in self.server.broken:
            self.wfile.write(content[: len(content) // 2])
        elif body:
            self.wfile.write(content)
        return None

    def _refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    from huggingface_hub import constants, file_download

    with Hub() as hub_here:
        address = f"http://127.0.0.1:{hub_here.server_address[1]}"
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", address)
        for module in (constants, file_download):  # before 1.0, the second has a copy
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 2)
        threading.Thread(target=hub_here.serve_forever, daemon=True).start()
        forget()
        yield hub_here
        hub_here.shutdown()
        forget()


def forget():
    """Forget what this process has fetched, as a new one would."""
    for function in (hub.fetch, hub.config, hub.folder, hub._answers):
        function.cache_clear()
    # Before 1.0, a session stays online or offline as it was when it was opened.
    getattr(utils, "reset_sessions", lambda: None)()


@pytest.fixture
def offline(monkeypatch):
    """A function that takes the network away."""

    def leave():
        from huggingface_hub import constants

        forget()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    return leave


def test_a_network_is_downloaded_once_and_preprocessed_as_its_config_says(server, offline, capfd):
    server.add("owner/net", config__json=TIMM_CONFIG, model__safetensors=save(WEIGHTS))
    (entry,) = sources.read(["hf://owner/net"])
    assert (entry.name, entry.kind, entry.architecture) == ("net", "architecture", "resnet18")
    assert entry.where == "hf://owner/net"
    spec = native.load_network(entry).spec
    assert (spec.input_size, spec.crop, spec.resize) == (64, 0.95, "shortest")
    assert (spec.interpolation, spec.mean) == ("bicubic", (0.4, 0.5, 0.6))
    asked = len(server.requests)
    offline()
    (again,) = sources.read(["a=hf://owner/net"])
    assert native.load_network(again).spec == spec
    assert again.settings == entry.settings
    assert len(server.requests) == asked
    assert hub.repositories() == ["owner/net"]
    assert capfd.readouterr().err == ""  # no progress bar outside of a terminal


def test_shards_are_all_downloaded(server):
    keys = sorted(WEIGHTS)
    shards = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    index = {"weight_map": {key: name for name, some in shards.items() for key in some}}
    server.add("owner/net", config__json=TIMM_CONFIG)
    server.files["owner/net", "model.safetensors.index.json"] = json.dumps(index).encode()
    for name, some in shards.items():
        server.files["owner/net", name] = save({key: WEIGHTS[key] for key in some})
    (entry,) = sources.read(["hf://owner/net"])
    assert native.load_network(entry).spec.name == "resnet18"
    del server.files["owner/net", "b.safetensors"]
    index["weight_map"]["x"] = "../x.safetensors"
    server.add("owner/other", config__json=TIMM_CONFIG)
    server.files["owner/other", "model.safetensors.index.json"] = json.dumps(index).encode()
    with pytest.raises(InputError, match=r"lists '\.\./x\.safetensors'; expected a file"):
        hub.folder("owner/other")


def test_an_interrupted_download_is_completed(server, monkeypatch):
    from huggingface_hub import file_download

    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    server.add("owner/net", config__json=TIMM_CONFIG, model__safetensors=save(WEIGHTS))
    server.broken.add("model.safetensors")
    (entry,) = sources.read(["hf://owner/net"])
    with pytest.raises(InputError, match="hf://owner/net cannot be fetched: "):
        native.load_network(entry)
    assert hub.cached_folder("owner/net") is None
    server.broken.clear()
    assert native.load_network(entry).spec.input_size == 64


def test_what_cannot_be_fetched_is_one_line(server, offline):
    server.add("owner/gated", config__json=TIMM_CONFIG)
    server.gated.add("owner/gated")
    for address, message in {
        "hf://owner/gated": "is gated: accept its terms on its page, and log in with hf auth login",
        "hf://owner/none": "hf://owner/none: there is no such public repository",
        "hf://owner": "'hf://owner' is not an address of a hub; expected hf://OWNER/NAME",
        "hf://a/b/c": "expected hf://OWNER/NAME",
        "hf://a/b?": "expected hf://OWNER/NAME",
    }.items():
        with pytest.raises(InputError) as raised:
            sources.read([address])
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
    offline()
    with pytest.raises(InputError, match="hub does not answer; where it does: hf download owner/x"):
        sources.read(["hf://owner/x"])


def test_a_hub_that_is_gone_is_one_line(server):
    server.add("owner/net", config__json=TIMM_CONFIG, model__safetensors=save(WEIGHTS))
    hub.config("owner/net")
    server.shutdown()
    server.server_close()
    forget()
    with pytest.raises(InputError, match="does not answer; where it does: hf download owner/net"):
        hub.folder("owner/net")


def test_without_huggingface_hub_the_extra_is_named(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r'pip install "jaxparc\[hub\]"'):
        hub.folder("owner/net")


def test_a_config_that_contradicts_the_weights(server):
    wrong = {
        "classes": {**TIMM_CONFIG, "num_classes": 5},
        "width": {**TIMM_CONFIG, "num_features": 512},
        "other": {**TIMM_CONFIG, "architecture": "squeezenet1_1"},
    }
    messages = {
        "classes": "config.json declares 5 classes; the weights have 3",
        "width": "config.json declares features of width 512; no array has such an axis",
        "other": "the names of the weights are of no known scheme",
    }
    for name, config in wrong.items():
        server.add(f"owner/{name}", config__json=config, model__safetensors=save(WEIGHTS))
        (entry,) = sources.read([f"hf://owner/{name}"])
        with pytest.raises(ValueError, match=messages[name]):
            native.load_network(entry)


def test_a_network_of_timm_is_preprocessed_as_its_own_config_says(server):
    timm = pytest.importorskip("timm")
    module = timm.create_model("mobilenetv4_conv_small_050", num_classes=4)
    state = {key: tensor.contiguous().numpy() for key, tensor in module.state_dict().items()}
    config = {**TIMM_CONFIG, "architecture": "mobilenetv4_conv_small_050", "num_classes": 4}
    server.add("owner/net", config__json=config, model__safetensors=save(state))
    (entry,) = sources.read(["hf://owner/net"])
    assert (entry.kind, entry.architecture) == ("timm", "mobilenetv4_conv_small_050")
    model = entry.implementation.load(entry)
    assert model.geometry == (64, 0.95, "shortest", "bicubic")
    features, logits = model.start()(np.zeros((2, 64, 64, 3), np.uint8))
    assert features.shape[0] == 2
    assert logits.shape == (2, 4)


def test_a_bank_file_has_addresses_of_a_hub(server, tmp_path):
    server.add("owner/net", config__json=TIMM_CONFIG, model__safetensors=save(WEIGHTS))
    path = tmp_path / "bank.toml"
    path.write_text(
        '[[model]]\nname = "a"\narchitecture = "resnet18"\nweights = "hf://owner/net"\nsize = 48\n'
        '[[model]]\nname = "b"\nweights = "hf://timm/resnet18.a1_in1k"\n'
        '[[model]]\nname = "c"\nweights = "hf://timm/edgenext_small.usi_in1k"\n'
    )
    first, second, third = toml_file.read(path)
    assert not server.requests
    spec = native.load_network(first).spec
    assert (spec.input_size, spec.crop) == (48, 0.95)  # the bank file takes precedence
    assert (second.kind, second.architecture) == ("architecture", "resnet18")
    assert (third.kind, third.architecture) == ("timm", "edgenext_small.usi_in1k")
    path.write_text('[[model]]\nname = "a"\nweights = "hf://owner/net"\n')
    with pytest.raises(InputError, match="has none of architecture, timm"):
        toml_file.read(path)


def test_a_benchmark_of_its_networks(server, offline, tmp_path, monkeypatch):
    server.add("owner/net", config__json=TIMM_CONFIG, model__safetensors=save(WEIGHTS))
    path = tmp_path / "bank.toml"
    path.write_text(
        '[[model]]\nname = "a"\narchitecture = "resnet18"\nweights = "hf://owner/net"\n'
        '[[model]]\nname = "b"\narchitecture = "resnet18"\nweights = "hf://owner/none"\n'
    )
    stages = [train_sources.STAGE, finetune_all.STAGE]

    def run_now():
        found = dataclasses.replace(benchmarks.REAL, bank=str(path), targets=("digits",))
        return Run(pretrained.with_networks(found), tmp_path / "out", tmp_path / "checkpoints")

    run = run_now()
    command_line._preflight(run, stages)  # the hub answers
    failed = run_units("train_sources", train_sources.units(run), run.out)
    assert failed == {"resnet18 on b": "hf://owner/none: there is no such public repository"}
    offline()
    run = run_now()
    with pytest.raises(StageError) as raised:
        command_line._preflight(run, stages)
    # b, its transfer in three parts, and the second seed of both, whose rate is chosen for both
    first, second, *others = str(raised.value).splitlines()
    assert first == "real: 6 units need files that are not on this machine:"
    assert second == "  hf download owner/none"
    assert others == ["--allow-missing runs the other 4"]
    record, other = train_sources.units(run)
    record.check(record.path, record.name)
    assert other.lacks
    (cached,) = (tmp_path / "cache").rglob("model.safetensors")
    changed = {key: array + 1 for key, array in WEIGHTS.items()}
    cached.unlink()
    cached.write_bytes(save(changed))
    record, _ = train_sources.units(run_now())
    with pytest.raises(pretrained.ChangedError, match="or settings than hf://owner/net has now"):
        record.check(record.path, record.name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(StageError, match=r'  .*pip install "jaxparc\[hub\]"'):
        command_line._preflight(run_now(), stages)
