import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import extract_probes, import_probes, probe_images
from experiments.import_probes import PublishedFileError, import_file
from experiments.tables.read import ORACLE, TableError, read_accuracies
from jaxparc import files, models, printing
from jaxparc.evaluation import Transfer

N = 12


def content(**changes):
    """What a published probe file holds."""
    rng = np.random.default_rng(0)
    return {
        "features": rng.normal(size=(N, 5)).astype(np.float32),
        "probs": rng.dirichlet(np.ones(7), N).astype(np.float32),
        "y": [i % 3 for i in range(N)],
        "source_dataset": "nabird",
        "target_dataset": "oxford_pets",
        "architecture": "resnet50",
    } | changes


def dumped(folder, probe, name="resnet50_nabird_oxford_pets_3.pkl", protocol=4):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(probe, protocol=protocol))
    return path


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "experiments.import_probes", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "y",
    [
        [i % 3 for i in range(N)],
        np.arange(N) % 3,
        [np.int64(i % 3) for i in range(N)],
        [np.eye(3)[i % 3] for i in range(N)],
        np.eye(3)[np.arange(N) % 3],
    ],
    ids=["ints", "array", "scalars", "rows", "multi-label"],
)
def test_a_probe_file_goes_in_whole(y, protocol, tmp_path):
    probe = content(y=y)
    written = import_file(dumped(tmp_path, probe, protocol=protocol), tmp_path / "out")
    assert written == tmp_path / "out/probes/resnet50_nabird_oxford_pets_3.npz"
    transfer = Transfer("resnet50", "nabird", "oxford_pets")
    found = extract_probes.read(written, extract_probes.unit_name(transfer, 3))
    for field in ("features", "probs"):
        np.testing.assert_array_equal(found[field], probe[field])
    np.testing.assert_array_equal(found["y"], np.array(y))
    assert found["y"].dtype == (np.int32 if np.ndim(y) == 1 else np.float32)
    assert tuple(str(found[field]) for field in import_probes.NAMES) == transfer
    assert np.isnan(found["seconds"])


def test_names_come_from_the_content(tmp_path):
    probe = content(source_dataset="panoptic-rcnn_fpn_139514544")
    written = import_file(dumped(tmp_path, probe, "some_name_0.pkl"), tmp_path / "out")
    assert written.name == "resnet50_panoptic-rcnn_fpn_139514544_oxford_pets_0.npz"


class Runs:
    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"features": None}, "features is NoneType; expected an array, or a list"),
        ({"features": np.zeros((N, 5), int)}, "features is int64 (12, 5); expected floats (n, d)"),
        ({"features": np.zeros(N)}, "features is float64 (12,); expected floats (n, d)"),
        ({"features": np.zeros((N, 0))}, "features is float64 (12, 0); expected"),
        (
            {"probs": np.zeros((4, 7))},
            "features of 12, probs of 4, y of 12; expected the same number",
        ),
        ({"y": ["cat"] * N}, "y is list; expected an array, or a list of numbers"),
        ({"y": np.array(["cat"] * N)}, "y is <U3 (12,); expected numbers (n,) or (n, c)"),
        ({"y": [[1], [1, 2]] * 6}, "y is list; expected an array, or a list of numbers"),
        ({"y": np.full(N, 0.5)}, "y has fractional values; expected class indices or annotation"),
        ({"y": np.full((N, 3), np.nan)}, "y has non-finite values"),
        ({"y": np.full((N, 3), -1)}, "y has negative values"),
        (
            {"y": np.array([{}] * N)},
            "is refused and was not executed: it holds an array of 'O8'",
        ),
        ({"architecture": "vit"}, "unknown architecture 'vit'; the closest are vit_"),
        ({"source_dataset": "../../x"}, "source_dataset is '../../x'; expected a name"),
        ({"target_dataset": 3}, "target_dataset is 3; expected a name"),
    ],
)
def test_what_is_no_probe_file_is_refused(changes, reason, tmp_path):
    path = dumped(tmp_path, content(**changes))
    with pytest.raises(PublishedFileError) as error:
        import_file(path, tmp_path / "out")
    assert reason in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_field_and_other_content_are_named(tmp_path):
    probe = content()
    del probe["probs"], probe["y"]
    with pytest.raises(PublishedFileError, match="lacks probs, y$"):
        import_file(dumped(tmp_path, probe), tmp_path)
    with pytest.raises(PublishedFileError, match="holds list; expected a dictionary of features"):
        import_file(dumped(tmp_path, [1, 2]), tmp_path)
    (tmp_path / "page_0.pkl").write_text("<html>")
    with pytest.raises(PublishedFileError, match=r"page_0\.pkl cannot be read: not a valid pickle"):
        import_file(tmp_path / "page_0.pkl", tmp_path)
    with pytest.raises(
        PublishedFileError, match="the name is 'resnet50'; expected it to end in _<number"
    ):
        import_file(dumped(tmp_path, content(), "resnet50.pkl"), tmp_path)


