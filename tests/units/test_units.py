"""Units of work: resumed, recorded, divided; failures alone, and those that end the run."""

import argparse
import dataclasses
import errno
import functools
import json
import os
import sys
import types

import pytest

from jaxparc import files, interrupts
from jaxparc.errors import InputError, OperationError
from jaxparc.units import executors, options
from jaxparc.units.options import Execution
from jaxparc.units.run import missing, of_shard, run_units
from jaxparc.units.unit import Unit, is_done, make, read_result, write_result


def write(path, name, on_images):
    on_images(3)
    write_result(path, name, {})


def unit(folder, name, make=None, **options):
    path = folder / f"{name}.json"
    return Unit(name, path, read_result, make or functools.partial(write, path, name), **options)


def raising(error):
    def make(on_images):
        raise error

    return make


def listed(folder):
    return [unit(folder, name) for name in "abc"]


def test_what_is_done_is_not_made_again(tmp_path, capsys):
    assert run_units("work", listed(tmp_path), tmp_path) == {}
    assert "work 3/3 c: " in capsys.readouterr().err
    (tmp_path / "b.json").unlink()
    assert run_units("work", listed(tmp_path), tmp_path) == {}
    err = capsys.readouterr().err
    assert "work 3/3 b: " in err
    assert "work: 1 made in " in err
    assert err.endswith(" s, 2 already done\n")
    assert not (tmp_path / "failures").exists()


@pytest.mark.parametrize("content", ["", "{}", None])
def test_what_is_damaged_or_of_another_unit_is_moved_aside(content, tmp_path, capsys):
    units = listed(tmp_path)
    run_units("work", units, tmp_path)
    if content is None:
        units[1].path.write_bytes(units[0].path.read_bytes())
    else:
        units[1].path.write_text(content)
    (tmp_path / "b.json.damaged").touch()
    assert run_units("work", units, tmp_path) == {}
    assert (tmp_path / "b.json.damaged.1").exists()
    assert "moved to b.json.damaged.1 and recreated" in capsys.readouterr().err
    assert is_done(units[1])


def test_a_failure_is_recorded_and_does_not_stop_the_others(tmp_path, capsys):
    def units(first, second):
        return [unit(tmp_path, "a", first), unit(tmp_path, "b", second), unit(tmp_path, "c")]

    failing = units(raising(RuntimeError("no luck")), raising(InputError("x: is 1; expected 2")))
    expected = {"a": "RuntimeError: no luck", "b": "x: is 1; expected 2"}
    assert run_units("work", failing, tmp_path, noun="model") == expected
    err = capsys.readouterr().err
    assert "work: a FAILED: RuntimeError: no luck\n" in err
    record = tmp_path / "failures" / "work.json"
    assert f"work: 2 of 3 models failed; see {record}\n" in err
    content = json.loads(record.read_text())
    assert {failure["unit"]: failure["error"] for failure in content} == expected
    assert "in make" in content[0]["traceback"]
    assert is_done(failing[2])
    assert run_units("work", units(None, None), tmp_path) == {}
    assert not record.exists()


def test_a_unit_that_makes_nothing_has_failed(tmp_path):
    found = run_units("work", [unit(tmp_path, "a", lambda on_images: None)], tmp_path)
    assert list(found) == ["a"]
    assert "FileNotFoundError" in found["a"]


def test_notes_are_shown(tmp_path, capsys):
    def noted(on_images):
        write(tmp_path / "a.json", "a", on_images)
        return ["the head was left out"]

    run_units("work", [unit(tmp_path, "a", noted)], tmp_path)
    assert "work: a: the head was left out\n" in capsys.readouterr().err


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_what_would_fail_every_unit_ends_the_run(code, tmp_path):
    full = raising(OSError(code, os.strerror(code), "place"))
    units = [unit(tmp_path, "a"), unit(tmp_path, "b", full), unit(tmp_path, "c")]
    with pytest.raises(OperationError) as caught:
        run_units("work", units, tmp_path)
    expected = f"work: cannot write place: {os.strerror(code)}; 1 of 3 units are done and kept"
    assert str(caught.value) == expected
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ImportError()])
def test_an_interrupt_says_what_is_kept(error, tmp_path, monkeypatch):
    def interrupted(on_images):
        monkeypatch.setitem(interrupts._state, "came", True)
        raise error

    monkeypatch.setitem(interrupts._state, "came", False)
    units = [unit(tmp_path, "a"), unit(tmp_path, "b", interrupted)]
    with pytest.raises(KeyboardInterrupt, match="^1 of 2 units are done and kept$"):
        run_units("work", units, tmp_path)
    assert not (tmp_path / "failures").exists()


