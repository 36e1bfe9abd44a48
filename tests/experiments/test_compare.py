"""Comparisons of drawn banks, against SciPy and brute force."""

import csv
import itertools
import json
import types

import numpy as np
import pytest
import scipy.stats
import tiny

import jaxparc
from experiments import banks, compare, extract_probes
from experiments.runner.run import Run
from experiments.tables.facts import read_facts
from jaxparc import files
from jaxparc.errors import InputError
from jaxparc.selectors import SELECTORS

METHODS = ("parc", "lfc", "ncm", "mean(lfc,ncm)")
MODELS = tuple("abcdef")
SETS = ("birds_s0", "birds_s1", "cars")
N = 24
RANDOM = "a random order"
OTHERS = "mean z-score on the other targets"


@pytest.fixture
def bank(tmp_path):
    """Three probe files of six models for two targets, with their truth and facts."""
    rng = np.random.default_rng(0)
    labels = np.arange(N) % 3
    for name in SETS:
        arrays = {"labels": labels}
        for quality, model in enumerate(MODELS):
            x = rng.normal(size=(N, 5)) + 0.4 * quality * np.eye(3, 5)[labels]
            arrays[f"features/{model}"] = x.astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", **arrays)
    truth = {
        (model, target): 0.3 + 0.1 * quality + 0.03 * float(rng.normal())
        for target in ("birds", "cars")
        for quality, model in enumerate(MODELS)
    }
    write_truth(tmp_path, truth)
    facts = {
        model: {"layers": 10 + i % 4, "parameters": 10**i, "kind": "big" if i > 1 else "small"}
        for i, model in enumerate(MODELS)
    }
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    paths = [tmp_path / f"{name}.npz" for name in SETS]
    return types.SimpleNamespace(folder=tmp_path, paths=paths, truth=truth)


def write_truth(folder, truth, more=""):
    lines = [f"{model},{target},{value}" for (model, target), value in truth.items()]
    (folder / "truth.csv").write_text("\n".join(["model,target,acc", *lines]) + "\n" + more)


def run(bank, *words, methods=METHODS, paths=None, truth="truth.csv"):
    words = [*map(str, paths or bank.paths), "--truth", str(bank.folder / truth), *words]
    compare.main([*words, "--accuracy", "acc", "--resamples", "40", "--methods", *methods])


