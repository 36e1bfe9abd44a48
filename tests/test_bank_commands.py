"""The commands on banks and weights, with networks that take no time; real ones: test_bank_file."""

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import types

import numpy as np
import pytest
from PIL import Image

from jaxparc import bank_features, bank_file, feature_files, files, interrupts, weights_commands
from jaxparc.__main__ import main
from jaxparc.datasets import own

MODEL = """[[model]]
name = "{0}"
architecture = "resnet18"
weights = "{0}.bin"
size = 32
"""


def pictures(folder, counts=(16, 16, 16), seed=0):
    rng = np.random.default_rng(seed)
    for k, count in enumerate(counts):
        for i in range(count):
            file = folder / f"class{k}" / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).save(file)


@pytest.fixture
def bank(tmp_path, monkeypatch):
    """Three models, of which the last has no head; they see what follows from their weights."""
    for i, name in enumerate("abc"):
        (tmp_path / f"{name}.bin").write_bytes(bytes([i]))
    (tmp_path / "bank.toml").write_text("\n".join(MODEL.format(name) for name in "abc"))
    pictures(tmp_path / "x" / "pics")
    own.open_set.cache_clear()
    looked = []

    def look(entry, probe, batch_size):
        looked.append(entry.name)
        rng = np.random.default_rng([*entry.weights.read_bytes(), len(probe.labels)])
        features = rng.normal(size=(len(probe.labels), 8)).astype(np.float32)
        features += 3 * np.eye(3, 8, dtype=np.float32)[probe.labels]
        probs = rng.dirichlet(np.ones(4), len(probe.labels)).astype(np.float32)
        return {"features": features} | ({} if entry.name == "c" else {"probs": probs}), ()

    monkeypatch.setattr(bank_features, "_look", look)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return types.SimpleNamespace(path=tmp_path, looked=looked)


def rank(*words, bank="bank.toml", target="folder:x/pics", command="rank", images="30"):
    return main([command, bank, target, "--images", images, *words])


def rows(folder):
    lines = (folder / "scores.csv").read_text().splitlines()
    return {line.split(",")[0]: [float(cell) for cell in line.split(",")[1:]] for line in lines[1:]}


# ------------------------------------------------------------------------- whose features they are


def test_no_two_targets_banks_or_settings_share_a_folder(bank, capsys):
    pictures(bank.path / "y" / "pics", seed=1)
    (bank.path / "other").mkdir()
    (bank.path / "other" / "bank.toml").write_text(MODEL.format("a"))
    (bank.path / "other" / "a.bin").write_bytes(b"7")
    extract = functools.partial(rank, command="extract")
    assert extract() == 0
    assert extract(target="folder:y/pics") == 0
    assert extract("--seed", "1") == 0
    assert extract(images="27") == 0
    assert extract(bank="other/bank.toml") == 0
    folders = sorted((bank.path / "features").iterdir())
    assert len(folders) == 5
    assert all(re.fullmatch("bank-pics-[0-9a-f]{6}", folder.name) for folder in folders)
    assert "was there" not in capsys.readouterr().out
    assert (
        extract() == extract(target=f"folder:{bank.path}/x/pics") == 0
    )  # the same, said otherwise
    assert capsys.readouterr().out.count("was there") == 6
    assert sorted((bank.path / "features").iterdir()) == folders


@pytest.mark.parametrize("other", ["seed", "target", "images", "command"])
def test_a_folder_of_other_images_is_refused_and_kept(other, bank, capsys):
    pictures(bank.path / "y" / "pics", seed=1)
    assert rank("--out", "f", command="extract") == 0
    before = {path.name: path.read_bytes() for path in (bank.path / "f").iterdir()}
    bank.looked.clear()
    capsys.readouterr()
    done = {
        "seed": lambda: rank("--out", "f", "--seed", "1"),
        "target": lambda: rank("--out", "f", target="folder:y/pics"),
        "images": lambda: rank("--out", "f", images="27"),
        "command": lambda: rank("--out", "f", "--seed", "1", command="extract"),
    }[other]()
    err = capsys.readouterr().err
    assert (done, err.count("\n"), bank.looked) == (2, 1, [])
    assert f"f/a.npz was made of other images (30 images of {bank.path}/x/pics, seed 0, not" in err
    assert "move f away, or give another --out" in err
    assert {path.name: path.read_bytes() for path in (bank.path / "f").iterdir()} == before


