"""Every method in plain NumPy, SciPy and scikit-learn, one model at a time.

What `experiments.speed` compares with and what tests compare with: the definitions, in float64,
with the settings of the paper's published code (randomised PCA with one power iteration, a
correlation of one-hot labels, a pseudo-inverse, 20 iterations of L-BFGS). It ranks rounding noise
where theirs does.
"""

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import scipy.stats


class Look(NamedTuple):
    """What one model saw of n images.

    Attributes:
        features: (n, d).
        labels: (n,) integers in [0, c).
        num_classes: c.
        probs: (n, z).
        reference: (n, d').
        layers: of the architecture.
        source_images: that the model was trained on.
        target_images: of the target data set.
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
    """Scores (n, f) on the leading components by a randomised SVD; x itself without f."""
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
    # The sign of scikit-learn before 1.5: the image with the largest score is positive.
    return scores * np.sign(scores[np.abs(scores).argmax(axis=0), np.arange(scores.shape[1])])


def standardize(x: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and deviation 1, in float64; constant ones become 0."""
    x = x.astype(np.float64)
    deviation = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(deviation == 0, 1, deviation)


def _pairs(square: np.ndarray) -> np.ndarray:
    return square[np.triu_indices(len(square), 1)]


def parc(look: Look, f: int | None = None) -> float:
    """Of the paper, eq. 7 and 8."""
    d_theta = 1 - np.corrcoef(standardize(reduce(look.features, f)))
    d_y = 1 - np.corrcoef(np.eye(look.num_classes)[look.labels])
    return 100 * float(scipy.stats.spearmanr(_pairs(d_theta), _pairs(d_y)).statistic)


def rsa(look: Look, f: int | None = None) -> float:
    """Of the two models' dissimilarities."""
    both = [
        _pairs(1 - np.corrcoef(standardize(reduce(x, f)))) for x in (look.features, look.reference)
    ]
    return 100 * float(scipy.stats.spearmanr(*both).statistic)


def dds(look: Look, f: int | None = None) -> float:
    """Cosine distances, U-centred, and their cosine."""
    centred = []
    for x in (look.features, look.reference):
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


def nce(look: Look) -> float:
    """Negative conditional entropy, 1e-5 added to every frequency."""
    n, z = look.probs.shape
    joint = np.zeros((z, look.num_classes))
    np.add.at(joint, (look.probs.argmax(axis=1), look.labels), 1 / n)
    marginal = joint.sum(axis=1, keepdims=True) + 1e-5
    joint += 1e-5
    return float((joint * np.log(joint / marginal)).sum())


def leep(look: Look) -> float:
    """Log expected empirical prediction."""
    joint = np.eye(look.num_classes)[look.labels].T @ look.probs
    conditional = joint / np.maximum(look.probs.sum(axis=0), 1e-30)
    return float(np.log((conditional[look.labels] * look.probs).sum(axis=1)).mean())


def hscore(look: Look, f: int | None = None) -> float:
    """By a pseudo-inverse of the covariance."""
    x = standardize(reduce(look.features, f))
    means = np.zeros_like(x)
    for label in np.unique(look.labels):
        means[look.labels == label] = x[look.labels == label].mean(axis=0)
    inverse = np.linalg.pinv(np.cov(x, rowvar=False), rcond=1e-15)
    return float(np.trace(inverse @ np.cov(means, rowvar=False)))


def knn(look: Look, f: int | None = None) -> float:
    """Leave one out, the nearest, Euclidean, unscaled."""
    from sklearn.metrics import pairwise_distances

    distances = pairwise_distances(reduce(look.features, f))
    np.fill_diagonal(distances, np.inf)
    return 100 * float((look.labels[distances.argmin(axis=1)] == look.labels).mean())


def logistic(look: Look, f: int | None = None) -> float:
    """The first half trains; 20 iterations, or a gradient of 0.1 on the sum of losses."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    x = reduce(look.features, f)
    half = -(-len(x) // 2)
    # Releases from about 1.7 on divide the loss by the number of images before they look at tol.
    classifier = LogisticRegression(max_iter=20, tol=0.1 / half)
    with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):
        classifier.fit(x[:half], look.labels[:half])
    return 100 * float(classifier.score(x[half:], look.labels[half:]))


def heuristic(look: Look) -> float:
    """Of the paper, eq. 4."""
    return look.layers + float(np.log(look.source_images + look.target_images))


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
        "heuristic": heuristic,
    }
)


def score(method: str, look: Look) -> float:
    """By a name such as "parc" or "parc_f32"."""
    name, _, reduction = method.partition("_f")
    function = METHODS[name]
    return function(look, int(reduction)) if reduction else function(look)
