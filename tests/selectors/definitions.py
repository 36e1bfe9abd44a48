"""The definitions of the selectors in float64, independent of the library: slow and plain.

Functions of features (n, d), labels, the number of classes and, for some, f components, class
probabilities and reference features.
"""

import functools

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.spatial
import scipy.special
import scipy.stats
import sklearn.covariance
import sklearn.metrics
import sklearn.model_selection
import sklearn.neighbors


def kind_of(y):
    """The kind of encoded labels; see `jaxparc.labels.KINDS`."""
    if y.ndim == 1:
        return "classes"
    if (y < 0).any():  # standardised
        return "values"
    return "multi_label" if np.isin(y, (0, 1)).all() else "vectors"


def reduced(x, f):
    """Exact scores; directions without variance left out."""
    centred = x - x.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    scores = (left * values)[:, : min(f, (values > 1e-5 * values[0]).sum())]
    return scores * np.sign(scores[np.abs(scores).argmax(0), np.arange(scores.shape[1])])


def standardised(x, f):
    x = np.asarray(x, np.float64)
    if f is not None:
        x = reduced(x, f)
    return (x - x.mean(0)) / np.where(x.max(0) == x.min(0), 1, x.std(0))


def parc_float64(x, y, c, f=None, **_):
    pairs = np.triu_indices(len(x), 1)
    d_theta = 1 - np.corrcoef(standardised(x, f))[pairs]
    if y.ndim == 1:
        d_y = (y[:, None] != y)[pairs] * c / (c - 1)
    elif kind_of(y) == "values":
        y = np.asarray(y, np.float64)
        d_y = scipy.spatial.distance.pdist((y - y.mean(0)) / y.std(0))
    else:  # rounded: equal distances differ in the last digits otherwise
        d_y = np.round(1 - np.corrcoef(y.astype(np.float64))[pairs], 5)
    return 100 * scipy.stats.spearmanr(d_theta, d_y).statistic


def rsa_float64(x, y, c, f=None, *, reference, **_):
    pairs = np.triu_indices(len(x), 1)
    a, b = ((1 - np.corrcoef(standardised(v, f)))[pairs] for v in (x, reference))
    return 100 * scipy.stats.spearmanr(a, b).statistic


def dds_float64(x, y, c, f=None, *, reference, **_):
    """By loops: U-centring is subtle, and a slip in both would agree."""
    n = len(x)
    centred = []
    for v in (x, reference):
        v = standardised(v, f)
        d = np.zeros((n, n))
        for i in range(n):
            for j in range(n):
                d[i, j] = i != j and 1 - v[i] @ v[j] / np.sqrt((v[i] @ v[i]) * (v[j] @ v[j]))
        u = d - d.sum(0) / (n - 2) - d.sum(1)[:, None] / (n - 2) + d.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(u, 0)
        assert abs(u.sum(0)).max() < 1e-9  # what U-centring is for
        centred.append(u)
    a, b = centred
    return 100 * (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())


def nce_float64(x, y, c, *, probs, **_):
    seen, z = probs.argmax(1), probs.shape[1]
    total = 0.0
    for source in range(z):
        marginal = np.mean(seen == source) + 1e-5
        for target in range(c):
            joint = np.mean((seen == source) & (y == target)) + 1e-5
            total += joint * np.log(joint / marginal)
    return total


def leep_float64(x, y, c, *, probs, **_):
    probs = np.asarray(probs, np.float64)
    joint = np.array([probs[y == target].sum(0) for target in range(c)])
    conditional = joint / np.maximum(probs.sum(0), 1e-300)
    return np.mean([np.log(conditional[label] @ p) for label, p in zip(y, probs, strict=True)])


def r2_float64(y, regressor, x):
    """Of scikit-learn's predictions for each image from the others."""
    y = np.asarray(y, np.float64)
    folds = sklearn.model_selection.LeaveOneOut()
    predicted = sklearn.model_selection.cross_val_predict(regressor, x, y, cv=folds)
    return sklearn.metrics.r2_score(y, predicted)


