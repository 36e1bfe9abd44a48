import functools
import inspect
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from same import assert_same

from jaxparc import BankScores, score_bank, selectors
from jaxparc.bank import compiled, memory
from jaxparc.errors import InputError, UndefinedScoreWarning
from jaxparc.extraction import Extracted
from jaxparc.selectors import knn, parc
from jaxparc.selectors.logistic import halves

N = 12
Y = np.arange(N) % 3


def features(d=6, seed=0, n=N):
    """Separated a little, so that models differ and no score is at its limit."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, d)) + (np.arange(n) % 3)[:, None]).astype(np.float32)


A, B, WIDE = features(seed=0), features(seed=1), features(d=9, seed=2)
BANK = {"a": A, "wide": WIDE, "b": B}
METHODS = ("parc", "parc_f3", "knn")


@pytest.fixture(scope="module")
def scored():
    return score_bank(BANK, Y, methods=METHODS)


# ------------------------------------------------------------------------------ forms of the input


def test_a_bank_scores_as_its_models_one_by_one(scored):
    assert scored.names == ("a", "wide", "b")
    assert scored.methods == METHODS
    assert scored.values.shape == (3, 3)
    for i, (name, x) in enumerate(BANK.items()):
        alone = score_bank({name: x}, Y, methods=METHODS)
        assert_same(alone.values[0], scored.values[i])


def test_pairs_are_read_once_as_they_come(scored):
    order = []

    def pairs():
        for name, x in BANK.items():
            order.append(name)
            yield name, x

    again = score_bank(pairs(), Y, methods=METHODS)
    assert order == list(BANK)
    assert again.names == scored.names
    assert_same(again.values, scored.values)


def test_a_list_of_pairs_is_one_bank(scored):
    # with a list as labels, too: it must not be taken for several probe sets
    again = score_bank(list(BANK.items()), Y.tolist(), methods=METHODS)
    assert_same(again.values, scored.values)


@pytest.mark.parametrize("asarray", [np.stack, lambda x: jnp.stack([jnp.asarray(a) for a in x])])
def test_one_array_of_all_models(scored, asarray):
    again = score_bank(asarray([A, B]), Y, methods=METHODS)
    assert again.names == ("0", "1")
    assert_same(again.values, scored.values[[0, 2]])


@pytest.mark.parametrize("form", [dict, lambda b: list(b.items()), lambda b: iter(b.items())])
def test_several_probe_sets_are_scored_one_by_one_and_averaged(scored, form):
    other = {name: x[::-1] + np.float32(0.5) * x for name, x in BANK.items()}
    y = Y[::-1].copy()
    alone = score_bank(other, y, methods=METHODS)
    both = BankScores.concat(
        score_bank(form(x), z, methods=METHODS) for x, z in zip((BANK, other), (Y, y), strict=True)
    )
    assert_same(both.values_per_run, np.stack([scored.values, alone.values]))
    np.testing.assert_allclose(both.values, (scored.values + alone.values) / 2)


@pytest.mark.parametrize(
    "several",
    [[BANK, BANK], [np.stack([A, B])] * 2, [list(BANK.items())] * 2, (BANK, BANK)],
    ids=["mappings", "arrays", "pairs", "tuple"],
)
def test_several_probe_sets_in_one_call_are_refused_with_the_form_that_works(several):
    advice = r"features hold 2 probe sets; score_bank takes one: .* BankScores\.concat\("
    refused(advice, several, [Y, Y])
    refused(advice, several, [Y.tolist(), Y.tolist()])


def test_a_list_of_lists_as_labels_is_never_taken_for_probe_sets(scored):
    rows = np.eye(3)[Y]
    expected = score_bank(list(BANK.items()), rows, methods="parc").values
    again = score_bank(list(BANK.items()), list(map(list, rows)), methods="parc").values
    assert_same(again, expected)


def test_what_extract_returns_brings_probs_and_numbers_of_layers():
    probs = np.random.default_rng(0).dirichlet(np.ones(4), N).astype(np.float32)
    layers, images = {"a": 50, "b": 18}, {"a": 10, "b": 20}
    options = {"methods": ("parc", "leep", "knn+l", "heuristic"), "target_images": 5}
    bank = {name: Extracted(BANK[name], probs, layers[name], images[name]) for name in layers}
    expected = score_bank(
        {name: BANK[name] for name in layers},
        Y,
        probs={"a": probs, "b": probs},
        layers=layers,
        source_images=images,
        **options,
    ).values
    for form in (bank, list(bank.items()), iter(bank.items())):
        assert_same(score_bank(form, Y, **options).values, expected)
    # what is given by hand counts
    other = score_bank(bank, Y, layers={"a": 1, "b": 2}, **options).values
    assert (other[:, 2] != expected[:, 2]).all()
    mixed = {**bank, "b": BANK["b"]}
    refused("method 'leep' needs the argument probs", mixed, methods="leep")
    bare = {**bank, "b": Extracted(BANK["b"])}
    refused("model 'b': probs is None; method 'leep' needs it", bare, methods="leep")
    refused("belong to one model without a name; pass {'name': features}", bank["a"])
    refused("features are a list of 2 arrays without names", list(bank.values()))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64, np.int8])
def test_any_float_type_is_computed_in_float32(dtype):
    # values that every type holds exactly, so that only the type differs
    x = np.round(2 * A).astype(np.float32)
    expected = score_bank({"a": x}, Y, methods=METHODS).values
    assert_same(score_bank({"a": x.astype(dtype)}, Y, methods=METHODS).values, expected)


def test_words_are_labels(scored):
    words = np.array(["cat", "dog", "emu"])[Y]
    again = score_bank(BANK, words, methods=METHODS)
    assert_same(again.values, scored.values)


def test_multi_label_rows_of_one_label_are_classes(scored):
    again = score_bank({"a": A}, np.eye(3)[Y], methods="parc")
    np.testing.assert_allclose(again.values[0, 0], scored.values[0, 0], atol=1e-4)


def test_number_of_classes_moves_no_rank(scored):
    again = score_bank({"a": A}, Y, methods="parc", num_classes=90)
    assert again.values[0, 0] == scored.values[0, 0]


# ---------------------------------------------------------------------------------------- methods


def test_default_method_is_parc_f32():
    assert inspect.signature(score_bank).parameters["methods"].default == ("parc_f32",)


def test_functions_with_bound_options_are_methods(scored):
    again = score_bank({"a": A}, Y, methods=[functools.partial(parc, n_dims=3), knn])
    assert again.methods == ("parc(n_dims=3)", "knn")
    np.testing.assert_allclose(again.values[0], scored.values[0, [1, 2]], atol=1e-4)
    # one function, too
    assert score_bank({"a": A}, Y, methods=knn).methods == ("knn",)


LAYERS = {"wide": 18, "a": 50, "b": 101}


@pytest.mark.parametrize("layers", [LAYERS, [50, 18, 101], np.array([50, 18, 101])])
@pytest.mark.parametrize("ell_max", [50, 101])
def test_plus_layers_is_equation_6_over_the_models_of_the_call(scored, layers, ell_max):
    again = score_bank(BANK, Y, methods=("knn", "knn+l"), layers=layers, ell_max=ell_max)
    raw = scored.values[:, 2]
    expected = (raw - raw.mean()) / raw.std() + np.array([50, 18, 101]) / ell_max
    np.testing.assert_allclose(again.values[:, 1], expected, rtol=1e-6)
    # and the column beside it is as it was
    np.testing.assert_allclose(again.values[:, 0], raw, rtol=1e-6)


def test_plus_layers_is_per_probe_set():
    other = {name: 2 * x[::-1] + x for name, x in BANK.items()}
    given = {"methods": "knn+l", "layers": LAYERS}
    first = score_bank(BANK, Y, **given)
    both = BankScores.concat([first, score_bank(other, Y, **given)])
    assert_same(both.values_per_run[:1], first.values_per_run)


def test_heuristic_takes_numbers_by_name_or_in_order():
    numbers = {"layers": LAYERS, "source_images": {"a": 100, "b": 200, "wide": 300}}
    in_order = {"layers": [50, 18, 101], "source_images": [100, 300, 200]}
    expected = np.array([50, 18, 101]) + np.log(np.array([100, 300, 200]) + 7)
    for given in (numbers, in_order):
        got = score_bank(BANK, Y, methods="heuristic", target_images=7, **given)
        np.testing.assert_allclose(got.values[:, 0], expected, rtol=1e-6)


@pytest.fixture
def traces(monkeypatch):
    """Shapes of the features that the method "traced" was traced with.

    A selector's Python runs when it is traced, never when its program is.
    """
    shapes = []

    def traced(probe):
        shapes.append(probe.features.shape)
        return jnp.sum(probe.features)

    known = {**selectors.SELECTORS, "traced": selectors.Selector(traced, "Traced", traced)}
    monkeypatch.setattr(selectors, "SELECTORS", known)
    selectors.method.cache_clear()
    yield shapes
    selectors.method.cache_clear()


def test_models_of_one_shape_share_one_program(traces):
    score_bank({str(i): features(seed=i) for i in range(5)}, Y, methods="traced")
    assert traces == [(N, 6)]
    # other models, order, numbers of models and labels of the same shapes: nothing new
    score_bank({str(i): features(seed=i) for i in range(7, 10)}, Y[::-1].copy(), methods="traced")
    assert traces == [(N, 6)]
    mixed = {f"{d} {seed}": features(d, seed) for seed in range(3) for d in (5, 6, 7)}
    score_bank(mixed, Y, methods="traced")
    assert sorted(traces) == [(N, 5), (N, 6), (N, 7)]


# -------------------------------------------------------------------------------------- bad input


def refused(match, features=BANK, labels=Y, **options):
    with pytest.raises(ValueError, match=match) as caught:
        score_bank(features, labels, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (A[:, 0], r"'bad': features have shape \(12,\); expected \(12, d\), one row per label"),
        (A[None], r"'bad': features have shape \(1, 12, 6\)"),
        (A[:11], r"'bad': features have shape \(11, 6\); expected \(12, d\), one row per label"),
        (A[:, :1], "'bad': features have 1 columns; expected at least 2"),
        (A[:, :0], "'bad': features have 0 columns"),
        ([[1.0, 2.0], [3.0]], "'bad'"),
        (np.full((N, 6), "?"), "'bad'"),
    ],
    ids=["vector", "cube", "too few rows", "one column", "no column", "ragged", "words"],
)
def test_bad_features_name_the_model(bad, message):
    refused(message, {"a": A, "bad": bad})
    refused(message, iter([("a", A), ("bad", bad)]))


def test_bad_features_of_a_mapping_are_refused_before_any_compilation(monkeypatch):
    ran = []
    for program in ("part", "scores", "targets"):
        monkeypatch.setattr(compiled, program, lambda *_: lambda *_: ran.append(1))
    refused("'bad'", {"a": A, "bad": A[:11]}, methods="knn")
    assert not ran


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (Y[:11], {}, r"model 'a': features have shape \(12, 6\); expected \(11, d\)"),
        (np.zeros(N, int), {}, "labels hold 1 class"),
        (Y, {"num_classes": 2}, "labels hold class 2; num_classes=2"),
        (Y[:, None, None], {}, r"labels have shape \(12, 1, 1\)"),
        (np.eye(3)[Y], {"num_classes": 4}, "labels have 3 columns"),
        (np.zeros((N, 3)), {}, "labels of all 12 images are equal"),
        (np.r_[np.zeros((1, 3)), np.eye(3)[Y[1:]]], {}, "image 0 has 0 of 3 labels"),
    ],
)
def test_bad_labels_say_what_is_wrong(labels, options, message):
    refused(message, labels=labels, **options)


def test_two_images_are_too_few():
    refused("labels of 2 images; expected at least 3", {"a": A[:2]}, [0, 1])


@pytest.mark.parametrize(
    "empty", [{}, [], (), iter([]), np.zeros((0, N, 6))], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize("labels", [Y, Y.tolist()], ids=["array", "list"])
def test_an_empty_bank_is_refused(empty, labels):
    refused("empty", empty, labels)


def test_one_model_alone_is_refused_with_advice():
    refused(r"shape \(12, 6\); expected \(m, n, d\): .*pass \{'name': features\}", A)


@pytest.mark.parametrize("labels", [Y, Y.tolist()], ids=["array", "list"])
def test_models_without_names_are_refused_with_the_forms_that_work(labels):
    forms = r"expected a mapping \{'name': \(n, d\) array\}, \(name, array\) pairs, or one array"
    refused(f"features are a list of 2 arrays without names; {forms}", [A, B], labels)
    refused(f"features are a list of 2 arrays without names; {forms}", [A.tolist()] * 2, labels)
    refused(f"features hold a ndarray without a name; {forms}", iter([A, B]), labels)
    refused(f"features are a str; {forms}", "features.npy", labels)
    refused(f"features are a int; {forms}", 3, labels)


def test_lists_of_a_model_are_refused_with_the_form_that_works():
    refused("model 'a': features are a list of 2 arrays; .*concatenate", {"a": [A, A]})
    refused("model 'a': features are a list of 2 arrays; .*concatenate", {"a": [A[:8], A[8:]]})
    refused("model 'a': features are not an array", {"a": [[1.0, 2.0], [3.0]]})
    rows = score_bank({"a": A.tolist(), "b": list(B)}, Y, methods=METHODS)
    expected = score_bank({"a": A, "b": B}, Y, methods=METHODS)
    assert_same(rows.values, expected.values)


@pytest.mark.parametrize(
    "bad",
    [
        A + 1j,
        A.astype("datetime64[s]"),
        np.full((N, 6), "1"),
        [["a"] * 6] * N,
    ],
    ids=["complex", "dates", "digits", "list of text"],
)
def test_features_that_are_no_real_numbers_name_the_model(bad):
    refused("model 'bad': features cannot be read as real numbers: ", {"a": A, "bad": bad})


def test_masked_features_are_not_finite():
    masked = np.ma.array(A, mask=np.zeros(A.shape, bool))
    masked[3, 2] = np.ma.masked
    with pytest.warns(UndefinedScoreWarning, match="model 'm': knn is .* features are not finite"):
        assert np.isnan(score_bank({"m": masked}, Y, methods="knn").values).all()


def test_numbers_name_models(scored, tmp_path):
    given = {"layers": {0: 50, "wide": 18, 7: 101}, "methods": (*METHODS, "knn+l")}
    for form in ({0: A, "wide": WIDE, np.int64(7): B}, [(0, A), ["wide", WIDE], (7, B)]):
        again = score_bank(form, Y, **given)
        assert again.names == ("0", "wide", "7")
        assert_same(again.values[:, :3], scored.values)
        assert "wide" in repr(again)
        assert again.best == again.ranking()[0][0]
        again.to_csv(tmp_path / "scores.csv")
        assert again.to_pandas().index.tolist() == ["0", "wide", "7"]
    refused("duplicate model '0'", {0: A, "0": B})
    refused("layers has no entry for model '0'", {0: A}, methods="knn+l", layers={"a": 1})


def test_missing_labels_are_refused():
    for labels in ([*"abcabcabcab", None], [*"abcabcabcab", np.nan], [*"abcabcabcab", ""]):
        refused(r"labels of 1 of 12 images are missing \(image 11: ", labels=labels)


def test_one_hot_rows_say_how_they_are_classes():
    refused("multi_label: .* pass numpy.argmax", labels=np.eye(3, dtype=bool)[Y], methods="hscore")


def test_a_lone_negative_label_is_told():
    y = np.r_[Y[:-2], -1, -1]
    with pytest.warns(
        UserWarning, match="labels: -1, the label of 2 images, is treated as a class"
    ):
        score_bank({"a": A}, y, methods="parc")
    score_bank({"a": A}, Y - 1, methods="parc")  # -1, 0, 1: as of opinions


# ------------------------------------------------------------------------------------ size


def test_how_large_a_label_is_does_not_matter():
    large = np.array([0, 999_999, 5])[Y]
    methods = ("parc", "knn", "logistic", "hscore", "leep", "nce")
    probs = [np.random.default_rng(0).dirichlet(np.ones(4), N)]
    given = {"methods": methods, "probs": probs}
    expected = score_bank({"a": A}, Y, **given).values[0]
    found = score_bank({"a": A}, large, **given).values[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    found = score_bank({"a": A}, large, num_classes=1_000_000, **given).values[0]
    np.testing.assert_allclose(found[:5], expected[:5], rtol=1e-5)
    # then nce counts the empty cells of all classes
    seen = probs[0].argmax(1)
    total = 0.0
    for source in range(4):
        marginal = np.mean(seen == source) + 1e-5
        joint = np.bincount(Y[seen == source], minlength=3) / N + 1e-5
        total += (joint * np.log(joint / marginal)).sum()
        total += (1_000_000 - 3) * 1e-5 * np.log(1e-5 / marginal)
    assert found[5] == pytest.approx(total, rel=1e-5)


def test_more_images_than_memory_are_refused_with_the_number(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 32 * 2**30)
    monkeypatch.setattr(compiled, "part", None)  # before anything is compiled
    n = 20_000
    x, y = np.broadcast_to(np.float32(1), (n, 2)), np.arange(n) % 3
    message = (
        r"comparing 20,000 images .* about 19.4 GiB; the limit is half of the memory, 16.0 GiB"
    )
    refused(message, {"a": x}, y)
    refused("comparing 50,000 images", {"a": np.zeros((50_000, 2))}, np.arange(50_000) % 3)


def test_memory_is_that_of_the_machine_or_less():
    assert 0 < memory.available() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# ------------------------------------------------------------------------------- halves


@pytest.mark.parametrize("order", ["sorted", "reversed", "drawn"])
def test_logistic_trains_on_half_of_each_class_in_any_order(order):
    turns = np.arange(48) % 3
    x = features(n=48, seed=3)
    by_turns = score_bank({"a": x}, turns, methods="logistic").values
    orders = {
        "sorted": np.argsort(turns, kind="stable"),
        "reversed": np.argsort(-turns, kind="stable"),
        "drawn": np.argsort(np.random.default_rng(0).random(3)[turns] + turns, kind="stable"),
    }
    order = orders[order]
    found = score_bank({"a": x[order]}, turns[order], methods="logistic").values
    assert found == by_turns  # the same images train
    assert found > 40


def test_halves_hold_every_class_alike():
    rng = np.random.default_rng(0)
    for sizes in ([40, 5, 2, 3], [25, 25], [3] * 16 + [2]):
        y = rng.permutation(np.repeat(np.arange(len(sizes)), sizes)).astype(np.int32)
        order = np.asarray(jax.jit(halves)(jnp.asarray(y)))
        assert sorted(order) == list(range(len(y)))
        first = np.bincount(y[order[: -(-len(y) // 2)]], minlength=len(sizes))
        assert (abs(2 * first - sizes) <= 1).all()


@pytest.mark.parametrize(("n", "c"), [(500, 37), (500, 200), (303, 101), (24, 5)])
def test_halves_of_images_by_turns_are_the_first_and_the_second(n, c):
    y = (np.arange(n) % c).astype(np.int32)
    assert np.asarray(jax.jit(halves)(y)).tolist() == list(range(n))


def test_a_name_may_be_there_once():
    refused("duplicate model 'a'", [("a", A), ("b", B), ("a", A)])


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([], "methods is empty"),
        (
            "prac",
            "unknown method 'prac'; known: parc, rsa, dds, nce, leep, hscore, knn, logistic, ridge",
        ),
        (["parc", "parc_x"], "unknown method 'parc_x'; known: parc"),
        (np.mean, "is not a selector; known: parc"),
    ],
)
def test_bad_methods_list_the_known_ones(methods, message):
    refused(message, methods=methods)


COMPLETE = {"layers": [50, 18, 8], "source_images": [1, 2, 3], "target_images": 5}


@pytest.mark.parametrize("absent", COMPLETE)
def test_a_method_names_the_argument_that_it_lacks(absent):
    given = {key: value for key, value in COMPLETE.items() if key != absent}
    refused(f"'heuristic' needs the argument {absent}", methods=["knn", "heuristic"], **given)


def test_plus_layers_needs_layers():
    refused(r"'knn\+l' needs the argument layers", methods="knn+l")


@pytest.mark.parametrize("argument", ["layers", "source_images"])
@pytest.mark.parametrize("given", [{"a": 1, "wide": 2}, [1, 2]])
def test_a_missing_entry_names_the_model_and_the_argument(argument, given):
    refused(
        f"{argument} has no entry for model 'b'",
        methods="heuristic",
        **{**COMPLETE, argument: given},
    )


def test_an_entry_that_is_no_number_names_the_model_and_the_argument():
    given = {"methods": "knn+l"}
    refused(r"model 'b': layers is None; method 'knn\+l' needs it", layers=[1, 2, None], **given)
    refused("model 'b': layers is 'x'; expected a number", layers=[1, 2, "x"], **given)
    refused("layers has 4 entries; expected 3, one per model", layers=[1, 2, 3, 4], **given)
    for bad in (50, "50", iter([1, 2, 3])):
        refused("layers is a .*; expected a mapping by name, or a sequence", layers=bad, **given)


def test_pandas_goes_in():
    pd = pytest.importorskip("pandas")
    numbers = {"layers": LAYERS, "source_images": {"a": 100, "b": 200, "wide": 300}}
    methods = ("parc", "heuristic", "knn+l", "leep")
    p = np.random.default_rng(0).dirichlet(np.ones(4), N)
    probs = dict.fromkeys(BANK, p)
    options = {"methods": methods, "target_images": 7}
    expected = score_bank(BANK, Y, probs=probs, **numbers, **options)
    table = pd.DataFrame(numbers)
    frames = {name: pd.DataFrame(x) for name, x in BANK.items()}
    labels = pd.Series(Y, index=np.arange(N) + 100)
    given = {**options, "probs": {name: pd.DataFrame(x) for name, x in probs.items()}}
    for columns in (
        {name: table[name] for name in numbers},  # by name
        {name: table.loc[list(BANK), name].reset_index(drop=True) for name in numbers},  # in order
        {name: table.loc[list(BANK), name].tolist() for name in numbers},
    ):
        found = score_bank(frames, labels, **columns, **given)
        assert_same(found.values, expected.values)
    words = pd.Series(["cat", "dog", "emu"], dtype="category")[Y].reset_index(drop=True)
    assert_same(score_bank(frames, words, methods="parc").values[:, 0], expected.values[:, 0])
    frame = expected.to_pandas()
    assert frame["parc"].to_dict() == expected["parc"]


def test_probe_sets_must_agree(scored):
    other = score_bank({"b": B, "a": A}, Y, methods=METHODS)
    with pytest.raises(
        InputError, match="names of probe set 1 are 'b', 'a'; expected .* 'a', 'wid"
    ):
        BankScores.concat([scored, other])
    with pytest.raises(InputError, match="methods of probe set 1 are 'knn'; expected those of pro"):
        BankScores.concat([scored, score_bank(BANK, Y, methods="knn")])
    with pytest.raises(InputError, match="scores are empty"):
        BankScores.concat([])


@pytest.mark.parametrize("method", ["knn", "logistic", "knn_f3+l"])
def test_a_class_of_one_image_is_refused_where_two_are_needed(method):
    y = np.r_[Y[:-1], 7]
    refused(
        f"'{method.replace('+', '.')}' needs two images of every class; image 11 is alone in its",
        labels=y,
        methods=method,
        layers=[1, 2, 3],
    )
    assert np.isfinite(score_bank({"a": A}, y, methods="parc").values).all()


def test_a_class_of_one_image_is_accepted_where_it_counts_as_wrong():
    y = np.r_[Y[:-1], 7]
    values = score_bank({"a": A}, y, methods=["ridge", "ncm"]).values
    assert (values > 0).all()
    assert (values < 100).all()


@pytest.mark.parametrize("method", ["parc", "lfc", "ridge", "ncm"])
def test_two_images_of_some_class_are_needed(method):
    refused(
        f"'{method}' (compares|predicts) .*; no class has two of these 12",
        labels=np.arange(N),
        methods=method,
    )


@pytest.mark.parametrize(
    ("row", "what"),
    [([0, 0, 0], "0 of 3 labels"), ([1, 1, 1], "3 of 3 labels"), ([0.5] * 3, "one value in all c")],
)
def test_parc_alone_refuses_annotations_without_correlation(row, what):
    y = np.eye(3)[Y]
    y[4] = row
    refused(f"'parc' compares annotations by .*; image 4 has {what}", labels=y, methods="parc")
    methods = ["ridge", "knn", "logme"]
    assert np.isfinite(score_bank({"a": A}, y, methods=methods).values).all()


def test_one_column_of_labels_is_scored_but_by_parc():
    y = np.eye(3)[Y][:, :1]
    for kind in ("multi_label", "vectors"):
        values = score_bank({"a": A}, y, methods=["knn", "ridge", "logme"], label_kind=kind).values
        assert np.isfinite(values).all()
        what = "image 0 has (1 of 1 labels|one value in all columns)"
        refused(f"'parc' compares ann.*; {what}", labels=y, label_kind=kind, methods="parc")


@pytest.mark.parametrize("method", ["nce", "leep", "hscore", "logistic"])
def test_a_kind_of_labels_that_a_method_does_not_take_is_named(method):
    given = {"methods": method, "probs": [np.full((N, 2), 0.5)] * 3}
    refused(f"'{method}' takes classes labels; these are multi_label", labels=np.eye(3)[Y], **given)
    refused("these are vectors", labels=np.eye(3)[Y] / 2, **given)


def test_label_kind_overrides():
    rows = np.eye(3)[Y]
    as_rows = score_bank({"a": A}, rows, methods="knn").values[0, 0]
    as_vectors = score_bank({"a": A}, rows, methods="knn", label_kind="vectors").values[0, 0]
    # one label each: a wrong neighbour has 2 of 3 entries wrong, and an L1 distance of 2
    assert as_vectors == pytest.approx(-3 * (1 - as_rows / 100), abs=1e-5)
    refused("unknown label kind 'x'", label_kind="x")


# -------------------------------------------------------------------------- scores that say little


def test_a_void_hscore_is_warned_of_by_name():
    wide = {"wide": features(d=30), "narrow": features(d=4)}
    message = "hscore of model 'wide': features of rank n - 1 = 11 always score 2"
    with pytest.warns(UserWarning, match=message):
        values = score_bank(wide, Y, methods=("hscore", "hscore_f3")).values
    assert values[0, 0] == pytest.approx(2, abs=1e-4)
    assert (values[:, 1] < 2).all()
    # dead units: as wide, but without the rank
    dead = np.zeros((N, 30), np.float32)
    dead[:, :4] = features(d=4)
    score_bank({"dead": dead}, Y, methods="hscore")


# ------------------------------------------------------------------------------------ once per bank


@pytest.mark.parametrize("methods", [("parc_f3",), ("rsa", "dds", "parc")])
def test_what_the_target_fixes_is_computed_once(monkeypatch, methods):
    """However many models: its program is called once per probe set."""
    calls = []
    inner = compiled.targets

    def counted(*arguments):
        run = inner(*arguments)
        return lambda shared: calls.append(1) or run(shared)

    monkeypatch.setattr(compiled, "targets", counted)
    score_bank(BANK, Y, methods=methods, reference=A)
    assert len(calls) == 1


# ------------------------------------------------------------------------------ undefined features


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "not finite"),
        (np.inf, "not finite"),
        (-np.inf, "not finite"),
    ],
)
def test_features_that_are_not_finite_score_nan_and_warn_once(scored, value, message):
    x = WIDE.astype(np.float64)
    x[2, 3] = value
    message = rf"model 'wide': parc, parc_f3, knn are undefined \(NaN\): features are {message}"
    with pytest.warns(UndefinedScoreWarning, match=message) as warned:
        got = score_bank({**BANK, "wide": x}, Y, methods=METHODS)
    assert len(warned) == 1
    assert warned[0].filename == __file__  # points at the caller
    assert np.isnan(got.values[1]).all()
    assert_same(got.values[[0, 2]], scored.values[[0, 2]])


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_constant_features_score_nan_and_warn_once(scored, value):
    x = np.full_like(WIDE, value)
    message = "model 'wide': .* features are the same for every image"
    with pytest.warns(UndefinedScoreWarning, match=message) as warned:
        got = score_bank({**BANK, "wide": x}, Y, methods=METHODS)
    assert len(warned) == 1
    assert np.isnan(got.values[1]).all()
    assert got.ranking()[-1][0] == "wide"


def test_an_undefined_model_does_not_enter_eq_6():
    given = {"methods": "knn+l", "layers": {"a": 50, "b": 18, "none": 22}}
    with pytest.warns(UserWarning, match="model 'none'"):
        got = score_bank({"a": A, "none": np.zeros_like(A), "b": B}, Y, **given)
    assert np.isnan(got.values[1, 0])
    alone = score_bank({"a": A, "b": B}, Y, **given)
    assert_same(got.values[[0, 2]], alone.values)


def test_scores_stay_in_range():
    # whatever rounding says; 12 images are where 100 / n is not exact
    perfect = np.repeat(np.eye(3, dtype=np.float32)[Y], 2, axis=1) * 9 + A / 100
    values = score_bank({"perfect": perfect}, Y, methods=METHODS).values
    assert values[0, 2] == 100
    assert (np.abs(values) <= 100).all()


# ----------------------------------------------------------------------------------------- import


def test_scoring_needs_no_training_libraries():
    code = """
import sys, numpy as np, jaxparc
jaxparc.score_bank({"a": np.random.rand(6, 3)}, [0, 1] * 3, methods="parc")
heavy = ("grain", "orbax", "tensorflow_datasets", "tensorflow", "flax", "optax", "torch", "pandas")
print(sorted(name for name in heavy if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
