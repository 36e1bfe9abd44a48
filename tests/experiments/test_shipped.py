"""Source models that come with the package."""

import dataclasses

import jax
import numpy as np
import pytest

from experiments import benchmarks, shipped, train_sources
from experiments.runner.run import Run, prepare
from jaxparc import files
from jaxparc.training import checkpoints, loop

ONE = dataclasses.replace(
    benchmarks.SMOKE,
    architectures=("resnet18",),
    sources=("digits",),
    targets=("glyph_digits",),
    from_scratch=False,
    methods=("knn",),
)
PARTS = [(a, s) for a in benchmarks.DEMO.architectures for s in benchmarks.DEMO.source_names]


def shapes(benchmark, architecture, source):
    """The variables of a network, without values."""
    module = train_sources.task_of(benchmark, architecture, source).module
    images = jax.ShapeDtypeStruct((1, benchmark.image_size, benchmark.image_size, 3), np.float32)
    return dict(jax.eval_shape(module.init, jax.random.key(0), images))


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes(ONE, "resnet18", "digits")
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "sources")
    return tmp_path


@pytest.mark.parametrize(("architecture", "source"), PARTS)
def test_the_demo_has_every_source_model_of_its_settings(architecture, source):
    found, about = shipped.find(benchmarks.DEMO, architecture, source)
    expected = shapes(benchmarks.DEMO, architecture, source)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for leaf, one in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (leaf.shape, leaf.dtype) == (one.shape, one.dtype)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert about["accuracy"] > (50 if source == "photo_crops" else 95)
    assert shipped.path(architecture, source).stat().st_size < 900_000


def test_no_other_files_are_shipped():
    assert {file.stem for file in shipped.FOLDER.iterdir()} == {"_".join(part) for part in PARTS}


def test_a_model_returns_in_half_precision(folder, variables):
    shipped.save(ONE, "resnet18", "digits", variables, {"accuracy": 12.5})
    found, about = shipped.find(ONE, "resnet18", "digits")
    assert about == {"accuracy": 12.5}
    assert jax.tree.structure(found) == jax.tree.structure(variables)
    for ours, given in zip(jax.tree.leaves(found), jax.tree.leaves(variables), strict=True):
        np.testing.assert_allclose(ours, given, rtol=2**-11 if given.ndim > 1 else 0, atol=1e-7)


@pytest.mark.parametrize(
    "changes", [{"image_size": 28}, {"source_learning_rates": {"resnet18": 0.2}}]
)
def test_a_model_of_other_settings_is_none(folder, variables, changes):
    shipped.save(ONE, "resnet18", "digits", variables, {})
    assert shipped.find(dataclasses.replace(ONE, **changes), "resnet18", "digits") is None
    for other in ({"name": "other"}, {"seed": 1}, {"sources": ("digits", "glyph_letters")}):
        assert shipped.find(dataclasses.replace(ONE, **other), "resnet18", "digits")
    assert shipped.find(ONE, "resnet18", "glyph_digits") is None


@pytest.mark.parametrize("damage", [b"", b"no weights", None], ids=["empty", "text", "cut off"])
def test_a_damaged_model_is_named(folder, variables, damage):
    file = shipped.save(ONE, "resnet18", "digits", variables, {})
    file.write_bytes(file.read_bytes()[:-100] if damage is None else damage)
    with pytest.raises(files.DamagedFileError, match=f"{file.name} is damaged"):
        shipped.find(ONE, "resnet18", "digits")


def test_the_first_stage_takes_what_is_shipped_and_trains_the_rest(folder, variables, monkeypatch):
    shipped.save(ONE, "resnet18", "digits", variables, {"accuracy": 12.5})
    trained = jax.tree.map(np.zeros_like, variables)
    monkeypatch.setattr(loop, "fit", lambda *args, **options: (trained, np.zeros(24)))
    monkeypatch.setattr(loop, "accuracy", lambda *args, **options: 50.0)
    for from_scratch, expected, accuracy in ((False, variables, 12.5), (True, trained, 50.0)):
        benchmark = dataclasses.replace(ONE, from_scratch=from_scratch)
        run = Run(benchmark, folder / str(from_scratch), folder / str(from_scratch) / "weights")
        prepare(run)
        assert train_sources.stage(run) == 0
        found, metadata = checkpoints.restore(run.weights / "resnet18" / "digits")
        assert (metadata["unit"], metadata["accuracy"]) == ("resnet18 on digits", accuracy)
        for ours, given in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, given, rtol=2**-11, atol=1e-7)


def test_what_was_trained_from_scratch_can_be_shipped(folder, variables, capsys):
    weights = folder / "checkpoints"
    benchmark = dataclasses.replace(ONE, from_scratch=True)
    prepare(Run(benchmark, folder, weights))
    checkpoints.save(weights / "resnet18" / "digits", variables, {"accuracy": 97.126})
    shipped.export(ONE, weights)
    assert shipped.find(ONE, "resnet18", "digits")[1] == {"accuracy": 97.13, "seed": 0}
    assert "resnet18_digits.safetensors" in capsys.readouterr().out


def test_what_was_trained_otherwise_is_not_shipped(folder):
    weights = folder / "checkpoints"
    prepare(Run(ONE, folder, weights))
    with pytest.raises(shipped.InputError, match="--from-scratch"):
        shipped.export(ONE, weights)