def test_a_copy_of_the_images_elsewhere_is_the_same(bank, capsys):
    pictures(bank.path / "y" / "pics")
    words = ("--out", "f")
    assert rank(*words, command="extract") == 0
    assert rank(*words, command="extract", target="folder:y/pics") == 0
    assert capsys.readouterr().out.count("was there") == 3


def test_files_that_nobody_asked_for_are_neither_ranked_nor_written_over(bank, capsys):
    (bank.path / "f").mkdir()
    np.savez(bank.path / "f" / "stranger.npz", features=np.ones((30, 4)))
    assert rank("--out", "f") == 0
    assert capsys.readouterr().err == "note: not of this bank: stranger in f\n"
    assert list(rows(bank.path / "f")) == ["a", "b", "c"]
    (bank.path / "g").mkdir()
    np.savez(bank.path / "g" / "b.npz", features=np.ones((30, 4)))
    assert rank("--out", "g") == 2
    assert "g/b.npz does not say what it was made of, and would be" in capsys.readouterr().err
    assert feature_files.read_array(bank.path / "g" / "b.npz", "features").shape == (30, 4)


def test_a_folder_in_use_is_refused_and_its_reader_is_not(bank, capsys):
    assert rank("--out", "f") == 0
    capsys.readouterr()
    with files.locked(bank.path / "f", wait=False):
        assert rank("--out", "f") == rank("--out", "f", command="extract") == 1
        said = "another process is at work in f; wait for it, or give another --out\n"
        assert capsys.readouterr().err == 2 * f"python -m jaxparc: {said}"
        assert main(["score", "f"]) == 0