def knn_float64(x, y, c, f=None, **_):
    x = np.asarray(x, np.float64)
    if f is not None:
        x = reduced(x, f)
    if kind_of(y) == "values":
        return r2_float64(y, sklearn.neighbors.KNeighborsRegressor(1), x)
    right = []
    for i, image in enumerate(x):
        distance = np.square(x - image).sum(1)
        distance[i] = np.inf
        nearest = y[distance.argmin()]
        if kind_of(y) == "vectors":
            right.append(-abs(nearest - y[i]).sum() / 100)
        else:
            right.append(np.mean(nearest == y[i]))
    return 100 * np.mean(right)


def hscore_float64(x, y, c, f=None, **_):
    """By covariances and a pseudo-inverse, as it is defined."""
    x = standardised(x, f)
    means = np.array([x[y == label].mean(0) for label in y])
    return np.trace(np.linalg.pinv(np.cov(x.T), rcond=1e-10) @ np.cov(means.T))


def logistic_float64(x, y, c, f=None, **_):
    """In the features themselves, by L-BFGS, until nothing moves."""
    x = np.asarray(x, np.float64)
    x = reduced(x, f) if f is not None else x
    half = -(-len(x) // 2)
    classes = np.unique(y[:half])
    train = np.c_[x[:half], np.ones(half)]
    one_hot = (y[:half, None] == classes).astype(np.float64)

    def loss(flat):
        w = flat.reshape(train.shape[1], len(classes))
        logits = train @ w
        log_sum = scipy.special.logsumexp(logits, axis=1)
        slope = train.T @ (np.exp(logits - log_sum[:, None]) - one_hot)
        slope[:-1] += w[:-1]
        return log_sum.sum() - (logits * one_hot).sum() + (w[:-1] ** 2).sum() / 2, slope.ravel()

    found = scipy.optimize.minimize(
        loss,
        np.zeros(train.shape[1] * len(classes)),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 10_000, "gtol": 1e-8, "ftol": 1e-16},
    )
    w = found.x.reshape(train.shape[1], len(classes))
    return 100 * np.mean(classes[(x[half:] @ w[:-1] + w[-1]).argmax(1)] == y[half:])


def ridge_float64(x, y, c, f=None, **_):
    """By solving for the weights without each image in turn."""
    x = np.asarray(x, np.float64)
    x = reduced(x, f) if f is not None else x
    rows = np.eye(c)[y] if y.ndim == 1 else np.asarray(y, np.float64)
    largest = np.linalg.norm(x - x.mean(0), 2) ** 2
    best = np.inf
    for k in np.arange(-5, 1.5, 0.5):
        predicted = np.empty_like(rows)
        for i in range(len(x)):
            others = np.arange(len(x)) != i
            mean, target = x[others].mean(0), rows[others].mean(0)
            a = x[others] - mean
            w = np.linalg.solve(
                a.T @ a + largest * 10**k * np.eye(x.shape[1]), a.T @ (rows[others] - target)
            )
            predicted[i] = (x[i] - mean) @ w + target
        error = np.square(predicted - rows).mean()
        if error < best:
            best, chosen = error, predicted
    if y.ndim == 1:
        return 100 * np.mean(chosen.argmax(1) == y)
    if kind_of(y) == "values":
        return sklearn.metrics.r2_score(rows, chosen)
    if kind_of(y) == "vectors":
        return -np.abs(chosen - rows).sum(1).mean()
    return 100 * np.mean((chosen > 0.5) == (rows > 0.5))


def lfc_float64(x, y, c, f=None, **_):
    x = np.asarray(x, np.float64)
    x = reduced(x, f) if f is not None else x
    centred = x - x.mean(0)
    pairs = [(i, j) for i in range(len(x)) for j in range(i)]
    products = [centred[i] @ centred[j] for i, j in pairs]
    return 100 * scipy.stats.pearsonr(products, [float(y[i] == y[j]) for i, j in pairs]).statistic


