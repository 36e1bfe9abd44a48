import csv
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from jaxparc import files


def table(tmp_path, content):
    path = tmp_path / "x.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return files.read_table(path)


def test_a_table_is_read_with_the_lines_that_an_editor_counts(tmp_path):
    head, rows = table(tmp_path, '\ufeffa,b,,\r\n1,"x\ny"\r\n\r\n2,y\u2028z,,\r\n')
    assert head == ["a", "b"]
    assert rows == [(2, {"a": "1", "b": "x\ny"}), (5, {"a": "2", "b": "y\u2028z"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('a,b\n1,"x\ny"\n\n2,3,4\n', "line 5 has 3 cells; expected 2: a, b"),
        ("a,b\n1\n", "line 2 has 1 cells; expected 2: a, b"),
        ("a,b,a\n1,2,3\n", "a duplicate column 'a'"),
        ('a,b\n1,2\n"1,2\n', "line 3: unexpected end"),
        (b"a,b\n1,\xff\n", "line 2 is not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), "is UTF-16; expected UTF-8"),
    ],
)
def test_a_table_whose_cells_could_be_lost_is_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match="x.csv") as caught:
        table(tmp_path, content)
    assert message in str(caught.value)


def test_pipes_and_devices_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, kind in {"pipe": "a pipe", "zero": "a device", ".": "a folder"}.items():
        with pytest.raises(ValueError, match=f"is {kind}; expected a file"):
            files.read_text(tmp_path / name)


FORMULAS = ["=cmd|' /C calc'!A0", "+x", "-x", "@x", "\tx", " =x", "\n=x", "\nx", "＝x"]  # noqa: RUF001
FORMULAS += ["'=x", "''-x", "-", "=1", "-1+x"]
TEXTS = ["x", "a,b", 'a"b', "'x", "x=1", "", "a\nb", "modèle-日本"]
NUMBERS = ["-1.5", "+2", "-inf", "nan", "-1e-05", "-5.4 ± 0.1", "-3.0 to 7.1", "-5.42 ± 0.1 ≈"]


def test_no_cell_is_a_formula_and_all_are_read_back(tmp_path):
    names = [*FORMULAS, *TEXTS, *NUMBERS]
    text = files.table_text([["=model", "n"], *([name, 1] for name in names)])
    files.write_text(tmp_path / "x.csv", text)
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        raw = [row[0] for row in csv.reader(file)]
    assert raw == ["'=model", *(f"'{name}" for name in FORMULAS), *TEXTS, *NUMBERS]
    head, rows = files.read_table(tmp_path / "x.csv", ours=True)
    assert head == ["=model", "n"]
    assert [row.cells["=model"] for row in rows] == names
    assert files.read_table(tmp_path / "x.csv")[0] == ["'=model", "n"]


@pytest.mark.parametrize("cell", ["1_0", "１", "0x1", "1,5", "", "- 1", "1e", "ten", "1 2"])  # noqa: RUF001
def test_numbers_are_written_in_ascii_digits(cell):
    with pytest.raises(ValueError, match="is not a number"):
        files.number(cell)


@pytest.mark.parametrize("cell", ["1", "-1.5", "+.5", "5.", "1e-3", "inf", "-Infinity", " 7 "])
def test_usual_numbers_are_read(cell):
    assert files.number(cell) == float(cell)
    assert np.isnan(files.number("nan"))


def test_text_is_utf8_whatever_it_holds(tmp_path):
    files.write_text(tmp_path / "x", "modèle\udcff")
    assert (tmp_path / "x").read_bytes() == b"mod\xc3\xa8le\\udcff"


@pytest.mark.parametrize(
    "name", ["resnet50-imagenet", "modèle-日本", "a b.c", "-x", "=x", "x" * 200]
)
def test_usual_names_are_those_of_files(name, tmp_path):
    files.check_name(name)
    (tmp_path / f"{name}.npz").touch()
    with files.replacing(tmp_path / f"{name}.npz"):
        pass


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is empty"),
        ("a\0b", "control"),
        ("a/b", "'/'"),
        (".", "full stop"),
        ("..", "full stop"),
        (".a", "full stop"),
        ("x" * 240, "240 bytes long; expected at most 200"),
        ("日" * 70, "210 bytes"),
        ("a\nb", "control"),
        ("a\x1b[31m", "control"),
        ("a\u202eb", "control"),
        ("a\u2028b", "control"),
        ("\udcff", "control"),
    ],
)
def test_names_that_are_none_of_files_are_refused_in_one_line(name, said):
    with pytest.raises(ValueError, match="expected a name that a file can have") as caught:
        files.check_name(name)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_a_file_gets_the_permissions_of_the_umask(tmp_path):
    def writes_privately(path):
        os.close(os.open(path.with_suffix(".new"), os.O_CREAT, 0o600))
        path.with_suffix(".new").replace(path)

    for umask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(umask)
        try:
            for write in (lambda path: path.write_text("x"), writes_privately):
                with files.replacing(tmp_path / "x") as temporary:
                    write(temporary)
                assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode
        finally:
            os.umask(before)


def test_a_full_disk_names_the_file(tmp_path):
    with (
        pytest.raises(OSError, match="No space left") as caught,
        files.replacing(tmp_path / "x.csv"),
    ):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "x.csv")
    assert not list(tmp_path.iterdir())


WRITER = """
import os, sys
from pathlib import Path
from jaxparc import files
with files.replacing(Path("x.npy")) as temporary:
    temporary.write_bytes(b"half")
    print("writing", flush=True)
    sys.stdin.read()
    if sys.argv[1:]:
        os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    def start(*words):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, *words],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout.readline() == b"writing\n"
        return process

    killed, living = start("killed"), start()
    killed.communicate()
    (tmp_path / ".other.npy.1.incomplete").write_text("of another file")
    (tmp_path / ".x.npy.incomplete").write_text("none of ours")
    with files.replacing(tmp_path / "x.npy") as temporary:
        temporary.write_text("whole")
        ours = {temporary.name, f"{temporary.name}.lock"}
        left = {path.name for path in tmp_path.glob(".*")} - ours
        assert left == {
            f".x.npy.{living.pid}.incomplete",
            f".x.npy.{living.pid}.incomplete.lock",
            ".other.npy.1.incomplete",
            ".x.npy.incomplete",
        }
    files.clear(tmp_path)
    assert {path.name for path in tmp_path.glob(".*")} == left - {".other.npy.1.incomplete"}
    living.communicate()
    assert living.returncode == 0
    assert (tmp_path / "x.npy").read_bytes() == b"half"
    assert {path.name for path in tmp_path.glob(".*")} == {".x.npy.incomplete"}


def test_names_on_disk_are_utf8_in_any_locale(tmp_path):
    code = (
        "from pathlib import Path; from jaxparc import files; "
        "path = files.path_of(Path(), 'mod\\xe8le.npz'); path.touch(); "
        "assert files.stem_of(path) == 'mod\\xe8le'"
    )
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=env)
    assert os.listdir(os.fsencode(tmp_path)) == ["modèle.npz".encode()]
    assert files.stem_of(files.path_of(tmp_path, "\udcff.npz")) == r"\xff"
