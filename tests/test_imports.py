"""What may import what, by the source files themselves."""

import ast
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


def imports_of(path):
    """The dotted names that a source file imports anywhere, within functions too.

    `from a import b` imports both a and a.b, as b may be a module.
    """
    names = set()
    package = path.parts[:-1]
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


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
