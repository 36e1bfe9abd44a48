"""Linear probe: a linear classifier on frozen features, as a model has before fine-tuning."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxparc import parallel, stats
from jaxparc.selectors.logistic import GIVEN_UP, fit


def accuracy(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
) -> float | None:
    """Return the test accuracy of multinomial logistic regression.

    All features are divided by one number, so that the mean of their variances is 1. The penalty is
    ||W||^2 / 2 beside the sum of the cross-entropies, as scikit-learn's by default (C = 1). Where
    float32 is too coarse, it is computed in float64 on a CPU.

    Args:
        features: (n, d) float32, of the training images.
        labels: (n,) classes.
        test_features: (k, d) float32.
        test_labels: (k,) classes.
        num_classes: c.

    Returns:
        In percent; None if no optimum is found, such as for features that are not finite.
    """
    # The intercept is not penalised, so centring changes nothing.
    mean = features.mean(axis=0, dtype=np.float64)
    scale = np.sqrt(np.mean(np.square(features - mean)))
    if not 0 < scale < np.inf:
        return None
    centred = (features - mean) / scale, (test_features - mean) / scale
    logits = _logits(*centred, labels, num_classes, np.dtype(np.float32))
    if logits is None:
        with parallel.on_cpu(), parallel.enable_x64(True):
            logits = _logits(*centred, labels, num_classes, np.dtype(np.float64))
    if logits is None:
        return None
    return 100.0 * float(np.mean(np.argmax(logits, axis=1) == test_labels))


def _logits(
    features: np.ndarray, tested: np.ndarray, labels: np.ndarray, num_classes: int, dtype: np.dtype
) -> np.ndarray | None:
    """Return the logits of the test images, (k, c); None if no optimum is found."""
    x = jnp.asarray(features.astype(dtype))
    y = jnp.asarray(np.eye(num_classes, dtype=dtype)[labels])
    logits, error = _fitted(x, y, jnp.asarray(tested.astype(dtype)))
    good = float(error) <= GIVEN_UP[dtype.itemsize] and bool(jnp.isfinite(logits).all())
    return np.asarray(logits) if good else None


@jax.jit
def _fitted(x: jax.Array, y: jax.Array, tested: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the logits of the test images, (k, c), and the error of the optimum, ()."""
    present = jnp.any(y > 0, axis=0, keepdims=True)
    weights, error = fit(stats.matmul(x, x.T), y, present)
    logits = stats.matmul(tested, stats.matmul(x.T, weights.weights)) + weights.intercept
    # Large and finite, so that logits that are not finite are noticed.
    return jnp.where(present, logits, jnp.finfo(x.dtype).min), error