def test_a_bad_file_is_named_and_does_not_stop_the_others(tmp_path):
    folder, out, made = tmp_path / "in", tmp_path / "out", tmp_path / "made"
    for run in range(3):
        dumped(folder / f"run{run}", content(), f"resnet50_nabird_oxford_pets_{run}.pkl")
    bad = dumped(folder, content(features=Runs(made)), "bad_0.pkl")
    (folder / "oracle.csv").write_text(HEADER + "vit,a,b,50\n")
    done = command(folder, "--out", out)
    assert done.returncode == 1
    assert not made.exists()
    assert len(list((out / "probes").glob("*.npz"))) == 3
    unknown = (
        f"{folder}/oracle.csv line 2: unknown architecture 'vit'; the closest are "
        f"{printing.closest('vit', models.MODELS)} (`jaxparc models` lists all)"
    )
    assert done.stderr == (
        f"python -m experiments.import_probes: {bad} is refused and was not executed: "
        f"it asks for {os.name}.system\n"
        f"python -m experiments.import_probes: {printing.line(TableError(unknown))}\n"
    )
    assert "imported 3 of 5 files to" in done.stdout


def test_nothing_to_import_exits_2(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "nothing.pkl"):
        monkeypatch.setattr(sys, "argv", ["import_probes", str(path), "--out", f"{tmp_path}/out"])
        with pytest.raises(SystemExit) as stop:
            import_probes.main()
        assert stop.value.code == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert str(path) in said
    assert not (tmp_path / "out").exists()


# Oracle tables

HEADER = "Architecture,Source Dataset,Target Dataset,Oracle\n"