def ncm_float64(x, y, c, f=None, **_):
    x = np.asarray(x, np.float64)
    x = reduced(x, f) if f is not None else x
    x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    right = []
    for i, image in enumerate(x):
        others = np.arange(len(x)) != i
        distances = [
            np.linalg.norm(image - x[others & (y == k)].mean(0)) if (y[others] == k).any() else 9
            for k in range(c)
        ]
        tied = np.flatnonzero(distances < min(distances) + 1e-9)
        right.append((y[i] in tied) / len(tied))
    return 100 * np.mean(right)


def logme_float64(x, y, c, f=None, **_):
    """By the density of the labels, of covariance (I + x x^T / r) / beta, over r and beta."""
    x = np.asarray(x, np.float64)
    x = reduced(x, f) if f is not None else x
    rows = np.eye(c)[y] if y.ndim == 1 else np.asarray(y, np.float64)
    rows = rows[:, rows.any(0)]

    def evidence(logarithm):
        half = np.linalg.cholesky(np.eye(len(x)) + x @ x.T * np.exp(-logarithm))
        variance = np.square(scipy.linalg.solve_triangular(half, rows, lower=True)).mean(0)
        constants = np.log(np.diag(half)).mean() + 0.5 + np.log(2 * np.pi) / 2
        return -0.5 * np.log(variance) - constants

    grid = np.log(np.square(x).sum()) + np.arange(-32, 20, 0.5)
    table = np.array([evidence(logarithm) for logarithm in grid])
    best = []
    for k, place in enumerate(table.argmax(0)):
        around = grid[place] - 0.5, grid[place] + 0.5
        cost = lambda logarithm, k=k: -evidence(logarithm)[k]  # noqa: E731
        best.append(-scipy.optimize.minimize_scalar(cost, bounds=around, method="bounded").fun)
    return np.mean(best)


def transrate_float64(x, y, c, f=None, **_):
    """With d x d matrices, class by class."""
    x = np.asarray(x, np.float64)
    x = reduced(x, f) if f is not None else x - x.mean(0)

    def rate(rows):
        square = np.eye(rows.shape[1]) + rows.T @ rows / (len(rows) * 1e-4)
        return np.linalg.slogdet(square)[1] / 2

    return rate(x) - np.mean([rate(x[y == label]) for label in np.unique(y)])


def gbc_float64(x, y, c, f=64, **_):
    """Pair by pair."""
    x = reduced(np.asarray(x, np.float64), f)
    groups = [x[y == label] for label in np.unique(y)]
    means = [rows.mean(0) for rows in groups]
    variances = [max(rows.var(0).mean(), 1e-4) for rows in groups]
    total = 0.0
    for i, (mean, own) in enumerate(zip(means, variances, strict=True)):
        for j, (other, its) in enumerate(zip(means, variances, strict=True)):
            if i != j:
                both = (own + its) / 2
                distance = np.square(mean - other).sum() / 8 / both
                total += np.exp(-distance - np.log(both / np.sqrt(own * its)) / 2)
    return -total


def hscore_shrunk_float64(x, y, c, f=None, **_):
    """By a d x d matrix and its inverse."""
    x = np.asarray(x, np.float64)
    x = reduced(x, f) if f is not None else x - x.mean(0)
    shrunk, delta = sklearn.covariance.ledoit_wolf(x, assume_centered=True)
    between = sum(
        np.mean(y == label) * np.outer(mean, mean)
        for label in np.unique(y)
        for mean in [x[y == label].mean(0)]
    )
    return (1 - delta) * np.trace(np.linalg.solve(shrunk, between))


