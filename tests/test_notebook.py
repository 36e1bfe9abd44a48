"""The notebooks as committed, and executed again: what their text says is in their outputs."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

nbformat = pytest.importorskip("nbformat")
ROOT = Path(__file__).parents[1]


class Expected(NamedTuple):
    """What a notebook shows, whenever and wherever it runs.

    Attributes:
        limit: of the size of its file, in bytes.
        printed: what is in its printed text.
        claims: numbers that its text repeats from its output.
        html: number of outputs that are HTML.
        images: number of PNG and JPEG images.
    """

    limit: int
    printed: tuple[str, ...]
    claims: tuple[str, ...] = ()
    html: int = 0
    images: int = 1


NOTEBOOKS = {
    # by construction: resnet50 sees a little more clearly than convnext, the others much less
    "score_bank": Expected(
        30_000,
        (
            "fine-tune first: resnet50\n",
            "try these: resnet50, convnext\n",
            "warning: model 'broken'",
        ),
        html=2,
    ),
    "rank_photographs": Expected(
        100_000,
        (
            "one class per row: lake, leaves, petals, roof, sky, trees, walls\n",
            "(420, 24, 24, 3) uint8 [60 60 60 60 60 60 60]\n",
            "Fine-tune textures. ",
            " cannot be told from it (95 %).",
            "\n5 patterns ",
            "index.html ranking.csv ranking.json ranking.md scores.csv\n",
        ),
        html=2,
        images=2,
    ),
    "can_i_trust_it": Expected(
        40_000,
        ("8 models, 3 probe sets; accuracy in %:\n",),
        ("79.1", "69.6", "64.2", "1.6", "8.4", "66.2", "17.2", "2.1", "39.9", "61.1", "75.3"),
    ),
}
each = pytest.mark.parametrize("name", NOTEBOOKS)


def read(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def outputs(notebook):
    return [out for cell in notebook.cells for out in cell.get("outputs", [])]


def printed(notebook):
    return "".join(out.text for out in outputs(notebook) if out.output_type == "stream")


def shown(notebook, *kinds):
    """Return the outputs of cells that are of one of some MIME types."""
    data = [out.get("data", {}) for out in outputs(notebook)]
    return [found[kind] for found in data for kind in kinds if kind in found]


def text(notebook):
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def is_install(cell):
    return "install" in cell.metadata.get("tags", [])


def check(name, notebook):
    """Check what a notebook that ran shows."""
    expected, found = NOTEBOOKS[name], printed(notebook)
    assert {out.output_type for out in outputs(notebook)} <= {
        "stream",
        "execute_result",
        "display_data",
    }
    assert {out.name for out in outputs(notebook) if out.output_type == "stream"} == {"stdout"}
    for line in expected.printed:
        assert line in found
    for number in expected.claims:
        assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.])", found), number
    assert len(shown(notebook, "text/html")) == expected.html
    assert len(shown(notebook, "image/png", "image/jpeg")) == expected.images


def test_every_notebook_is_tested():
    assert {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")} == set(NOTEBOOKS)


@each
def test_a_committed_notebook_is_small_and_ran_in_order_without_errors(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert (ROOT / "notebooks" / f"{name}.ipynb").stat().st_size < NOTEBOOKS[name].limit
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [is_install(cell) for cell in code] == [True] + [False] * (len(code) - 1)
    assert [cell.execution_count for cell in code] == [None, *range(1, len(code))]
    assert not code[0].outputs
    assert code[-1].outputs
    check(name, notebook)
    for number in NOTEBOOKS[name].claims:
        assert number in text(notebook)


@pytest.mark.slow
@each
def test_a_notebook_runs_and_finds_what_it_says(name, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient")
    # the kernel is another process: this one's settings of JAX are not its own
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    notebook = read(name)
    notebook.cells = [cell for cell in notebook.cells if not is_install(cell)]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    # as in a clone: notebooks/ beside experiments/
    folder = tmp_path / "notebooks"
    folder.mkdir()
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    nbclient.NotebookClient(
        notebook,
        timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    ).execute()
    check(name, notebook)
    EXTRA.get(name, lambda notebook: None)(notebook)


def check_score_bank(notebook):
    assert len(re.findall("┃ parc_f32 ┃", printed(notebook))) == 1  # a table is printed once


def check_rank_photographs(notebook):
    """The best network is among the first three, and three are tied with it or close."""
    rows = re.findall(
        r"^(\d) (\w+) +([\d.]+) % after 100 steps, ([\d.]+) % after 300", printed(notebook), re.M
    )
    assert [int(rank) for rank, *_ in rows] == [1, 2, 3, 4, 5]
    assert rows[0][1] == "textures"
    assert rows[4][1] == "patterns"
    long = [float(row[3]) for row in rows]
    assert max(long) - long[0] < 4  # twice the standard error of 420 photographs
    assert max(long) - max(long[:3]) < 2
    assert len(re.findall("tied$", printed(notebook), re.M)) >= 3
    (page,) = [html for html in shown(notebook, "text/html") if "srcdoc" in html]
    assert "&lt;h1" in page or "&lt;main" in page


EXTRA = {"score_bank": check_score_bank, "rank_photographs": check_rank_photographs}
