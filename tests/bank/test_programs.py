"""What an accelerator does: chunks of models, arrays that stay on the device, several devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxparc import Probe, backend, score_bank, selectors
from jaxparc.bank import chunks, compiled, memory, preparation, programs
from jaxparc.errors import InputError, UndefinedScoreWarning
from jaxparc.extraction import Extracted
from jaxparc.selectors import components

N, F = 120, 3  # enough images to find three components by iteration
Y = np.arange(N) % 4
METHODS = ("parc_f3", "parc", "rsa", "dds", "knn", "nce", "leep")
WIDTHS = (75, 90)


def features(d, seed):
    rng = np.random.default_rng(seed)
    code = rng.standard_normal((N, d)) * np.arange(1, d + 1) ** -0.5
    return (code + 0.1 * rng.standard_normal((4, d))[Y]).astype(np.float32)


def dominated(d, seed):
    """Features whose Gram matrix in float32 holds nothing but one direction."""
    x = features(d, seed)
    x[:, 0] *= 1e4
    return x


def probabilities(z, seed):
    return np.random.default_rng(seed).dirichlet(np.ones(z), N).astype(np.float32)


BANK = {f"{d} {seed}": features(d, seed) for seed in range(3) for d in WIDTHS} | {
    "dominated": dominated(75, 9),
    "narrow": features(20, 5),  # too few features to iterate
    "last": features(75, 6),
}
PROBS = {name: probabilities(5 + len(name) % 2, i) for i, name in enumerate(BANK)}
GIVEN = {"methods": METHODS, "probs": PROBS, "reference": features(30, 8)}


@pytest.fixture(scope="module")
def alone():
    """The scores of the pure functions, without any bank."""
    found = []
    for name, x in BANK.items():
        probe = Probe(
            features=jnp.asarray(x),
            labels=jnp.asarray(Y, jnp.int32),
            probs=jnp.asarray(PROBS[name]),
            reference=jnp.asarray(GIVEN["reference"]),
            num_classes=4,
        )
        found.append([float(compiled_of(method)(probe)) for method in METHODS])
    return np.array(found)


@functools.cache
def compiled_of(method):
    return jax.jit(selectors.method(method).function)


@pytest.fixture(scope="module")
def scored():
    return score_bank(BANK, Y, **GIVEN)


def test_a_bank_scores_as_the_selectors_themselves(scored, alone):
    np.testing.assert_allclose(scored.values, alone, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("chunk", [2, 4])
def test_models_side_by_side_score_as_one_by_one(scored, chunk):
    methods = tuple(method for method in METHODS if method not in ("rsa", "dds"))
    together = score_bank(BANK, Y, **GIVEN | {"methods": methods}, chunk=chunk)
    assert together.names == scored.names
    expected = scored.values[:, [METHODS.index(method) for method in methods]]
    np.testing.assert_allclose(together.values, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(jax.local_device_count() < 2, reason="one device")
def test_all_devices_score_as_one(monkeypatch, scored):
    monkeypatch.setattr(chunks, "devices", jax.local_device_count)
    together = score_bank(BANK, Y, **GIVEN)
    assert together.names == scored.names
    np.testing.assert_allclose(together.values, scored.values, rtol=1e-5, atol=1e-5)
    bad = {**BANK, "nan": np.full((N, 75), np.nan)}
    with pytest.warns(UndefinedScoreWarning, match="model 'nan'"):
        beside = score_bank(bad, Y, methods=("parc_f3", "knn"))
    np.testing.assert_allclose(beside.values[:-1], scored.values[:, [0, 4]], rtol=1e-5, atol=1e-5)


@pytest.fixture
def traced(monkeypatch):
    """Labels of the methods of every program of scores that was traced."""
    noted = []
    inner = compiled.evaluated

    def evaluated(probe, columns, targets):
        noted.append("features" if probe.features is not None else "summaries")
        return inner(probe, columns, targets)

    monkeypatch.setattr(compiled, "evaluated", evaluated)
    for program in (compiled.part, compiled.scores):
        program.cache_clear()
    yield noted
    for program in (compiled.part, compiled.scores):
        program.cache_clear()


def test_models_of_all_widths_share_the_program_of_scores(traced):
    bank = {name: x for name, x in BANK.items() if len(x[0]) > 70 and name != "dominated"}
    for m in (len(bank), 3):
        score_bank(dict(list(bank.items())[:m]), Y, methods=("parc_f3", "parc", "knn"))
    assert traced == ["summaries"]


def test_only_what_the_gram_matrix_does_not_resolve_is_computed_from_features(
    traced, monkeypatch, alone
):
    again = []
    inner = programs.Programs._from_features

    def from_features(self, model, places):
        again.append((model.name, [self.distinct[place].label for place in places]))
        return inner(self, model, places)

    monkeypatch.setattr(programs.Programs, "_from_features", from_features)
    found = score_bank(BANK, Y, methods=("parc", "parc_f3", "knn"), chunk=2)
    assert sorted(again) == [("dominated", ["parc_f3"]), ("narrow", ["parc_f3"])]
    np.testing.assert_allclose(found.values[:, 1], alone[:, 0], rtol=1e-4, atol=2e-3)


# ---------------------------------------------------------------------------------- on the device


@pytest.mark.parametrize("form", ["mapping", "array", "extracted"])
def test_arrays_on_the_device_stay_there(copied, scored, form):
    names = [f"75 {seed}" for seed in range(3)]
    x = {name: jnp.asarray(BANK[name]) for name in names}
    probs = {name: jnp.asarray(PROBS[name]) for name in names}
    options = {"methods": ("parc_f3", "parc", "knn", "leep"), "probs": probs}
    if form == "array":
        x = jnp.stack(list(x.values()))
        options["probs"] = jnp.stack(list(probs.values()))
    if form == "extracted":
        x = {name: Extracted(x[name], probs[name]) for name in names}
        del options["probs"]
    copied.clear()
    found = score_bank(x, Y, **options)
    assert [shape for shape in copied if len(shape) > 1] == []
    rows = [list(BANK).index(name) for name in names]
    expected = scored.values[np.ix_(rows, [0, 1, 4, 6])]
    np.testing.assert_allclose(found.values, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8])
@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
def test_narrow_numbers_are_scored_as_they_are(dtype, asarray):
    x = np.round(8 * BANK["75 0"]).astype(np.float32)
    expected = score_bank({"a": x}, Y, methods=("parc", "knn")).values
    found = score_bank({"a": asarray(x.astype(dtype))}, Y, methods=("parc", "knn")).values
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("scale", [2.0**-100, 2.0**-30, 2.0**60, 2.0**100])
def test_features_of_any_scale_score_the_same(asarray, scale, scored):
    x = (BANK["75 0"] * np.float64(scale)).astype(np.float32)
    found = score_bank({"a": asarray(x)}, Y, methods=("parc_f3", "parc", "knn")).values[0]
    np.testing.assert_allclose(found, scored.values[0, [0, 1, 4]], atol=1e-4)


def test_features_that_a_device_takes_for_zero_count():
    x = np.round(100 * BANK["75 0"])
    subnormal = (x * 2.0**-140).astype(np.float32)
    assert 0 < abs(subnormal).max() < np.finfo(np.float32).tiny
    expected = score_bank({"a": x}, Y, methods=("parc", "knn")).values
    for asarray in (np.asarray, jnp.asarray):
        found = score_bank({"a": asarray(subnormal)}, Y, methods=("parc", "knn")).values
        np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
def test_flaws_are_found_on_the_device(asarray):
    bad = BANK["75 0"].copy()
    bad[5, 7] = np.nan
    bank = {"good": BANK["75 1"], "nan": bad, "same": np.full((N, 75), 0.1, np.float32)}
    with pytest.warns(UndefinedScoreWarning) as warned:
        found = score_bank({k: asarray(x) for k, x in bank.items()}, Y, methods=("parc", "knn"))
    assert found.undefined["nan", "knn"] == preparation.NOT_FINITE
    assert found.undefined["same", "parc"] == preparation.CONSTANT
    assert len(warned) == 2
    assert np.isfinite(found.values[0]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [(-0.5, "negative or NaN"), (np.nan, "negative or NaN"), (3.0, "sum to .*; expected 1")],
)
def test_improper_probabilities_on_the_device_name_the_model(change, message):
    bad = PROBS["75 1"].copy()
    bad[3, 1] += change
    probs = {"a": jnp.asarray(PROBS["75 0"][:, :5]), "b": jnp.asarray(bad)}
    bank = {"a": BANK["75 0"], "b": BANK["75 1"]}
    with pytest.raises(InputError, match=f"model 'b': probs .*{message}"):
        score_bank(bank, Y, methods="leep", probs=probs)


# ------------------------------------------------------------------------------------------ chunks


def sizes(methods=("parc_f32",), **options):
    return chunks.Sizes(500, [selectors.method(name) for name in methods], **options)


def test_a_chunk_is_what_fits_into_memory(monkeypatch):
    assert sizes().most == backend.choices().models_per_call
    monkeypatch.setattr(backend, "choices", lambda: backend.ACCELERATOR)
    model = programs.ModelInput(
        0, "a", 2048, 1.0, 1.0, {"features": np.broadcast_to(np.float32(0), (500, 2048))}, {}, None
    )
    found = []
    for gib in (1, 8, 80):
        monkeypatch.setattr(chunks.parallel, "memory", lambda gib=gib: gib * 2**30)
        found.append((sizes().most, sizes().of_shape(model)))
        of_model = sum(memory.bytes_per_pair(sizes().methods)) * 500**2
        assert found[-1][0] * of_model <= chunks.SHARE * gib * 2**30
    assert found == [(1, 1), (32, 8), (128, 128)]
    assert sizes(chunk=5).most == sizes(chunk=5).of_shape(model) == 5
    assert [sizes().holding(m) for m in (1, 2, 8, 9, 33, 128)] == [1, 8, 8, 32, 128, 128]
    assert [sizes(chunk=5).holding(m) for m in (1, 2, 5)] == [1, 5, 5]


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_holds_at_least_one_model(chunk):
    with pytest.raises(InputError, match=f"chunk is {chunk}; expected at least 1"):
        score_bank(BANK, Y, chunk=chunk)


def test_a_lazy_bank_is_never_read_far_ahead(monkeypatch):
    ahead = backend.ACCELERATOR.calls_ahead
    choices = backend.choices()
    monkeypatch.setattr(backend, "choices", lambda: dataclasses.replace(choices, calls_ahead=ahead))
    read, fetched = [], []
    inner = programs.Programs._fetched

    def noted(self, rows, found):
        fetched.append(len(read))
        return inner(self, rows, found)

    monkeypatch.setattr(programs.Programs, "_fetched", noted)

    def pairs():
        for seed in range(8):
            read.append(seed)
            yield str(seed), features(75, seed)

    score_bank(pairs(), Y, methods=("parc", "knn"), chunk=1)
    assert fetched == [*range(ahead + 1, 8), *[8] * (ahead + 1)]


# ---------------------------------------------------------------------------------------- products


def test_a_gram_matrix_of_parts_has_five_digits():
    x = features(900, 1)
    exact = x.astype(np.float64) @ x.astype(np.float64).T
    scale = np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
    found = np.asarray(jax.jit(programs.components.stats.gram_of_parts)(x))
    assert (abs(found - exact) / scale).max() < 4e-6
    np.testing.assert_array_equal(found, found.T)


def test_components_of_a_gram_matrix_are_those_of_the_features():
    x = jnp.asarray(BANK["75 0"])
    gram, scale = components.stats.centred_gram(x)
    left, values, kept, found = components.principal_of_gram(gram, scale, F)
    assert bool(found)
    expected = components.principal(x, F)
    for one, other in zip((left, values, kept), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert not components.iterates_over(100, F)
    assert components.most_from_gram(75) >= F > components.most_from_gram(20)


@pytest.mark.parametrize("asarray", [np.asarray, jnp.asarray])
def test_nan_is_found_wherever_it_is(asarray):
    """On a CPU the largest of many values may leave NaN out."""
    n, d = 64, 256
    good = np.random.default_rng(0).standard_normal((n, d)).astype(np.float32)
    places = [(0, 0), (1, 5), (n - 1, d - 1), (n // 2, 100), (n - 2, 0), (3, 3)]
    bank = {}
    for i, j in places:
        bank[f"{i} {j}"] = good.copy()
        bank[f"{i} {j}"][i, j] = np.nan
    with pytest.warns(UndefinedScoreWarning, match="features are not finite"):
        found = score_bank(
            {k: asarray(x) for k, x in bank.items()}, np.arange(n) % 4, methods="lfc"
        )
    assert set(found.undefined.values()) == {preparation.NOT_FINITE}
    assert len(found.undefined) == len(places)


class Reusing:
    """Pairs whose arrays are the same ones, filled anew."""

    def __iter__(self):
        x, probs = np.empty((N, 20), np.float32), np.empty((N, 5), np.float32)
        for seed in range(4):
            x[:], probs[:] = features(20, seed), probabilities(5, seed)
            yield str(seed), Extracted(x, probs)


@pytest.mark.parametrize("form", [Reusing, lambda: iter(Reusing())], ids=["iterable", "iterator"])
@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("calls_ahead", [0, 2])
def test_a_lazy_bank_may_reuse_its_arrays(monkeypatch, form, chunk, calls_ahead):
    held = {str(seed): Extracted(features(20, seed), probabilities(5, seed)) for seed in range(4)}
    expected = score_bank(held, Y, methods=("lfc", "leep"))
    choices = dataclasses.replace(backend.choices(), calls_ahead=calls_ahead)
    monkeypatch.setattr(backend, "choices", lambda: choices)
    found = score_bank(form(), Y, methods=("lfc", "leep"), chunk=chunk)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5)


def test_lapack_has_one_thread_while_a_bank_is_scored():
    """And as many as before afterwards, whatever happens."""
    threadpoolctl = pytest.importorskip("threadpoolctl")

    def threads():
        pools = threadpoolctl.threadpool_info()
        return {pool["num_threads"] for pool in pools if pool["user_api"] == "blas"}

    before = threads()
    during = []
    x = np.random.default_rng(0).normal(size=(20, 3))

    def models():
        yield "a", x
        during.append(threads())
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        score_bank(models(), np.arange(20) % 2, methods="parc")
    assert during == [{1}]
    assert threads() == before