def test_a_damaged_file_is_made_again(bank):
    """Wherever a bit is flipped, and where its end is missing; NumPy compares no CRC in time."""
    assert rank("--out", "f") == 0
    path = bank.path / "f" / "b.npz"
    whole, scores = path.read_bytes(), rows(bank.path / "f")
    probe = bank_features.probe_images("folder:x/pics", 30, 0)
    made_of = bank_features._made_of(bank_file.read("bank.toml")[1], probe)
    there = bank_features._checked(path, made_of, probe)
    damaged = 0
    for position in range(0, len(whole), 11):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        found = bank_features._checked(path, made_of, probe)
        damaged += found is None
        for name, array in (found or {}).items():  # dates, and what else the format has
            np.testing.assert_array_equal(array, there[name], strict=True)
    assert damaged > 0.8 * len(whole) / 11
    for content in (whole[: len(whole) // 2], b"", b"PK"):
        path.write_bytes(content)
        bank.looked.clear()
        assert rank("--out", "f") == 0
        assert bank.looked == ["b"]
        assert rows(bank.path / "f") == scores


def test_what_decides_the_features_is_looked_at_by_its_content(bank, monkeypatch):
    entry = bank_file.read("bank.toml")[0]
    probe = bank_features.probe_images("folder:x/pics", 30, 0)
    first = bank_features._made_of(entry, probe)
    status = entry.weights.stat()

    def changed(**options):
        changes = {key: value for key, value in options.items() if key != "probe"}
        return bank_features._made_of(
            bank_file.dataclasses.replace(entry, **changes), options.get("probe", probe)
        )

    os.utime(entry.weights)  # a copy, or another machine
    assert changed() == first
    assert changed(licence="MIT", layers=7, source="x", source_images=5, name="z") == first
    for change in ({"size": 33}, {"mean": (0, 0, 0)}, {"std": (1, 1, 1)}, {"scheme": "timm"}):
        assert changed(**change) != first
    for change in ({"variant": "msra"}, {"weights_key": "ema"}, {"ignore": ("x",)}):
        assert changed(**change) != first
    for change in ({"channels": "bgr"}, {"stride_in_1x1": False}, {"stride_in_1x1": True}):
        assert changed(**change) != first
    entry.weights.write_bytes(b"X")  # as many bytes, at the same time
    os.utime(entry.weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed() != first
    monkeypatch.setattr(bank_features, "package", lambda: "another version")
    entry.weights.write_bytes(bytes([0]))
    assert changed() != first


def test_shards_belong_to_the_weights(tmp_path):
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "shard1").write_bytes(b"1")
    by_file, by_folder = tmp_path / "model.json", tmp_path
    first = bank_features._content(by_file)
    assert bank_features._content(by_folder) == first
    (tmp_path / "shard1").write_bytes(b"2")
    assert bank_features._content(by_file) == bank_features._content(by_folder) != first
    (tmp_path / "index").write_text(' {"weight_map": {}}')  # whatever it is called
    first = bank_features._content(tmp_path / "index")
    (tmp_path / "shard1").write_bytes(b"3")
    assert bank_features._content(tmp_path / "index") != first
    (tmp_path / "w.bin").write_bytes(b"1")
    alone = bank_features._content(tmp_path / "w.bin")
    (tmp_path / "config.json").write_text("{}")  # may say which variant they are
    assert bank_features._content(tmp_path / "w.bin") != alone


def test_models_that_cannot_be_run_do_not_stop_the_others(bank, capsys):
    os.remove(bank.path / "a.bin")
    os.mkfifo(bank.path / "a.bin")
    os.remove(bank.path / "b.bin")
    text = (bank.path / "bank.toml").read_text()
    escape = MODEL.format("x").replace('"x"', r'"\u001b[2J"')
    (bank.path / "bank.toml").write_text(text + escape)
    assert rank("--out", "f") == 1
    out, err = capsys.readouterr()
    assert "1/4 a: FAILED: a.bin is a pipe; expected a file" in out
    assert "2/4 b: FAILED: b.bin: No such file or directory" in out
    assert r"4/4 '\x1b[2J': FAILED: the name '\x1b[2J' holds a control character" in out
    assert err == "python -m jaxparc: 3 models failed: a, b, '\\x1b[2J'\n"
    assert list(rows(bank.path / "f")) == ["c"]


def test_features_outlive_weights_that_are_not_there(bank, capsys):
    assert rank("--out", "f") == 0
    os.rename(bank.path / "b.bin", bank.path / "elsewhere")
    assert rank("--out", "f") == 1
    assert list(rows(bank.path / "f")) == ["a", "c"]
    os.rename(bank.path / "elsewhere", bank.path / "b.bin")
    capsys.readouterr()
    assert rank("--out", "f") == 0
    assert capsys.readouterr().out.count("was there") == 3


def test_halves_that_a_killed_process_left_are_cleared_away(bank):
    (bank.path / "f").mkdir()
    half = bank.path / "f" / ".a.npz.12345.incomplete"
    half.write_bytes(b"PK")
    assert rank("--out", "f") == 0
    assert not half.exists()


# -------------------------------------------------------------------------- what cannot be scored


def test_what_cannot_be_scored_does_not_stop_the_rest(bank, capsys):
    assert rank("--methods", "rsa", "parc", "heuristic", "--probs", "--out", "f") == 1
    out, err = capsys.readouterr()
    notes = err.splitlines()
    assert notes[:2] == [
        "note: nce is NaN for c, without probs",
        "note: leep is NaN for c, without probs",
    ]
    assert notes[-1] == (
        "python -m jaxparc: not scored: rsa needs reference, from --reference FILE; heuristic "
        "needs source_images, from the key source_images of models"
    )
    assert (bank.path / "f" / "scores.csv").read_text().startswith("model,parc,nce,leep\n")
    scores = rows(bank.path / "f")
    assert np.isnan(scores["c"]).tolist() == [False, True, True]
    assert np.isfinite(scores["a"]).all()
    # the others have what they have without it
    assert main(["score", "f", "--methods", "parc", "--out", "s"]) == 0
    assert {name: values[0] for name, values in scores.items()} == {
        name: values[0] for name, values in rows(bank.path / "s").items()
    }
    assert main(["score", "f", "--methods", "nce", "leep", "dds", "--out", "s"]) == 1
    assert np.isnan(rows(bank.path / "s")["c"]).all()
    os.remove(bank.path / "f" / "c.npz")
    assert main(["score", "f", "--methods", "nce", "leep", "--out", "s"]) == 0
    assert {name: scores[name][1:] for name in "ab"} == rows(bank.path / "s")


def test_rank_takes_a_reference(bank, capsys):
    assert rank("--out", "f", command="extract") == 0
    words = ("--methods", "rsa", "dds", "--reference", "f/b.npz")
    assert rank(*words, "--out", "f") == 0
    assert rows(bank.path / "f")["b"] == pytest.approx([100, 100], abs=1e-3)
    assert list(rows(bank.path / "f")) == ["a", "b", "c"]  # what is ranked is what the bank has


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("none.npy", "none.npy cannot be read"),
        ("short.npy", "short.npy: reference has shape (29, 8); expected (30, d)"),
        ("nan.npy", "nan.npy: reference is not finite"),
        ("other.npz", "other.npz has other labels than the 30 images of"),
    ],
)
def test_a_wrong_reference_is_refused_before_a_model_runs(file, reason, bank, capsys):
    np.save("short.npy", np.eye(29, 8))
    np.save("nan.npy", np.full((30, 8), np.nan))
    np.savez("other.npz", features=np.eye(30, 8), labels=np.zeros(30))
    assert rank("--methods", "rsa", "--reference", file) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1
    assert bank.looked == []
    assert not (bank.path / "features").exists()


