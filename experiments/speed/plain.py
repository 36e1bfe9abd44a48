"""Every method in plain NumPy, SciPy and scikit-learn, one model at a time.

This is the baseline of the speed tables and the reference of tests: the definitions in float64,
with the settings of the paper's published code (randomised PCA with one power iteration, a
correlation of one-hot labels, a pseudo-inverse, 20 iterations of L-BFGS). Like the published code,
it ranks rounding noise in places.
"""

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import scipy.stats


class Model(NamedTuple):
    """The features of a model on a probe set of n images, and the other inputs of methods.

    Attributes:
        features: (n, d).
        labels: (n,) integers in [0, c).
        num_classes: c.
        probs: (n, z), class probabilities.
        reference: (n, d'), features of the model trained on the target.
        layers: number of layers of the architecture.
        source_images: number of images that the model was trained on.
        target_images: number of images of the target data set.
    """

    features: np.ndarray
    labels: np.ndarray
    num_classes: int
    probs: np.ndarray
    reference: np.ndarray
    layers: float = 50
    source_images: float = 1e6
    target_images: float = 1e4


def reduce(x: np.ndarray, f: int | None) -> np.ndarray:
    """Return (n, f) principal component scores by randomised SVD; x itself if f is None."""
    if f is None:
        return x
    from sklearn.decomposition import PCA

    pca = PCA(
        n_components=min(f, *x.shape),
        svd_solver="randomized",
        iterated_power=1,
        n_oversamples=10,
        random_state=1919,
    )
    scores = pca.fit_transform(x)
    # The sign convention of scikit-learn before 1.5: the largest score by magnitude is positive.
    return scores * np.sign(scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])])


def standardize(x: np.ndarray) -> np.ndarray:
    """Return columns with mean 0 and standard deviation 1, in float64; constant ones become 0."""
    x = x.astype(np.float64)
    deviation = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(deviation == 0, 1, deviation)


def _pairs(square: np.ndarray) -> np.ndarray:
    return square[np.triu_indices(len(square), 1)]


def parc(model: Model, f: int | None = None) -> float:
    """Return PARC (the paper, eq. 7 and 8)."""
    d_theta = 1 - np.corrcoef(standardize(reduce(model.features, f)))
    d_y = 1 - np.corrcoef(np.eye(model.num_classes)[model.labels])
    return 100 * float(scipy.stats.spearmanr(_pairs(d_theta), _pairs(d_y)).statistic)


def rsa(model: Model, f: int | None = None) -> float:
    """Return Spearman's correlation of the dissimilarities of features and reference."""
    features, reference = (
        _pairs(1 - np.corrcoef(standardize(reduce(x, f))))
        for x in (model.features, model.reference)
    )
    return 100 * float(scipy.stats.spearmanr(features, reference).statistic)


def dds(model: Model, f: int | None = None) -> float:
    """Return the cosine similarity of U-centred cosine distances."""
    centred = []
    for x in (model.features, model.reference):
        x = standardize(reduce(x, f))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        d = 1 - x @ x.T
        np.fill_diagonal(d, 0)
        n = len(d)
        rows = d.sum(axis=0) / (n - 2)
        d = d - rows[:, None] - rows[None, :] + d.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(d, 0)
        centred.append(d)
    a, b = centred
    return 100 * float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def nce(model: Model) -> float:
    """Return the negative conditional entropy, with 1e-5 added to every frequency."""
    n, z = model.probs.shape
    joint = np.zeros((z, model.num_classes))
    np.add.at(joint, (model.probs.argmax(axis=1), model.labels), 1 / n)
    marginal = joint.sum(axis=1, keepdims=True) + 1e-5
    joint += 1e-5
    return float((joint * np.log(joint / marginal)).sum())


def leep(model: Model) -> float:
    """Return the log expected empirical prediction."""
    joint = np.eye(model.num_classes)[model.labels].T @ model.probs
    conditional = joint / np.maximum(model.probs.sum(axis=0), 1e-30)
    return float(np.log((conditional[model.labels] * model.probs).sum(axis=1)).mean())


def hscore(model: Model, f: int | None = None) -> float:
    """Return the H-Score, by a pseudo-inverse of the covariance."""
    x = standardize(reduce(model.features, f))
    means = np.zeros_like(x)
    for label in np.unique(model.labels):
        means[model.labels == label] = x[model.labels == label].mean(axis=0)
    inverse = np.linalg.pinv(np.cov(x, rowvar=False), rcond=1e-15)
    return float(np.trace(inverse @ np.cov(means, rowvar=False)))