def test_a_table_goes_in_as_it_is(tmp_path):
    text = f"{HEADER}resnet50,nabird,cub200,88.1\nresnet101,x_imagenet,cub200,-1.0\n"
    (tmp_path / "all.csv").write_text(text)
    assert import_file(tmp_path / "all.csv", tmp_path / "out") == tmp_path / "out/oracle.csv"
    assert (tmp_path / "out/oracle.csv").read_text() == text
    found = read_accuracies(tmp_path / "out/oracle.csv")
    assert found[Transfer("resnet50", "nabird", "cub200")] == 88.1
    assert np.isnan(found[Transfer("resnet101", "x_imagenet", "cub200")])


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("vit,a,b,50\n", "line 2: unknown architecture 'vit'; the closest are vit_"),
        (
            "alexnet,a,b,50\nalexnet,a,c,50\nalexnet,a,b,51\n",
            "line 4: duplicate transfer 'alexnet/a/b', first on line 2",
        ),
        ("alexnet,a,b,50\nalexnet,a,c,100.1\n", "line 3: Oracle is '100.1'; expected a percentage"),
        ("alexnet,a,b,-0.5\n", "line 2: Oracle is '-0.5'"),
        ("alexnet,a,b,high\n", "line 2: Oracle is 'high'"),
        ("alexnet,a,b,nan\n", "line 2: Oracle is 'nan'"),
        ("alexnet,a,b,inf\n", "line 2: Oracle is 'inf'"),
        ("alexnet,,b,50\n", "line 2: Source Dataset is empty"),
        ("alexnet,a\n", "line 2 has 2 cells; expected 4"),
        ("alexnet,a,b,1_0\n", "line 2: Oracle is '1_0'"),
    ],
)
def test_wrong_rows_are_named_by_line(rows, reason, tmp_path):
    path = tmp_path / "all.csv"
    path.write_text(HEADER + rows)
    with pytest.raises(TableError) as error:
        read_accuracies(path)
    assert f"{path} {reason}" in str(error.value)
    with pytest.raises(PublishedFileError, match="line"):
        import_file(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_table_without_the_columns_is_refused(tmp_path):
    path = tmp_path / "all.csv"
    for text, reason in {
        "a,b\n1,2\n": "has no column Architecture, Source Dataset, Target Dataset, Oracle",
        "": "has no column Architecture",
        HEADER.replace("Oracle", "Accuracy"): "has no column Oracle",
    }.items():
        path.write_text(text)
        with pytest.raises(TableError, match=reason):
            read_accuracies(path)


@pytest.mark.parametrize(
    ("name", "rows", "valid"), [("controlled", 196, 196), ("crowd_sourced", 469, 459)]
)
def test_the_published_tables_go_in(name, rows, valid):
    folder = os.environ.get("JAXPARC_ORACLES")
    if folder is None:
        pytest.skip("JAXPARC_ORACLES names no folder of the published tables")
    found = read_accuracies(Path(folder) / f"{name}.csv")
    assert len(found) == rows
    assert np.isfinite(list(found.values())).sum() == valid


# Damage


def test_a_flipped_bit_of_a_probe_file_is_noticed(tmp_path):
    transfer = Transfer("resnet50", "nabird", "oxford_pets")
    path = tmp_path / extract_probes.file_name(transfer, 3)
    arrays = {"features": np.ones((4, 2), np.float32), "y": np.arange(4)}
    extract_probes.write(path, transfer, 3, arrays, 1.0)
    name = extract_probes.unit_name(transfer, 3)
    whole, expected = path.read_bytes(), extract_probes.read(path, name)
    # the header of the first array, of which NumPy compares no checksum
    start = whole.index(b"\x93NUMPY")
    for bit in range(8 * start, 8 * (start + 128), 3):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        with pytest.raises(files.DamagedFileError, match="is damaged"):
            extract_probes.read(path, name)
    path.write_bytes(whole)
    assert extract_probes.read(path, name).keys() == expected.keys()


def test_a_damaged_npz_and_damaged_labels_are_refused_by_name(tmp_path):
    path = tmp_path / "resnet50_nabird_oxford_pets_3.npz"
    np.savez(path, **{k: v for k, v in content().items() if k != "y"})
    folder = probe_images.folder_of(tmp_path / "out", "oxford_pets", 3)
    folder.mkdir(parents=True)
    np.save(folder / "labels.npy", np.arange(N) % 3)
    assert import_file(path, tmp_path / "out").exists()
    os.truncate(folder / "labels.npy", 140)
    with pytest.raises(PublishedFileError, match=r"labels\.npy cannot be read"):
        import_file(path, tmp_path / "out")
    data = bytearray(path.read_bytes())
    data[data.index(b"descr")] ^= 1
    path.write_bytes(data)
    with pytest.raises(PublishedFileError, match=r"_3\.npz cannot be read"):
        import_file(path, tmp_path / "out")


def test_a_table_goes_in_without_its_byte_order_mark(tmp_path):
    text = ",".join(ORACLE) + "\nresnet50,a,b,50\n"
    (tmp_path / "o.csv").write_text("\ufeff" + text, encoding="utf-8")
    assert import_file(tmp_path / "o.csv", tmp_path / "out").read_text(encoding="utf-8") == text


def test_a_name_too_long_for_a_file_is_refused(tmp_path):
    path = dumped(tmp_path, content(source_dataset="x" * 190))
    with pytest.raises(PublishedFileError, match="bytes long; expected at most 200"):
        import_file(path, tmp_path / "out")
