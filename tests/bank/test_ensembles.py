import numpy as np
import pytest

from jaxparc import score_bank, selectors
from jaxparc.errors import InputError, UndefinedScoreWarning
from jaxparc.selectors.heuristic import standardised as standardised_scores

N = 24
Y = np.arange(N) % 3


def features(d, seed):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((N, d)) + 0.5 * (np.arange(N) % 3)[:, None]).astype(np.float32)


BANK = {str(seed): features(5 + seed % 2, seed) for seed in range(5)}
LAYERS = {name: 10 * (1 + int(name)) for name in BANK}


def standardised(scores):
    return (scores - scores.mean()) / scores.std()


def test_a_mean_is_of_standardised_scores():
    methods = ("mean(parc,knn,hscore)", "hscore", "parc", "knn")
    mean, *alone = score_bank(BANK, Y, methods=methods).values.T
    np.testing.assert_allclose(mean, np.mean([standardised(x) for x in alone], axis=0), atol=1e-12)
    # alone, and in another order, it is the same
    one = score_bank(BANK, Y, methods="mean(knn, hscore, parc)")
    assert one.methods == ("mean(knn,hscore,parc)",)
    np.testing.assert_allclose(one.values[:, 0], mean, atol=1e-12)


def test_layers_are_added_to_the_standardised_mean():
    methods = ("mean(parc,knn)+l", "mean(parc,knn)")
    both = score_bank(BANK, Y, methods=methods, layers=LAYERS).values.T
    expected = standardised(both[1]) + np.array(list(LAYERS.values())) / 50
    np.testing.assert_allclose(both[0], expected, atol=1e-12)


def test_a_mean_is_undefined_where_a_member_is():
    bank = {**BANK, "same": np.ones((N, 4), np.float32)}
    with pytest.warns(UndefinedScoreWarning, match="model 'same': .*mean"):
        found = score_bank(bank, Y, methods=("mean(parc,knn)", "parc"))
    assert np.isnan(found.values[-1]).all()
    assert found.undefined["same", "mean(parc,knn)"] == "features are the same for every image"
    alone = score_bank(BANK, Y, methods="mean(parc,knn)")
    np.testing.assert_allclose(found.values[:-1, 0], alone.values[:, 0], atol=1e-6)


def test_a_method_by_which_all_models_tie_leaves_a_mean_to_the_others():
    easy = {name: x + 50 * np.eye(8, x.shape[1], dtype=np.float32)[Y] for name, x in BANK.items()}
    found = score_bank(easy, Y, methods=("mean(parc,ncm)", "parc", "ncm")).values.T
    np.testing.assert_allclose(found[2], 100)
    np.testing.assert_allclose(found[0], standardised(found[1]) / 2, atol=1e-12)


def test_scores_that_differ_by_rounding_are_equal_in_a_mean():
    spread = np.array([2.0, 2.0 - 1.2e-7, 2.0 + 2.4e-7])
    assert np.isnan(standardised_scores(spread)).all()
    assert np.isfinite(standardised_scores(spread + [0, 1e-5, 0])).all()


def test_a_mean_over_one_model_says_why_it_is_undefined():
    with pytest.warns(UndefinedScoreWarning, match="mean.* needs scores of at least two models"):
        score_bank({"a": BANK["0"]}, Y, methods="mean(parc,knn)")


PRIOR = {name: float(np.log(1e6 + 1e6 * int(name) ** 2)) for name in BANK}


@pytest.mark.parametrize("prior", [PRIOR, list(PRIOR.values())])
@pytest.mark.parametrize("weight", [1, 0.25])
def test_a_prior_is_standardised_and_weighted(prior, weight):
    methods = ("knn+p", "knn", "mean(parc,knn)+l+p", "mean(parc,knn)+l", "knn+l+p", "knn+l")
    found = score_bank(
        BANK, Y, methods=methods, layers=LAYERS, prior=prior, prior_weight=weight
    ).values.T
    added = weight * standardised(np.array(list(PRIOR.values())))
    np.testing.assert_allclose(found[0], standardised(found[1]) + added, atol=1e-12)
    np.testing.assert_allclose(found[2], found[3] + added, atol=1e-12)
    np.testing.assert_allclose(found[4], found[5] + added, atol=1e-12)


def test_a_prior_that_is_lacking_or_says_nothing_is_told():
    with pytest.raises(InputError, match=r"method 'knn\+p' needs the argument prior"):
        score_bank(BANK, Y, methods="knn+p")
    with pytest.raises(InputError, match="prior has no entry for model '0'"):
        score_bank(BANK, Y, methods="knn+p", prior={"a": 1})
    with pytest.warns(UndefinedScoreWarning, match=r"\+p needs scores and priors of at least two"):
        score_bank(BANK, Y, methods="knn+p", prior=dict.fromkeys(BANK, 3.0))
    with pytest.warns(UndefinedScoreWarning, match="model '1': .* prior is not a finite number"):
        found = score_bank(BANK, Y, methods="knn+p", prior={**PRIOR, "1": np.inf})
    assert np.isnan(found.values[:, 0]).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mean(parc)", "at least two distinct methods"),
        ("mean(parc,parc)", "at least two distinct methods"),
        ("mean()", r"method 'mean\(\)': expected names of methods"),
        ("mean(parc,knn,)", "expected names of methods in mean"),
        ("mean(mean(parc,knn),lfc)", "expected names of methods in mean"),
        ("mean(gbc,gbc_f64)", "at least two distinct methods"),
        ("mean(parc,x)", "unknown method 'x'"),
        ("mean(parc+l,knn)", r"'parc\+l' in mean\(...\); expected \+l and \+p after it"),
        ("knn+p+l", r"unknown method 'knn\+p\+l'"),
        ("mean(nce_f3,knn)", "nce cannot be reduced"),
    ],
)
def test_bad_means_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        score_bank(BANK, Y, methods=name)


def test_a_member_that_does_not_take_the_labels_is_named():
    with pytest.raises(InputError, match="method 'hscore' takes classes labels"):
        score_bank(BANK, np.eye(3)[Y], methods="mean(parc,hscore)")
    assert selectors.method("mean(parc,hscore)").kinds == ("classes",)


def test_a_mean_names_what_its_members_need():
    with pytest.raises(InputError, match=r"method 'mean\(parc,leep\)' needs the argument probs"):
        score_bank(BANK, Y, methods="mean(parc,leep)")