def knn(model: Model, f: int | None = None) -> float:
    """Return the leave-one-out accuracy of the nearest neighbour, Euclidean, unscaled."""
    from sklearn.metrics import pairwise_distances

    distances = pairwise_distances(reduce(model.features, f))
    np.fill_diagonal(distances, np.inf)
    return 100 * float((model.labels[distances.argmin(axis=1)] == model.labels).mean())


def logistic(model: Model, f: int | None = None) -> float:
    """Return the accuracy on the second half after at most 20 iterations on the first.

    It stops earlier at a gradient of 0.1 of the sum of losses.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x = reduce(model.features, f)
    half = -(-len(x) // 2)
    # Since scikit-learn 1.7 or so, tol is compared with the gradient of the mean loss.
    classifier = LogisticRegression(max_iter=20, tol=0.1 / half)
    with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):
        classifier.fit(x[:half], model.labels[:half])
    return 100 * float(classifier.score(x[half:], model.labels[half:]))


def ridge(model: Model, f: int | None = None) -> float:
    """Return the leave-one-out accuracy of ridge regression to one-hot labels."""
    x = reduce(model.features, f).astype(np.float64)
    y = np.eye(model.num_classes)[model.labels]
    left, values, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    squares, mean = values**2, y.mean(axis=0)
    best = np.inf, y
    for penalty in squares.max() * 10.0 ** np.arange(-5, 1.5, 0.5):
        kept = squares / (squares + penalty)
        fitted = mean + left @ (kept[:, None] * (left.T @ (y - mean)))
        leverage = 1 / len(x) + np.square(left) @ kept
        residual = (y - fitted) / (1 - leverage)[:, None]
        best = min(best, (np.square(residual).mean(), y - residual), key=lambda found: found[0])
    return 100 * float((best[1].argmax(axis=1) == model.labels).mean())


def logme(model: Model, f: int | None = None) -> float:
    """Return the evidence of linear models, by a fixed-point iteration per class."""
    x = reduce(model.features, f).astype(np.float64)
    n, found = len(x), []
    left, values, _ = np.linalg.svd(x, full_matrices=False)
    sigma = values**2
    for label in np.unique(model.labels):
        y = (model.labels == label).astype(np.float64)
        squares = np.square(left.T @ y)
        outside = max(y.sum() - squares.sum(), 0.0)
        ratio = sigma.mean()
        for _ in range(200):
            gamma = (sigma / (sigma + ratio)).sum()
            weights = (sigma * squares / (sigma + ratio) ** 2).sum()
            residual = (squares * (ratio / (sigma + ratio)) ** 2).sum() + outside
            alpha, beta = gamma / weights, (n - gamma) / residual
            if abs(alpha / beta - ratio) <= 1e-6 * ratio:
                break
            ratio = alpha / beta
        evidence = n * np.log(beta / (2 * np.pi)) - beta * residual - alpha * weights
        found.append((evidence - np.log1p(sigma / ratio).sum()) / 2 / n)
    return float(np.mean(found))


def ncm(model: Model, f: int | None = None) -> float:
    """Return the leave-one-out accuracy of the nearest class mean of rows of length 1."""
    x = reduce(model.features, f).astype(np.float64)
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    y = np.eye(model.num_classes)[model.labels]
    sums, images = y.T @ x, y.sum(axis=0)
    right = []
    for image, label in zip(x, model.labels, strict=True):
        own = np.arange(model.num_classes) == label
        counts = images - own
        means = (sums - own[:, None] * image) / np.maximum(counts, 1)[:, None]
        distances = np.where(counts > 0, np.linalg.norm(image - means, axis=1), np.inf)
        right.append(distances.argmin() == label)
    return 100 * float(np.mean(right))


def lfc(model: Model, f: int | None = None) -> float:
    """Return the correlation of inner products with whether two images have the same class."""
    x = reduce(model.features, f).astype(np.float64)
    x = x - x.mean(axis=0)
    same = model.labels[:, None] == model.labels
    return 100 * float(np.corrcoef(_pairs(x @ x.T), _pairs(same))[0, 1])


def transrate(model: Model, f: int | None = None) -> float:
    """Return the difference of coding rates of all images and of each class, averaged."""
    x = reduce(model.features, f).astype(np.float64)
    x = x - x.mean(axis=0)

    def rate(rows: np.ndarray) -> float:
        products = rows @ rows.T if len(rows) < rows.shape[1] else rows.T @ rows
        square = np.eye(len(products)) + products / (len(rows) * 1e-4)
        return float(np.linalg.slogdet(square)[1]) / 2

    classes = np.unique(model.labels)
    return rate(x) - float(np.mean([rate(x[model.labels == label]) for label in classes]))


def gbc(model: Model, f: int = 64) -> float:
    """Return minus the sum of Bhattacharyya coefficients of spherical classes."""
    x = model.features - model.features.mean(axis=0, dtype=np.float64)
    left, values, _ = np.linalg.svd(x, full_matrices=False)
    x = (left * values)[:, : min(f, int((values > 1e-5 * values[0]).sum()))]
    groups = [x[model.labels == label] for label in np.unique(model.labels)]
    means = np.array([rows.mean(axis=0) for rows in groups])
    own = np.array([max(rows.var(axis=0).mean(), 1e-4) for rows in groups])
    both = (own[:, None] + own) / 2
    apart = np.square(means[:, None] - means).sum(axis=2)
    coefficients = np.exp(-apart / 8 / both) * np.sqrt(np.sqrt(own[:, None] * own) / both)
    return -float(coefficients.sum() - np.trace(coefficients))


def hscore_shrunk(model: Model, f: int | None = None) -> float:
    """Return the H-Score with the covariance matrix of Ledoit and Wolf."""
    from sklearn.covariance import ledoit_wolf

    x = reduce(model.features, f).astype(np.float64)
    x = x - x.mean(axis=0)
    shrunk, delta = ledoit_wolf(x, assume_centered=True)
    means = np.array([x[model.labels == label].mean(axis=0) for label in model.labels])
    return float((1 - delta) * np.trace(np.linalg.solve(shrunk, means.T @ means / len(x))))


def sfda(model: Model, f: int = 32) -> float:
    """Return the mean probability of the own class, by a shrunk discriminant of the other half."""
    x = reduce(model.features, f).astype(np.float64)
    half, total = -(-len(x) // 2), 0.0
    parts = [(x[:half], model.labels[:half]), (x[half:], model.labels[half:])]
    for (fitted, labels), (others, own) in (parts, parts[::-1]):
        classes = np.unique(labels)
        means = np.array([fitted[labels == label].mean(axis=0) for label in classes])
        rest = fitted - means[np.searchsorted(classes, labels)]
        within = rest.T @ rest / len(fitted)
        sigma = np.linalg.norm(within, 2)
        shrinkage = np.exp(-5 * sigma)
        within = (1 - shrinkage) * within + max(shrinkage, 1e-6 * sigma) * np.eye(len(within))
        weights = np.linalg.solve(within, means.T)
        shares = np.array([(labels == label).mean() for label in classes])
        logits = others @ weights - (means.T * weights).sum(axis=0) / 2 + np.log(shares)
        logits -= logits.max(axis=1, keepdims=True)
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        total += probs[own[:, None] == classes].sum()
    return float(total / len(x))


def nleep(model: Model, f: int = 64) -> float:
    """Return LEEP of the clusters of a mixture of spherical Gaussians, five per class."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    x = reduce(model.features, f).astype(np.float64)
    clusters = min(5 * model.num_classes, len(x))
    mixture = GaussianMixture(clusters, covariance_type="spherical", max_iter=30, random_state=0)
    with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):
        probs = mixture.fit(x).predict_proba(x)
    return leep(model._replace(probs=probs))


def heuristic(model: Model) -> float:
    """Return the heuristic of the paper, eq. 4."""
    return model.layers + float(np.log(model.source_images + model.target_images))


METHODS: Mapping[str, Callable[..., float]] = MappingProxyType(
    {
        "parc": parc,
        "rsa": rsa,
        "dds": dds,
        "nce": nce,
        "leep": leep,
        "hscore": hscore,
        "knn": knn,
        "logistic": logistic,
        "ridge": ridge,
        "logme": logme,
        "ncm": ncm,
        "lfc": lfc,
        "transrate": transrate,
        "gbc": gbc,
        "hscore_shrunk": hscore_shrunk,
        "sfda": sfda,
        "nleep": nleep,
        "heuristic": heuristic,
    }
)


def score(method: str, model: Model) -> float:
    """Return the score of a method such as "parc" or "parc_f32"."""
    name, _, reduction = method.partition("_f")
    function = METHODS[name]
    return function(model, int(reduction)) if reduction else function(model)
