import os

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
        ("a,b,a\n1,2,3\n", "two columns 'a'"),
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
