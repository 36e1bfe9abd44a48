"""Linear probe: a linear classifier on frozen features, as a model has before fine-tuning."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxparc import stats
from jaxparc.selectors.logistic import GIVEN_UP, fit


def accuracy(
    features: np.ndarray,
    labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    num_classes: int,
) -> float | None:
    """Return the test accuracy of multinomial logistic regression, as scikit-learn's by default.

    Features are used as they are, and the penalty is ||W||^2 / 2 beside the sum of the
    cross-entropies (C = 1).

    Args:
        features: (n, d) float32, of the training images.
        labels: (n,) classes.
        test_features: (k, d) float32.
        test_labels: (k,) classes.
        num_classes: c.

    Returns:
        In percent; None if no optimum is found in float32.
    """
    mean = features.mean(axis=0)  # the intercept is not penalised, so this changes nothing
    logits, error = _logits(
        jnp.asarray(features - mean),
        jax.nn.one_hot(labels, num_classes, dtype=jnp.float32),
        jnp.asarray(test_features - mean),
    )
    if not float(error) <= GIVEN_UP[4] or not bool(jnp.isfinite(logits).all()):
        return None
    return 100.0 * float(np.mean(np.argmax(np.asarray(logits), axis=1) == test_labels))


@jax.jit
def _logits(x: jax.Array, y: jax.Array, tested: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the logits of the test images, (k, c), and the error of the optimum, ()."""
    present = jnp.any(y > 0, axis=0, keepdims=True)
    fitted, error = fit(stats.matmul(x, x.T), y, present)
    logits = stats.matmul(tested, stats.matmul(x.T, fitted.weights)) + fitted.intercept
    # Large and finite, so that logits that are not finite are noticed.
    return jnp.where(present, logits, jnp.finfo(jnp.float32).min), error