@pytest.mark.parametrize(
    ("labels", "words", "reason"),
    [
        (range(9), (), "method 'parc_f32' compares images of one class with others; no class has"),
        ([*range(8), 0], ("--methods", "knn", "logistic"), "'knn' needs two images of every class"),
        ([0, 1] * 9, ("--batch_size", "0"), "--batch_size is 0; expected at least 1"),
        ([0, 1] * 9, ("--seed", "-1"), "--seed is -1; expected at least 0"),
        ([0, 1] * 9, ("--methods", "parc", "nope"), "unknown method 'nope'"),
        (
            [0, 1] * 9,
            ("--methods", "rsa", "dds"),
            "rsa needs reference, from --reference FILE; dds",
        ),
    ],
)
def test_methods_that_cannot_be_are_refused_before_a_model_runs(
    labels, words, reason, bank, capsys
):
    pixels = np.random.default_rng(0).integers(0, 255, (len(labels), 6, 6, 3), np.uint8)
    arrays = {"images": pixels, "labels": np.array(labels)}
    np.savez("z.npz", **arrays, **{f"test_{name}": array for name, array in arrays.items()})
    assert rank(*words, target="npz:z.npz") == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1
    assert bank.looked == []
    assert not (bank.path / "features").exists()


def test_methods_for_classes_are_left_out_where_images_have_several(bank, capsys, monkeypatch):
    names = ["a|b", "b|c", "c|a", "a", "b", "c"]
    listing = [f"x/pics/class{k}/{i}.png,{names[i % 6]}" for k in range(3) for i in range(16)]
    (bank.path / "several.csv").write_text("path,label\n" + "\n".join(listing) + "\n")

    def look(entry, probe, batch_size):
        rng = np.random.default_rng([*entry.weights.read_bytes()])
        return {"features": rng.normal(size=(len(probe.labels), 8)).astype(np.float32)}, ()

    monkeypatch.setattr(bank_features, "_look", look)
    words = ("--methods", "parc", "hscore", "--out", "f")
    assert rank(*words, target="csv:several.csv", images="20") == 1
    out, err = capsys.readouterr()
    said = "not scored: method 'hscore' takes classes labels; these are multi_label"
    assert err == f"python -m jaxparc: {said}\n"
    assert (bank.path / "f" / "scores.csv").read_text().startswith("model,parc\n")


