"""Locks between processes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import jaxparc
from jaxparc import locks
from jaxparc.errors import OperationError

HOLDER = """
import sys
from pathlib import Path
from jaxparc import locks
with locks.alone(Path("x"), "busy", shard=tuple(map(int, sys.argv[1:]))):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold(tmp_path):
    """Starts processes that hold tmp_path/x."""
    processes = []

    def start(*shard):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, *map(str, shard)],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        processes.append(process)
        assert process.stdout.readline() == b"held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def is_busy(path, shard):
    try:
        with locks.alone(path, "another command is at work", shard=shard):
            return False
    except OperationError as error:
        return str(error) == "another command is at work"


def test_shards_hold_a_folder_together_and_all_of_it_is_held_alone(tmp_path, hold):
    folder = tmp_path / "x"
    first = hold(1, 2)
    assert not is_busy(folder, (2, 2))
    assert is_busy(folder, (1, 2))
    assert is_busy(folder, (1, 1))
    first.kill()  # the system lets go for it
    first.wait()
    assert not is_busy(folder, (1, 1))
    hold(1, 1)
    assert is_busy(folder, (1, 1))
    assert is_busy(folder, (1, 2))


def test_many_shards_start_at_the_same_time(tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(i), "8"],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for i in range(1, 9)
    ]
    assert [process.stdout.readline() for process in processes] == [b"held\n"] * 8
    for process in processes:
        process.communicate()
        assert process.returncode == 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OperationError, match="cannot write .*/file/x: Not a directory"),
        locks.alone(tmp_path / "file" / "x", "busy"),
    ):
        pass


def test_a_lock_that_is_held_is_not_waited_for(tmp_path, hold):
    hold(1, 1)
    with pytest.raises(BlockingIOError), locks.folder(tmp_path / "x", wait=False):
        pass
    assert locks.is_held(tmp_path / "x" / ".lock")
    assert not locks.is_held(tmp_path / "new")


def test_nothing_imports_what_windows_has_not():
    for path in Path(jaxparc.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not {"fcntl", "pwd", "resource"} & {name.name for name in node.names}, path