def sfda_float64(x, y, c, f=32, **_):
    """By the densities of Gaussians of one covariance, image by image."""
    x = reduced(np.asarray(x, np.float64), f)
    half = -(-len(x) // 2)
    parts = (x[:half], y[:half]), (x[half:], y[half:])
    total = 0.0
    for (fitted, classes), (others, own) in (parts, parts[::-1]):
        present = np.unique(classes)
        means = np.array([fitted[classes == label].mean(0) for label in present])
        rest = fitted - means[np.searchsorted(present, classes)]
        within = rest.T @ rest / len(fitted)
        sigma = np.linalg.norm(within, 2)
        shrinkage = np.exp(-5 * sigma)
        within = (1 - shrinkage) * within + max(shrinkage, 1e-6 * sigma) * np.eye(len(within))
        for image, label in zip(others, own, strict=True):
            logs = [
                np.log(np.mean(classes == other))
                + scipy.stats.multivariate_normal(mean, within).logpdf(image)
                for other, mean in zip(present, means, strict=True)
            ]
            total += scipy.special.softmax(logs)[list(present).index(label)]
    return total / len(x)


def nleep_float64(x, y, c, f=64, seed=0, **_):
    """Image by image and Gaussian by Gaussian, from the same random numbers."""
    x = reduced(np.asarray(x, np.float64), f)
    n, f = x.shape
    x /= np.sqrt(np.square(x).sum(1).mean())
    drawn = np.random.default_rng(seed).random(min(5 * c, n))
    centres = [x[int(drawn[0] * n)]]
    for number in drawn[1:]:
        squares = [min(np.square(image - centre).sum() for centre in centres) for image in x]
        upto = np.cumsum(squares) / np.sum(squares)
        centres.append(x[np.searchsorted(upto, number, side="right")])
    posterior = np.zeros((n, len(drawn)))
    for i, image in enumerate(x):
        posterior[i, np.argmin([np.square(image - centre).sum() for centre in centres])] = 1
    for _round in range(30):
        logs = np.full(posterior.shape, -np.inf)
        for k, weights in enumerate(posterior.T):
            if weights.sum() > 0:
                mean = np.average(x, axis=0, weights=weights)
                variance = np.average(np.square(x - mean).mean(1), weights=weights)
                of_one = scipy.stats.norm(mean, np.sqrt(max(variance, 1e-4 / f)))
                logs[:, k] = np.log(weights.sum()) + of_one.logpdf(x).sum(1)
        posterior = scipy.special.softmax(logs, axis=1)
    return leep_float64(x, y, c, probs=posterior)


FLOAT64 = {
    "logme": logme_float64,
    "logme_f8": functools.partial(logme_float64, f=8),
    "ncm": ncm_float64,
    "ncm_f8": functools.partial(ncm_float64, f=8),
    "lfc": lfc_float64,
    "lfc_f8": functools.partial(lfc_float64, f=8),
    "ridge": ridge_float64,
    "ridge_f8": functools.partial(ridge_float64, f=8),
    "parc": parc_float64,
    "parc_f8": functools.partial(parc_float64, f=8),
    "knn": knn_float64,
    "knn_f8": functools.partial(knn_float64, f=8),
    "rsa": rsa_float64,
    "rsa_f8": functools.partial(rsa_float64, f=8),
    "dds": dds_float64,
    "dds_f8": functools.partial(dds_float64, f=8),
    "nce": nce_float64,
    "leep": leep_float64,
    "hscore": hscore_float64,
    "hscore_f8": functools.partial(hscore_float64, f=8),
    "logistic": logistic_float64,
    "logistic_f8": functools.partial(logistic_float64, f=8),
    "gbc": gbc_float64,
    "gbc_f8": functools.partial(gbc_float64, f=8),
    "hscore_shrunk": hscore_shrunk_float64,
    "hscore_shrunk_f8": functools.partial(hscore_shrunk_float64, f=8),
    "sfda": sfda_float64,
    "sfda_f8": functools.partial(sfda_float64, f=8),
    "nleep": nleep_float64,
    "nleep_f8": functools.partial(nleep_float64, f=8),
    "transrate": transrate_float64,
    "transrate_f8": functools.partial(transrate_float64, f=8),
}
