"""The home page and the tutorials run, on small made-up data, and print what they say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from golden import drawn
from PIL import Image

from jaxparc.weights import torchvision

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = ["index", *(f"tutorials/{path.stem}" for path in (DOCS / "tutorials").glob("*.md"))]
PAGES.remove("tutorials/index")  # a table
NOT_RUN = "not run by the tests: "
OUTPUT = "output"  # of the block before it, which the test compares
FENCE = re.compile(
    r"(?:^<!-- (?P<mark>.+?) -->\n)?^```(?P<kind>\w+)(?: title=\"(?P<title>.+?)\")?\n"
    r"(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# What would take minutes with the data of the tests too is made smaller: one network is fine-tuned,
# whichever they rank first, for a few steps.
SMALLER = {
    "--top 2 --batch-size 16 --steps 60": "--top 1 --batch-size 8 --steps 4",
    "finetuned/lite2-photos-": "finetuned/",
}
# Executes blocks as a reader does who types them into one Python and one shell.
DRIVER = """
import contextlib, io, json, subprocess, sys
names = {"__name__": "__main__"}
outputs = []
for kind, text in json.load(sys.stdin):
    if kind == "python":
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(text, "tutorial", "exec"), names)
        outputs.append(printed.getvalue())
    else:
        command = ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        outputs.append(done.stdout)
print(json.dumps(outputs))
"""


class Block(NamedTuple):
    mark: str
    kind: str
    title: str
    text: str


def blocks(page):
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    found = [Block(*(part or "" for part in match)) for match in FENCE.findall(text)]
    assert 2 * len(found) == len(re.findall("^```", text, re.MULTILINE)), "a block was not read"
    return found


def drawn_weights(path, name, width=0.125):
    """Write weights under published names, with random numbers and few channels."""
    safetensors = pytest.importorskip("safetensors.numpy")
    shapes = torchvision.variable_shapes(name, num_classes=10, width=width)
    entries = torchvision.entries(name, shapes)
    path.parent.mkdir(exist_ok=True)
    arrays = drawn.weights({entry.key: entry.torch_shape for entry in entries})
    safetensors.save_file(arrays, path)


def photographs(folder, images):
    """Write a folder per class, which differ in colour, of so many images each."""
    rng = np.random.default_rng(0)
    colours = {"cherry": (200, 40, 40), "lemon": (200, 200, 60), "sky": (60, 90, 200)}
    for label, colour in colours.items():
        (folder / label).mkdir(parents=True)
        for i in range(images):
            pixels = rng.normal(colour, 60, size=(32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{i}.png")


def of_photographs(folder):
    photographs(folder / "photos", 40)
    photographs(folder / "new_photos", 1)
    drawn_weights(folder / "weights" / "lite0.pth", "efficientnet_lite0")
    drawn_weights(folder / "weights" / "lite1.pth", "efficientnet_lite1")
    drawn_weights(folder / "weights" / "squeezenet.pkl", "squeezenet1_1")
    drawn_weights(folder / "downloads" / "lite2.pth", "efficientnet_lite2")


def of_timm(folder):
    """Images and weights, and a cache of the hub with weights that timm draws."""
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    photographs(folder / "photos", 12)
    drawn_weights(folder / "weights" / "lite0.pth", "efficientnet_lite0")
    torch.manual_seed(0)
    for i in range(3):
        name, commit = f"tf_efficientnet_lite{i}", "0" * 40
        repository = folder / "hub" / "hub" / f"models--timm--{name}.in1k"
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        weights = timm.create_model(name, pretrained=False).state_dict()
        safetensors.save_file(weights, snapshot / "model.safetensors", {"format": "pt"})


def nothing(folder):
    """What needs no data, or makes its own."""


def run(found, folder):
    """Run the blocks that can, and return pairs of a block and what it printed."""
    for name, module in {"jaxparc": "-m jaxparc", "python": ""}.items():
        script = folder / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        script.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "TFDS_DATA_DIR": str(folder / "tfds"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HOME": str(folder / "hub"),
        "HF_HUB_OFFLINE": "1",
    }
    for block in found:
        if block.title:
            (folder / block.title).write_text(block.text, encoding="utf-8")
    chosen = [b for b in found if b.kind in ("python", "bash") and not b.mark.startswith(NOT_RUN)]
    texts = []
    for block in chosen:
        text = block.text
        for given, smaller in SMALLER.items():
            text = text.replace(given, smaller)
        texts.append((block.kind, text))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input=json.dumps(texts),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return list(zip(chosen, json.loads(done.stdout), strict=True))


NUMBER = re.compile(r"-?\d+\.\d+|-?\d+")


def assert_same_output(found, expected):
    """Compare texts, their numbers up to what rounding does on other processors."""

    def plain(text):
        return [NUMBER.sub("#", line.rstrip()) for line in text.strip("\n").splitlines()]

    assert plain(found) == plain(expected)
    numbers = [np.array(NUMBER.findall(text), float) for text in (found, expected)]
    np.testing.assert_allclose(*numbers, rtol=2e-3, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "prepare"),
    [
        ("index", nothing),
        ("tutorials/features", nothing),
        ("tutorials/reading", nothing),
        ("tutorials/photographs", of_photographs),
        ("tutorials/timm", of_timm),
        ("tutorials/paper", nothing),
    ],
)
def test_a_page_runs_and_prints_what_it_says(page, prepare, tmp_path):
    prepare(tmp_path)
    found = blocks(page)
    printed = {id(block): text for block, text in run(found, tmp_path)}
    assert printed
    for before, block in zip(found, found[1:], strict=False):
        if block.mark == OUTPUT:
            assert_same_output(printed[id(before)], block.text)


def test_every_tutorial_is_run():
    (marks,) = [m for m in test_a_page_runs_and_prints_what_it_says.pytestmark if m.args]
    assert sorted(PAGES) == sorted(page for page, _ in marks.args[1])


def test_blocks_that_are_not_run_say_why_and_are_few():
    every = [block for page in PAGES for block in blocks(page)]
    code = [block for block in every if block.kind in ("python", "bash")]
    left_out = [block for block in code if block.mark]
    assert all(block.mark.startswith(NOT_RUN) for block in left_out)
    assert len(left_out) <= 0.2 * len(code)
    assert {block.kind for block in every} <= {"python", "bash", "text", "toml"}
    assert {block.mark for block in every if block.kind == "text"} <= {"", OUTPUT}
    for given in SMALLER:
        assert any(given in block.text for block in code)


def test_outputs_are_compared():
    assert_same_output("a 1.234\n", "a 1.235")
    for other in ("b 1.234", "a 1.334", "a 1.234\nmore"):
        with pytest.raises(AssertionError):
            assert_same_output("a 1.234\n", other)
