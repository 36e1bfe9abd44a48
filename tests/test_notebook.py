import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
PATH = Path(__file__).parent.parent / "notebooks" / "score_bank.ipynb"
# by construction: resnet50 sees a little more clearly than convnext, the others much less
BEST = "fine-tune first: resnet50\n"
TIED = "try these: resnet50, convnext\n"


def outputs(notebook):
    return [out for cell in notebook.cells for out in cell.get("outputs", [])]


def printed(notebook):
    return "".join(out.text for out in outputs(notebook) if out.output_type == "stream")


def shown(notebook, kind):
    return [out.data[kind] for out in outputs(notebook) if kind in out.get("data", {})]


def is_install(cell):
    return "install" in cell.metadata.get("tags", [])


def test_the_committed_notebook_is_small_and_ran_without_errors():
    notebook = nbformat.read(PATH, as_version=4)
    nbformat.validate(notebook)
    assert PATH.stat().st_size < 30_000
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [is_install(cell) for cell in code] == [True] + [False] * (len(code) - 1)
    assert all(cell.outputs for cell in code[1:])
    assert [cell.execution_count for cell in code[1:]] == list(range(1, len(code)))
    assert not code[0].outputs
    assert {out.output_type for out in outputs(notebook)} == {"stream", "execute_result"}
    assert BEST in printed(notebook)
    assert TIED in printed(notebook)
    assert len(shown(notebook, "image/png")) == 1


@pytest.mark.slow
def test_the_notebook_runs_and_finds_what_it_says(monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    # the kernel is another process: this one's settings of JAX are not its own
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = nbformat.read(PATH, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if not is_install(cell)]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    assert BEST in printed(notebook)
    assert TIED in printed(notebook)
    assert "warning: model 'broken'" in printed(notebook)
    assert len(re.findall("┃ parc_f32 ┃", printed(notebook))) == 1  # a table is printed once
    assert len(shown(notebook, "image/png")) == 1
    assert len(shown(notebook, "text/html")) == 2