# ------------------------------------------------------------------------------------- interrupts


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ImportError])
def test_an_interrupt_is_one_line_and_keeps_what_is_done(raised, bank, capsys, monkeypatch):
    """Also where a library makes another error of it."""
    look = bank_features._look

    def interrupted(entry, probe, batch_size):
        if entry.name == "b":
            monkeypatch.setitem(interrupts._state, "came", True)
            raise raised
        return look(entry, probe, batch_size)

    monkeypatch.setitem(interrupts._state, "came", False)
    with monkeypatch.context() as patch:
        patch.setattr(bank_features, "_look", interrupted)
        assert rank("--out", "f") == 130
    said = "interrupted; 1 of 3 models are done and kept in f"
    assert capsys.readouterr().err == f"python -m jaxparc: {said}\n"
    monkeypatch.setitem(interrupts._state, "came", False)
    bank.looked.clear()
    assert rank("--out", "f") == 0
    assert bank.looked == ["b", "c"]


def test_an_interrupt_while_scoring_keeps_the_features(bank, capsys, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("jaxparc.scoring.score", interrupted)
        assert rank("--out", "f") == 130
        assert "interrupted; features are kept in f" in capsys.readouterr().err
        assert main(["score", "f"]) == 130
        assert capsys.readouterr().err == ("python -m jaxparc: interrupted; what is done is kept\n")
    assert not list(bank.path.rglob("*.incomplete"))


def test_an_interrupt_of_data_prepare_says_how_far_it_was(capsys, monkeypatch, bank):
    calls = []

    def prepare(name, **options):
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("jaxparc.datasets.prepare", prepare)
    assert main(["data", "prepare", "digits", "folder:x/pics"]) == 130
    assert "interrupted; 1 of 2 are prepared" in capsys.readouterr().err


WATCHED = """
import signal, sys, time
from jaxparc import interrupts
interrupts.GRACE = 0.3
interrupts.watch("program")
{}
print("went on")
"""
SWALLOWED = {
    "while it waits": "signal.raise_signal(signal.SIGINT)",
    "at the end": "signal.raise_signal(signal.SIGTERM)",
    "by a library": "try: signal.raise_signal(signal.SIGINT)\nexcept BaseException: time.sleep(9)",
    "twice": "try: signal.raise_signal(signal.SIGINT)\n"
    "except BaseException: signal.raise_signal(signal.SIGINT)",
    "as another error": "try: signal.raise_signal(signal.SIGINT)\n"
    "except BaseException: raise ImportError",
    "in a callback": "class Callback:\n  def __del__(self): signal.raise_signal(signal.SIGINT)\n"
    "Callback()\ntime.sleep(9)",
    "beside a thread": "import threading as t\nt.Thread(target=time.sleep, args=(9,)).start()\n"
    "signal.raise_signal(signal.SIGINT)",
}


@pytest.mark.parametrize("how", SWALLOWED)
def test_an_interrupt_ends_the_process_whatever_is_made_of_it(how):
    done = subprocess.run(
        [sys.executable, "-c", WATCHED.format(SWALLOWED[how])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 130
    assert (done.stdout, done.stderr) == ("", "program: interrupted; what is done is kept\n")


def test_an_interrupt_while_modules_are_imported_is_one_line(tmp_path):
    (tmp_path / "torn.py").write_text(
        "import signal\ntry: signal.raise_signal(signal.SIGINT)\nexcept BaseException: pass\n"
    )
    code = WATCHED.format(f"sys.path.insert(0, {str(tmp_path)!r})\nimport torn")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "program: interrupted; what is done is kept\n"


def test_commands_import_little_before_they_watch():
    code = "import sys, jaxparc.__main__; print({'jax', 'numpy', 'rich'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    "words",
    [
        ("jaxparc", "data", "list"),
        ("experiments.benchmark", "--benchmark", "smoke"),
        ("experiments.import_probes", "none", "--out", "o"),
        ("experiments.report", "--oracle", "none", "--out", "o"),
        ("experiments.speed", "bank", "--quick"),
    ],
)
def test_commands_can_be_interrupted_as_soon_as_they_start(words, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONVERBOSE": "1"}
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment
    ) as process:
        for line in process.stderr:
            if line.startswith("import 'numpy"):
                process.send_signal(signal.SIGINT)
                break
        said = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted" in said
    assert "Traceback" not in said


# ---------------------------------------------------------------------- weights that are written


@contextlib.contextmanager
def tiny_disk(folder):
    """A file system of 64 KiB, where this process may make one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs to mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class Weights(types.SimpleNamespace):
    """A loaded network, as far as writing it goes."""

    def __init__(self, megabytes=0.2):
        values = np.zeros(int(megabytes * 2**18), np.float32)
        super().__init__(
            variables={"params": {"w": values}},
            spec=types.SimpleNamespace(name="resnet18", mean=(0, 0, 0), std=(1, 1, 1)),
            module=types.SimpleNamespace(num_classes=3),
            scheme="jaxparc",
            left_out=(),
        )


def tuned(accuracy=90.0, largest=34.0, **options):
    return bank_file.Tuned(Weights(**options), accuracy, 300, largest)


def training(monkeypatch, result=None):
    """Training takes no time, and gives this."""

    def trained(*args, keep, **options):
        keep((result or tuned()).loaded)
        return result or tuned()

    monkeypatch.setattr(bank_file, "finetune", trained)


def finetune(*words, target="folder:x/pics"):
    return main(["finetune", "bank.toml", "a", target, "--steps", "4", "--batch_size", "8", *words])


PLACES = {
    "a folder": (lambda path: path.mkdir(), "it is a folder"),
    "a pipe": (os.mkfifo, "it is no regular file"),
    "in a file": (lambda path: path.parent.write_text(""), "Not a directory"),
    "a long name": (lambda path: None, "File name too long"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("command", ["finetune", "convert"])
def test_where_nothing_can_be_written_nothing_is_computed(
    place, command, bank, capsys, monkeypatch
):
    def computed(*args, **options):
        raise AssertionError

    monkeypatch.setattr(bank_file, "finetune", computed)
    monkeypatch.setattr("jaxparc.models.load", computed)
    monkeypatch.setattr("jaxparc.weights.loading.guess", computed)
    make, reason = PLACES[place]
    path = bank.path / "out" / ("n" * 250 if place == "a long name" else "w")
    path = path.with_suffix(".safetensors")
    if place != "in a file":
        path.parent.mkdir()
    make(path)
    words = ["--out", str(path)] if command == "finetune" else []
    code = finetune(*words) if words else main(["convert", "a.bin", str(path)])
    assert code == 1
    assert capsys.readouterr().err == f"python -m jaxparc: cannot write {path}: {reason}\n"


def test_weights_go_elsewhere_where_the_disk_fills_up_on_the_way(bank, capsys, monkeypatch):
    training(monkeypatch)
    monkeypatch.setattr("jaxparc.models.load", lambda *args, **options: Weights())
    with tiny_disk(bank.path / "disk"):
        assert finetune("--out", "disk/w.safetensors") == 1
        out, err = capsys.readouterr()
        assert out == "a on pics: 90.00 % of the test images\n"
        other = bank.path / f"w-{os.getpid()}.safetensors"
        full = "cannot write disk/w.safetensors: No space left on device"
        said = f"{full}; the weights are in {other}"
        assert err == f"python -m jaxparc: {said}\n"
        assert other.stat().st_size > 200_000
        assert list((bank.path / "disk").iterdir()) == []
        other.unlink()
        words = ["convert", "a.bin", "disk/w.safetensors", "--architecture", "resnet18"]
        assert main(words) == 1
        assert capsys.readouterr().err == f"python -m jaxparc: {said}\n"
        # a full disk is seen before
        (bank.path / "disk" / "full").write_bytes(bytes(16 * 4096))
        assert main(words) == finetune("--out", "disk/w.safetensors") == 1
        assert capsys.readouterr().err == 2 * f"python -m jaxparc: {full}\n"


def test_weights_that_fit_nowhere_are_one_line(bank, capsys, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    training(monkeypatch)
    monkeypatch.setattr("jaxparc.weights.native.save", full)
    assert finetune() == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"No space left on device; nor in {bank.path} or " in err
    assert not (bank.path / "finetuned").exists()


@pytest.mark.parametrize(
    ("accuracy", "largest", "images", "said"),
    [
        (10.8, 10.0, 500, True),
        (10.8, 10.0, 100_000, False),
        (9.0, 10.0, 100_000, True),
        (60.0, 58.0, 200, True),  # of unequal classes
        (90.0, 34.0, 10, False),
        (10.8, None, 500, False),
    ],
)
def test_accuracy_at_chance_level_is_said(
    accuracy, largest, images, said, bank, capsys, monkeypatch
):
    result = tuned(accuracy, largest)._replace(images=images)
    training(monkeypatch, result)
    assert finetune() == 0
    out = capsys.readouterr().out
    assert ("that is at chance level" in out) == said
    assert (f"{largest} % of them are of the largest class; another --learning_rate" in out) == said


def test_no_two_trainings_share_a_file(bank, capsys, monkeypatch):
    pictures(bank.path / "y" / "pics", seed=1)
    training(monkeypatch)
    assert finetune() == finetune(target="folder:y/pics") == finetune("--seed", "1") == 0
    assert len(list((bank.path / "finetuned").iterdir())) == 3
    assert finetune() == 0
    (bank.path / "a.bin").write_bytes(b"other weights")
    assert finetune() == 0
    assert len(list((bank.path / "finetuned").iterdir())) == 4


def test_two_trainings_at_once_do_not_write_one_file(bank, capsys):
    with weights_commands._alone_at(
        bank.path / "w.safetensors", bank.path / ".w.safetensors.partial", bank.path / "none"
    ):
        assert finetune("--out", "w.safetensors") == 1
    said = "another process trains what goes to w.safetensors; wait for it, or give another --out"
    assert capsys.readouterr().err == f"python -m jaxparc: {said}\n"


def test_an_interrupted_training_that_cannot_be_kept_says_so(bank, capsys, monkeypatch):
    def full(*args, **options):
        interrupts._state["came"] = True
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(interrupts._state, "came", False)
    monkeypatch.setattr(bank_file, "finetune", full)
    assert finetune() == 130
    said = "interrupted; 0 of 4 steps were done and cannot be kept: No space left on device"
    assert capsys.readouterr().err == f"python -m jaxparc: {said}\n"


def test_an_interrupt_while_the_accuracy_is_measured_keeps_the_weights(bank, capsys, monkeypatch):
    def interrupted(*args, keep, **options):
        keep(Weights())
        raise KeyboardInterrupt

    monkeypatch.setattr(bank_file, "finetune", interrupted)
    assert finetune("--out", "w.safetensors") == 130
    said = "interrupted; the weights are written to w.safetensors"
    assert capsys.readouterr().err == f"python -m jaxparc: {said}\n"
    assert (bank.path / "w.safetensors").stat().st_size > 200_000
    assert not (bank.path / ".w.safetensors.partial").exists()


@pytest.mark.parametrize("saved", [False, True])
def test_an_interrupted_training_goes_on(saved, bank, capsys, monkeypatch):
    places = []

    def interrupted(*args, partial, watch, keep, **options):
        places.append(partial)
        if len(places) > 1:
            keep(Weights())
            return tuned()
        watch(types.SimpleNamespace(first=2, metrics={"loss": np.zeros((1, 1))}))
        if saved:
            partial.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(bank_file, "finetune", interrupted)
    assert finetune() == 130
    said = "kept, and the same command goes on" if saved else "done"
    assert f"interrupted; 3 of 4 steps {'are' if saved else 'were'} {said}\n" in (
        capsys.readouterr().err
    )
    assert (bank.path / "finetuned").exists() == saved
    assert finetune() == 0
    assert places[0] == places[1]
    monkeypatch.setattr(bank_features, "package", lambda: "another version")
    assert finetune() == 0
    assert places[0] != places[2]
    assert len(list((bank.path / "finetuned").iterdir())) == 1
