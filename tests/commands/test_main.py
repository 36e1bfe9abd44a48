import importlib
import inspect
import os
import re
import subprocess
import sys

import jax
import pytest

from jaxparc import datasets
from jaxparc.__main__ import main
from jaxparc.commands import parser
from jaxparc.errors import InputError, OperationError


def test_data_list_shows_every_set_and_whether_it_is_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    datasets.folder_of("mnist5k", data_dir=tmp_path).mkdir(parents=True)
    assert main(["data", "list", "--data-dir", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert str(tmp_path) in out
    for name, spec in datasets.DATASETS.items():
        (line,) = [line for line in out.splitlines() if f" {name} " in line]
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert cells[:5] == [
            name,
            f"{spec.num_classes:,}",
            f"{spec.sizes['train']:,}",
            f"{spec.sizes['test']:,}",
            "yes" if name == "mnist5k" else "no",
        ]


def test_data_prepare_prepares(tmp_path, capsys):
    assert main(["data", "prepare", "digits", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr() == (
        f"digits: {tmp_path}/digits/1.0.0\ndigits: 10 classes; images: train 1,297, test 500\n",
        "",
    )
    assert datasets.is_prepared("digits", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "COMMAND"),
        (["nonsense"], "nonsense"),
        (["data"], "ACTION"),
        (["data", "prepare"], "NAME"),
        (["data", "list", "--nonsense"], "--nonsense"),
    ],
)
def test_wrong_command_lines_exit_2_with_one_line(words, reason, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert reason in err
    assert err.count("\n") == 1


def test_unknown_name_exits_2_before_any_work(tmp_path, capsys):
    assert main(["data", "prepare", "digits", "mnist", "--data-dir", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jaxparc: unknown data set 'mnist'; known: digits")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_failure_exits_1_with_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main(["data", "prepare", "digits", "--data-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        'jaxparc: digits: scikit-learn is not installed: pip install "jaxparc[demo]"\n'
    )


def test_module_runs_and_help_names_the_commands():
    done = subprocess.run(
        [sys.executable, "-m", "jaxparc", "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == 0
    assert "data" in done.stdout


def test_a_defect_is_a_traceback_and_wrong_usage_a_line(monkeypatch, capsys):
    def raises(error):
        def score(*args, **options):
            raise error

        monkeypatch.setattr("jaxparc.bank.folder.read_bank", score)

    raises(InputError("features.npz: labels are 3; expected 4"))
    assert main(["score", "f"]) == 2
    assert capsys.readouterr().err == ("jaxparc: features.npz: labels are 3; expected 4\n")
    raises(OperationError("f is in use"))
    assert main(["score", "f"]) == 1
    assert capsys.readouterr().err == "jaxparc: f is in use\n"
    for defect in (ValueError("math"), RuntimeError("device"), TypeError("None")):
        raises(defect)
        with pytest.raises(type(defect)):
            main(["score", "f"])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 2 TiB"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."),
    ],
)
def test_out_of_memory_is_a_line(error, monkeypatch, capsys):
    def score(*args, **options):
        raise error

    monkeypatch.setattr("jaxparc.bank.folder.read_bank", score)
    assert main(["score", "f"]) == 1
    assert capsys.readouterr().err == f"jaxparc: out of memory: {error}\n"


@pytest.mark.parametrize("command", ["score", "extract", "rank", "finetune", "predict", "convert"])
def test_every_option_is_an_argument_of_its_command(command, capsys):
    """Also those that no other test gives."""
    commands = parser._parser()._subparsers._group_actions[0].choices
    given = {action.dest for action in commands[command]._actions} - {"help"}
    module = importlib.import_module(f"jaxparc.commands.{command}")
    assert set(inspect.signature(getattr(module, command)).parameters) == given


@pytest.mark.parametrize("flags", ["--data-dir {}", "--data_dir {}", "--data_dir={}"])
def test_flags_have_dashes_or_underscores(flags, tmp_path, capsys):
    folder = tmp_path / "a_b"
    assert main(["data", "list", *flags.format(folder).split()]) == 0
    assert "a_b" in capsys.readouterr().out


def test_help_shows_flags_with_dashes_alone(capsys):
    commands = parser._parser()._subparsers._group_actions[0].choices
    for command in commands.values():
        assert not re.search(r"--\w*_", command.format_help())


def test_help_imports_no_jax():
    code = (
        "import sys; from jaxparc.__main__ import main\n"
        "try: main(['rank', '--help'])\n"
        "except SystemExit: sys.exit({'jax', 'numpy', 'rich'} & sys.modules.keys() or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--executor {local,ray}" in done.stdout


def test_a_missing_source_is_a_wrong_argument(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "none"), str(tmp_path / "out.safetensors")]) == 2
    assert capsys.readouterr().err.endswith("none: No such file or directory\n")
