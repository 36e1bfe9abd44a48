"""What users install and import: the public names, and a wheel with few libraries beside it."""

import configparser
import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest

import jaxparc

ROOT = Path(__file__).parents[1]
SCORES = """
import importlib.util
import sys
import numpy as np
import jaxparc

assert jaxparc.__file__.startswith(sys.prefix), jaxparc.__file__
absent = ("flax", "optax", "orbax", "grain", "tensorflow_datasets", "PIL", "pandas", "pytest")
assert not any(map(importlib.util.find_spec, absent))
rng = np.random.default_rng(0)
y = np.arange(40) % 4
bank = {"a": rng.normal(size=(40, 8)) + y[:, None], "b": rng.normal(size=(40, 9))}
probs = dict.fromkeys(bank, rng.dirichlet(np.ones(3), 40))
methods = ("parc_f4", "rsa", "dds", "hscore_f4", "knn", "logistic", "leep", "nce")
scores = jaxparc.score_bank(bank, y, methods=methods, probs=probs, reference=bank["a"])
assert np.isfinite(scores.values).all() and scores.best == "a"
extracted = jaxparc.extract(lambda images: images.reshape(-1, 6), rng.normal(size=(40, 2, 3)))
jaxparc.score_bank({"flat": extracted}, y)
print(scores.best)
print(scores)
"""
# What needs an extra says so in one line; the traceback of Python code ends in it.
IMAGES = """
import numpy as np
import jaxparc
flat = lambda images: images.reshape(-1, 192) / 255
images = np.random.default_rng(0).integers(0, 255, (40, 8, 8, 3), np.uint8)
jaxparc.rank({"a": flat, "b": flat}, images, np.arange(40) % 4)
"""


def command(*words):
    call = "import jaxparc.__main__ as m; m.run()"
    return f"import sys; sys.argv = {['jaxparc', *words]}; {call}"


MISSING = {
    "import jaxparc; jaxparc.weights": ("jaxparc.extras.MissingPackageError: flax", "bank"),
    IMAGES: ("jaxparc.extras.MissingPackageError: pillow", "bank"),
    command("rank", "bank.toml", "photos"): ("jaxparc: pillow", "bank"),
    # all at once, rather than pillow with `bank` first, and then optax with `train`
    command("finetune", "ranked", "--top", "2"): ("jaxparc: pillow", "train"),
    command("predict", "weights.safetensors", "photos"): ("jaxparc: pillow", "train"),
    command("data", "list"): ("jaxparc: pillow", "train"),
}


def test_public_names_and_modules_are_there():
    for name in dir(jaxparc):
        assert getattr(jaxparc, name) is not None
    assert issubclass(jaxparc.InputError, ValueError)
    assert issubclass(jaxparc.UndefinedScoreWarning, UserWarning)
    assert callable(jaxparc.extract)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        getattr(jaxparc, "nothing")  # noqa: B009


def test_submodules_are_reachable_after_importing_the_package_alone():
    modules = "datasets", "models", "weights", "evaluation", "selectors", "labels"
    code = f"import jaxparc; print(*(getattr(jaxparc, name).__name__ for name in {modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"jaxparc.{module}" for module in modules]


def required(*names):
    """Distributions with all that they require."""
    found = {}
    waiting = list(names)
    while waiting:
        name = re.split(r"[^A-Za-z0-9._-]", waiting.pop(), maxsplit=1)[0]
        if name not in found:
            found[name] = importlib.metadata.distribution(name)
            waiting += [r for r in found[name].requires or () if "extra ==" not in r]
    return found.values()


def test_the_console_script_runs_the_command_line(capsys, monkeypatch):
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    script = setup["options.entry_points"]["console_scripts"].strip()
    point = importlib.metadata.EntryPoint(*script.split(" = "), group="console_scripts")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/jaxparc", "nonsense"])
    monkeypatch.setattr("jaxparc.interrupts.watch", lambda program: print(program))
    with pytest.raises(SystemExit) as stop:
        point.load()()
    out, err = capsys.readouterr()
    assert (point.name, stop.value.code, out) == ("jaxparc", 2, "jaxparc\n")
    assert err.startswith("jaxparc: argument COMMAND: invalid choice: 'nonsense'")


@pytest.mark.slow
def test_an_installed_wheel_scores_with_jax_numpy_and_rich_alone(tmp_path):
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("jaxparc", "experiments", "tests"):
        (source / name).mkdir(parents=True)
        (source / name / "__init__.py").touch()
    shutil.copytree(ROOT / "jaxparc", source / "jaxparc", ignore=ignored, dirs_exist_ok=True)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("jaxparc-*.whl")

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    variables = {"base": str(tmp_path / "venv"), "platbase": str(tmp_path / "venv")}
    site = Path(sysconfig.get_path("purelib", vars=variables))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # Nothing that would collide with a user's own packages.
    assert {p.name for p in site.iterdir()} == {
        "jaxparc",
        f"jaxparc-{jaxparc.__version__}.dist-info",
    }
    assert (site / "jaxparc" / "py.typed").exists()
    for distribution in required("jax", "numpy", "rich", "portalocker"):
        for top in {Path(file).parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            (site / top).symlink_to(distribution.locate_file(top))

    python = tmp_path / "venv" / "bin" / "python"
    command = [python, "-I", "-W", "error", "-c", SCORES]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("a\n")
    y = np.arange(40) % 4
    np.savez(tmp_path / "a.npz", features=np.random.default_rng(0).normal(size=(40, 8)), labels=y)
    version = f"jaxparc {jaxparc.__version__}\n".encode()
    assert subprocess.check_output([python, "-I", "-m", "jaxparc", "--version"]) == version
    command = [python, "-I", "-m", "jaxparc", "score", ".", "--out", "scores"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "parc_f32" in done.stdout
    for code, (start, extra) in MISSING.items():
        done = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True)
        message = f'{start} is not installed: pip install "jaxparc[{extra}]"'
        assert (done.returncode, done.stderr.splitlines()[-1]) == (1, message)