def table(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def failing(capsys, bank, *words, **options):
    with pytest.raises(SystemExit) as ended:
        run(bank, *words, **options)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.splitlines(keepends=True)
    error = "".join(line for line in lines if not line.startswith("scored "))
    assert error.count("\n") == 1
    return error


def test_the_table_equals_scipy_and_brute_force(bank, capsys):
    out = bank.folder / "out"
    facts = ("--facts", str(bank.folder / "facts.json"), "--out", str(out))
    run(bank, *facts, "--subset", "kind=big")
    scores = {}  # recomputed one call per file
    for path in bank.paths:
        with np.load(path) as arrays:
            features = {model: arrays[f"features/{model}"] for model in MODELS}
            found = jaxparc.score_bank(features, arrays["labels"], methods=METHODS)
        scores[path.stem] = {m: np.array(list(found[m].values())) for m in METHODS}
        scores[path.stem]["log parameters"] = np.arange(6.0)
    for name, chosen in (("all", range(6)), ("kind_big", range(2, 6))):
        rows = {row[0]: row[1:] for row in table(out / f"{name}.csv")}
        by_set = {row[0]: row[1:] for row in table(out / f"{name}_by_probe_set.csv")}
        assert tuple(by_set["method"]) == SETS
        for method in (*METHODS, "log parameters"):
            expected = {"PC": {}, "weighted tau": {}, "regret@1": {}}
            for probe_set in SETS:
                target = probe_set.split("_")[0]
                y = np.array([100 * bank.truth[MODELS[i], target] for i in chosen])
                x = scores[probe_set][method][list(chosen)]
                expected["PC"][probe_set] = 100 * scipy.stats.pearsonr(x, y)[0]
                expected["weighted tau"][probe_set] = 100 * scipy.stats.weightedtau(x, y)[0]
                expected["regret@1"][probe_set] = y.max() - y[x.argmax()]
            got = [float(cell) for cell in by_set[method]]
            assert got == pytest.approx([expected["PC"][s] for s in SETS], abs=0.051)
            for column, of_sets in expected.items():
                # targets count the same, however many probe sets they have
                birds = (of_sets["birds_s0"] + of_sets["birds_s1"]) / 2
                place = rows["method"].index(column)
                value = (birds + of_sets["cars"]) / 2
                assert float(rows[method][place]) == pytest.approx(value, abs=0.051)
                low, high = map(float, rows[method][place + 1].split(" to "))
                assert low - 0.1 <= value <= high + 0.1
        pcs = [float(row[0]) for name, row in rows.items() if name not in ("method", RANDOM)]
        assert pcs == sorted(pcs, reverse=True)
    printed = capsys.readouterr().out
    assert "all: 6 models, 3 probe sets" in printed
    assert "kind=big: 4 models" in printed
    assert f"| {METHODS[-1]} |" in (out / "all.md").read_text()
    assert {"layers alone", OTHERS} < set(rows)


def test_times_are_of_each_method_alone(bank):
    out = bank.folder / "out"
    run(bank, "--out", str(out))
    together = table(out / "all.csv")
    assert "ms/model" not in together[0]
    run(bank, "--times", "--out", str(out))
    alone = table(out / "all.csv")
    assert [row[:-1] for row in alone] == together
    times = {row[0]: row[-1] for row in alone}
    assert times["method"] == "ms/model"
    assert all(float(times[method]) > 0 for method in METHODS)
    assert times[OTHERS] == times[RANDOM] == ""


def test_regret_and_chance_of_all_orders(bank):
    rows = {}
    found = banks.of_files(bank.paths, bank.folder / "truth.csv", accuracy="acc")
    result = compare.scored(found, ("lfc",))
    sheet = compare.tables(found, result, result.outcomes, {}, 4000)["all"]
    rows = {row[0]: row[1:] for row in sheet.rows}
    y = [[100 * bank.truth[m, t] for m in MODELS] for t in ("birds", "cars")]
    regrets = [np.mean([max(one) - one[first] for one in y]) for first in range(6)]
    assert float(rows[RANDOM][4]) == pytest.approx(np.mean(regrets), abs=1)
    orders = np.array(list(itertools.permutations(range(6))))
    pcs = [np.mean([np.corrcoef(order, one)[0, 1] for one in y]) for order in orders]
    low, high = map(float, rows[RANDOM][1].split(" to "))
    assert (low, high) == pytest.approx(100 * np.percentile(pcs, (2.5, 97.5)), abs=4)


def test_every_method_is_compared_or_named(bank, capsys):
    assert set(SELECTORS) < set(compare.METHODS)
    out = bank.folder / "out"
    left_out = ("nce", "leep", "heuristic")
    facts = ("--facts", str(bank.folder / "facts.json"))
    words = (*facts, "--reference", "a", "--out", str(out))
    run(bank, *words, methods=(*left_out, "rsa", "lfc+l"), paths=bank.paths[2:])
    printed = capsys.readouterr()
    rows = [row[0] for row in table(out / "all.csv")]
    assert {"rsa (without a)", "lfc+l", "layers alone", "log parameters", RANDOM} < set(rows)
    assert not set(left_out) & set(rows)
    for method in left_out:
        assert f"not compared: {method} needs" in printed.err
    run(bank, *words, methods=("rsa_f2", "lfc"), paths=bank.paths[2:])
    by_set = {row[0]: row[1] for row in table(out / "all_by_probe_set.csv")}
    with np.load(bank.paths[2]) as arrays:
        features = {model: arrays[f"features/{model}"] for model in MODELS}
        found = jaxparc.score_bank(
            features, arrays["labels"], methods=("rsa_f2",), reference=features["a"]
        )
    x = list(found["rsa_f2"].values())[1:]
    y = [bank.truth[model, "cars"] for model in MODELS[1:]]
    assert float(by_set["rsa_f2"]) == pytest.approx(100 * scipy.stats.pearsonr(x, y)[0], abs=0.051)


def test_undefined_scores_are_named(bank, capsys):
    with np.load(bank.paths[2]) as arrays:
        changed = dict(arrays)
    changed["features/c"] = np.ones((N, 5), np.float32)
    np.savez(bank.paths[2], **changed)
    run(bank, methods=("lfc", "ncm"))
    printed = capsys.readouterr()
    assert "lfc is undefined for c." in " ".join(printed.out.split())
    assert "note: cars: " in printed.err
    lines = [line for line in printed.out.splitlines() if "│ lfc " in line]
    assert "undefined (NaN)" in lines[0]


def test_rows_of_the_truth_are_left_out(bank, capsys):
    lines = (bank.folder / "truth.csv").read_text().splitlines()
    marked = [f"{line},{'leak' if i == 0 else int(line[0] == 'a')}" for i, line in enumerate(lines)]
    (bank.folder / "leaks.csv").write_text("\n".join(marked))
    run(bank, "--leave-out", "leak=1", truth="leaks.csv", methods=("lfc",))
    printed = capsys.readouterr()
    assert "all: 5 models" in printed.out
    assert "birds: left out: a" in printed.err


def test_wrong_input_is_one_line(bank, capsys):
    truth = {key: value for key, value in bank.truth.items() if key != ("c", "cars")}
    write_truth(bank.folder, truth)
    assert "has no accuracy of model 'c' on 'cars'" in failing(capsys, bank)
    write_truth(bank.folder, bank.truth | {("a", "cars"): 130})
    assert "acc is '130'; expected a number in [0, 100]" in failing(capsys, bank)
    write_truth(bank.folder, bank.truth, "a,cars,0.5\n")
    assert "duplicate transfer 'a/cars'" in failing(capsys, bank)
    write_truth(bank.folder, bank.truth)
    assert "unknown method 'park'" in failing(capsys, bank, methods=("park",))
    assert "duplicate name 'cars'" in failing(capsys, bank, paths=[bank.paths[2]] * 2)
    assert "needs --facts" in failing(capsys, bank, "--subset", "kind=big")
    facts = ("--facts", str(bank.folder / "facts.json"))
    assert "has 0 models; expected at least 3; values: big, small" in failing(
        capsys, bank, *facts, "--subset", "kind=huge", methods=("lfc",)
    )
    assert "has no column 'size'" in failing(
        capsys, bank, *facts, "--subset", "size=1", methods=("lfc",)
    )
    assert "has no column 'imagenet'" in failing(
        capsys, bank, *facts, "--baselines", "imagenet", methods=("lfc",)
    )
    assert "holds no model 'z', the reference" in failing(capsys, bank, "--reference", "z")
    assert "results folder" in failing(capsys, bank, "--benchmark", "demo")
    assert "cannot be read" in failing(capsys, bank, paths=[bank.folder / "birds_9.npz"])
    other = bank.folder / "planes_0.npz"
    other.write_bytes(bank.paths[0].read_bytes())
    assert "is one of birds, cars" in failing(capsys, bank, paths=[other])


def test_probe_sets_of_one_target_hold_the_same_models(bank, capsys):
    with np.load(bank.paths[1]) as arrays:
        fewer = {name: arrays[name] for name in arrays if name != "features/b"}
    np.savez(bank.paths[1], **fewer)
    assert "birds_s1 lacks model 'b', which birds_s0 holds" in failing(capsys, bank)
    np.savez(bank.paths[1], labels=np.arange(N) % 3)
    assert "has no array 'features/MODEL'" in failing(capsys, bank)
    np.savez(bank.paths[1], **{"features/a": np.ones((N, 2))})
    assert "has no array 'labels'" in failing(capsys, bank)


def test_words_of_the_command_line_are_checked(bank, capsys):
    for words, reason in (
        (["--subset", "kind"], "COLUMN=VALUE"),
        (["--resamples", "0"], "least 1"),
    ):
        with pytest.raises(SystemExit) as ended:
            compare.main([str(bank.paths[0]), *words])
        assert ended.value.code == 2
        assert reason in capsys.readouterr().err
    with pytest.raises(SystemExit):
        compare.main([str(bank.paths[0])])
    assert "need --truth" in capsys.readouterr().err


def test_facts_of_json_and_csv(tmp_path):
    (tmp_path / "a.json").write_text('{"a": {"layers": 5, "note": null}, "b": {"layers": 7.5}}')
    (tmp_path / "a.csv").write_text("model,layers,note\na,5,\nb,7.5,x\n")
    for name in ("a.json", "a.csv"):
        facts = read_facts(tmp_path / name)
        assert facts.numbers("layers", "ab") == {"a": 5, "b": 7.5}
        assert facts.texts("note", "a") == {"a": ""}
        assert np.isnan(facts.numbers("note", "a")["a"])
        with pytest.raises(InputError, match="no row for model 'c'"):
            facts.numbers("layers", "abc")
    with pytest.raises(InputError, match="note of model 'b' is 'x'; expected a number"):
        facts.numbers("note", "ab")
    for text, reason in (
        ('{"a": 1}', "expected an object with an object"),
        ("{", "is not JSON"),
    ):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(InputError, match=reason):
            read_facts(tmp_path / "a.json")
    for text, reason in (("name\na\n", "no column 'model'"), ("model\na\na\n", "duplicate model")):
        (tmp_path / "a.csv").write_text(text)
        with pytest.raises(InputError, match=reason):
            read_facts(tmp_path / "a.csv")
    with pytest.raises(InputError, match="cannot be read"):
        read_facts(tmp_path / "none.csv")


def test_a_results_folder(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(compare.banks.benchmarks, "BENCHMARKS", {"tiny": tiny.TINY})
    made = Run(tiny.TINY, tmp_path / "tiny", tmp_path / "checkpoints")
    rng = np.random.default_rng(0)
    rows = ["Architecture,Source Dataset,Target Dataset,Oracle"]
    for k, transfer in enumerate(extract_probes.probed_transfers(tiny.TINY)):
        if transfer.source != transfer.target:
            rows.append(f"{','.join(transfer)},{50 + k}")
        for probe_set in range(tiny.TINY.probe_sets):
            arrays = {
                "features": rng.normal(size=(N, 6)).astype(np.float32),
                "probs": rng.dirichlet(np.ones(4), N).astype(np.float32),
                "y": np.arange(N) % 10,
            }
            path = extract_probes.path_of(made, transfer, probe_set)
            extract_probes.write(path, transfer, probe_set, arrays, 1.5)
    words = [str(made.out), "--methods", "lfc", "nce", "rsa", "--resamples", "10"]
    with pytest.raises(SystemExit):
        compare.main(words)
    assert "oracle.csv is missing" in capsys.readouterr().err
    files.write_text(made.out / "oracle.csv", "\n".join(rows) + "\n")
    compare.main(words)
    printed = capsys.readouterr().out
    assert "all: 2 models, 2 probe sets" in printed
    assert all(f"│ {name} " in printed for name in ("lfc", "nce", "rsa", "layers alone"))
    with pytest.raises(SystemExit):
        compare.main([*words, "--truth", "x"])
    assert "--truth is an option for probe files" in capsys.readouterr().err
