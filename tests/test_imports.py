"""What may import what, by the source files themselves."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def modules():
    """The source files of both packages, relative to the repository."""
    found = [
        path for package in ("jaxparc", "experiments") for path in ROOT.glob(f"{package}/**/*.py")
    ]
    assert len(found) > 100
    return sorted(path.relative_to(ROOT) for path in found)


def statements(path):
    """(module, name) of everything that a source file imports, within functions too.

    `from a import b` is (a, b), and `import a` is (a, "").
    """
    package = path.parts[:-1]
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            yield from ((base, alias.name) for alias in node.names)


def imports_of(path):
    """The dotted names that a source file imports: of (a, b) both, as b may be a module."""
    pairs = list(statements(path))
    return {base for base, _ in pairs} | {f"{base}.{name}" for base, name in pairs if name}


def names_in(path):
    """The names and attributes that a source file uses."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }


def test_imports_are_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = Path("a/b/c.py")
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / path).write_text(
        "import os.path as p\nfrom x.y import z\ndef f():\n  from .. import d\n  from .e import g\n"
    )
    assert imports_of(path) == {"os.path", "x.y", "x.y.z", "a", "a.d", "a.b.e", "a.b.e.g"}


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("flax.linen", ["jaxparc/models/"]),
        ("orbax", ["jaxparc/training/checkpoints.py"]),
        ("tensorflow_datasets", ["jaxparc/datasets/"]),
        ("grain", ["jaxparc/training/batches.py"]),
    ],
)
def test_a_package_is_imported_at_its_home_alone(package, homes):
    users = [
        path.as_posix()
        for path in modules()
        if any(name == package or name.startswith(f"{package}.") for name in imports_of(path))
    ]
    assert users
    assert [user for user in users if not user.startswith(tuple(homes))] == []


def test_parallel_alone_maps_over_devices():
    users = [path.as_posix() for path in modules() if names_in(path) & {"pmap", "shard_map"}]
    assert users == ["jaxparc/parallel.py"]


def test_backend_alone_asks_for_the_backend():
    users = [path.as_posix() for path in modules() if "default_backend" in names_in(path)]
    ours = [user for user in users if user.startswith("jaxparc/")]
    assert ours == ["jaxparc/backend.py"]


# From the bottom up: a room is a package, or a module beside the packages, and imports lower rooms
# only. When it is imported, `jaxparc` imports `extras` alone, and the rest on first use.
ROOMS = [
    "jaxparc._version",
    "jaxparc.errors",
    "jaxparc.extras",
    "jaxparc.geometry",
    "jaxparc.backend",
    "jaxparc.interrupts",
    "jaxparc.printing",
    "jaxparc.locks",
    "jaxparc.files",
    "jaxparc.array_files",
    "jaxparc.stats",
    "jaxparc.sampling",
    "jaxparc.parallel",
    "jaxparc.annotations",
    "jaxparc.labels",
    "jaxparc.selectors",
    "jaxparc.datasets",
    "jaxparc.preprocessing",
    "jaxparc.evaluation",
    "jaxparc.models",
    "jaxparc.weights",
    "jaxparc.training",
    "jaxparc.extraction",
    "jaxparc.finetuned",
    "jaxparc.units",
    "jaxparc.report",
    "jaxparc.bank",
    "jaxparc",
    "jaxparc.commands",
    "jaxparc.__main__",
    "experiments.memory",
    "experiments",
    "experiments.settings",
    "experiments.benchmarks",
    "experiments.real_data",
    "experiments.pretrained",
    "experiments.tables",
    "experiments.runner",
    "experiments.shipped",
    "experiments.train_sources",
    "experiments.transfer_results",
    "experiments.finetune_all",
    "experiments.extract_probes",
    "experiments.linear_probes",
    "experiments.score_probes",
    "experiments.coverage",
    "experiments.races",
    "experiments.banks",
    "experiments.compare",
    "experiments.report",
    "experiments.benchmark",
    "experiments.sweep",
    "experiments.probe_images",
    "experiments.import_probes",
    "experiments.import_weights",
    "experiments.speed",
]


def name_of(path):
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def imported():
    """Module -> the modules of ours that it imports; of (package, module), the module."""
    paths = {name_of(path): path for path in modules()}
    found = {}
    for module, path in paths.items():
        names = {f"{a}.{b}" if f"{a}.{b}" in paths else a for a, b in statements(path)}
        found[module] = names & paths.keys() - {module}
    return found


def room_of(module):
    return ".".join(module.split(".")[:2])


def test_every_room_has_its_place(imported):
    assert {room_of(module) for module in imported} == set(ROOMS)
    assert len(set(ROOMS)) == len(ROOMS)


def test_no_module_imports_itself_in_a_circle(imported):
    graphlib.TopologicalSorter(imported).prepare()  # raises CycleError with the circle


def test_rooms_import_lower_rooms_alone(imported):
    upwards = [
        f"{module} imports {other}"
        for module, others in imported.items()
        for other in others
        if ROOMS.index(room_of(other)) > ROOMS.index(room_of(module)) and module != "jaxparc"
    ]
    assert not upwards