def test_units_that_lack_something_are_refused_or_skipped(tmp_path, capsys):
    lacking = [unit(tmp_path, name, lacks={name.upper(): "get NAMES", "z": "buy"}) for name in "bc"]
    units = [unit(tmp_path, "a"), *lacking]
    said = "2 units need files that are not on this machine:\n  get B C\n  buy"
    assert missing(lacking) == said
    with pytest.raises(OperationError, match=f"work: {said}"):
        run_units("work", units, tmp_path)
    assert not (tmp_path / "a.json").exists()
    assert run_units("work", units, tmp_path, execution=Execution(allow_missing=True)) == {}
    err = capsys.readouterr().err
    assert "work: 2 skipped" in err
    assert "work 1/1 a: " in err


def test_shards_make_every_unit_once_and_record_apart(tmp_path):
    groups = {"a": "x", "d": "x"}
    units = [unit(tmp_path, name, group=groups.get(name, "")) for name in "abcd"]
    assert [[u.name for u in of_shard(units, (i, 2))] for i in (1, 2)] == [["a", "c", "d"], ["b"]]
    assert of_shard(units, (1, 1)) == units
    units = [dataclasses.replace(u, make=raising(RuntimeError(u.name))) for u in units]
    for i, names in ((1, "acd"), (2, "b")):
        assert list(run_units("work", units, tmp_path, execution=Execution(shard=(i, 2)))) == [
            *names
        ]
        content = json.loads((tmp_path / "failures" / f"work-{i}of2.json").read_text())
        assert [failure["unit"] for failure in content] == [*names]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "-1/2", "1/0", "1/2/3"])
def test_a_wrong_shard_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match=repr(text)):
        options.parse_shard(text)
    assert options.parse_shard("2/8") == (2, 8)


def test_every_executor_is_an_option():
    assert tuple(executors.EXECUTORS) == options.EXECUTORS


def test_without_a_listing_units_are_made_in_this_process(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run_units("work", listed(tmp_path), tmp_path, execution=Execution("ray")) == {}
    assert (tmp_path / "c.json").exists()


def test_without_ray_its_executor_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    listing = functools.partial(listed, tmp_path)
    with pytest.raises(OperationError, match=r'pip install "jaxparc\[cluster\]"'):
        run_units("work", listing(), tmp_path, execution=Execution("ray"), listing=listing)


def test_workers_inherit_where_files_are_and_no_secret(tmp_path, monkeypatch):
    given = {}

    def init(*, runtime_env, **_):
        given.update(runtime_env["env_vars"])
        raise OperationError("no cluster")

    ray = types.SimpleNamespace(is_initialized=lambda: False, init=init)
    monkeypatch.setitem(sys.modules, "ray", ray)
    variables = ("TFDS_DATA_DIR", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN")
    for name in variables:
        monkeypatch.setenv(name, "here")
    listing = functools.partial(listed, tmp_path)
    with pytest.raises(OperationError, match="no cluster"):
        run_units("work", listing(), tmp_path, execution=Execution("ray"), listing=listing)
    assert [name for name in variables if name not in given] == ["HF_TOKEN"]


def test_a_worker_finds_a_unit_by_its_name_and_makes_it_once(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "cache_compilations", lambda: None)
    monkeypatch.chdir(tmp_path)
    calls = []

    class Listing:
        """Counted, where pickling would not keep the count."""

        def __call__(self):
            calls.append(1)
            return listed(tmp_path)

    listing = Listing()
    monkeypatch.setattr(executors.pickle, "loads", lambda octets: listing)
    executors._listed.cache_clear()
    try:
        made = executors._make(str(tmp_path), b"", "b")
        assert (made.name, made.error) == ("b", None)
        assert [path.name for path in tmp_path.iterdir()] == ["b.json"]
        assert executors._make(str(tmp_path), b"", "b").seconds == 0  # another worker was faster
        assert len(calls) == 1
    finally:
        executors._listed.cache_clear()


def test_a_result_of_another_unit_is_damage(tmp_path):
    write_result(tmp_path / "x", "a", {"n": 1})
    assert read_result(tmp_path / "x", "a") == {"unit": "a", "n": 1}
    with pytest.raises(files.DamagedFileError, match="does not belong to the unit 'b'"):
        read_result(tmp_path / "x", "b")


def test_make_gives_one_line_and_a_traceback(tmp_path):
    made = make(unit(tmp_path, "a", raising(RuntimeError("two\nlines"))), lambda count: None)
    assert made.error == "RuntimeError: two; lines"
    assert "in make" in made.traceback
