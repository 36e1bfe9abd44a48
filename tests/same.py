"""Which scores count as the same."""

import jax
import numpy as np


def assert_same(found, expected):
    """Compare scores of the same features in another form, or beside other models.

    On a CPU they are computed by the same program, and so are equal. On an accelerator, programs
    of other numbers of models add in another order.
    """
    if jax.default_backend() == "cpu":
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-3)
