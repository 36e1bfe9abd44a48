from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from jaxparc.models import positions

GOLDEN = Path(__file__).parents[1] / "golden" / "vit.npz"


def matrices():
    with np.load(GOLDEN) as arrays:
        return {
            tuple(key.removeprefix("bicubic/").split("_")): arrays[key]
            for key in arrays.files
            if key.startswith("bicubic/")
        }


@pytest.mark.parametrize("method", positions.METHODS)
def test_matrices_are_those_of_torch(method):
    found = {key: matrix for key, matrix in matrices().items() if key[2] == method}
    assert len(found) == 5
    for (old, new, _), expected in found.items():
        matrix = positions.bicubic(int(old), int(new), *positions.METHODS[method])
        assert matrix.dtype == np.float32
        np.testing.assert_allclose(matrix, expected, atol=5e-6)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("method", positions.METHODS)
def test_rows_and_columns_are_resampled_one_after_the_other(method):
    grid = np.random.default_rng(0).standard_normal((4, 14, 2), np.float32)
    found = positions.resample(jnp.asarray(grid), 11, 6, method)
    whole = matrices()
    rows, columns = whole["4", "11", method], whole["14", "6", method]
    expected = np.einsum("ih,jw,hwd->ijd", rows, columns, grid)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("method", positions.METHODS)
def test_an_unchanged_grid_is_returned_as_it_is(method):
    grid = jnp.asarray(np.random.default_rng(0).standard_normal((3, 5, 2), np.float32))
    np.testing.assert_array_equal(positions.resample(grid, 3, 5, method), grid)
    # where no offset moves the points, resampling would not change it
    if method != "dinov2":
        np.testing.assert_array_equal(
            positions.bicubic(5, 5, *positions.METHODS[method]), np.eye(5)
        )


def test_one_point_is_repeated():
    for method in positions.METHODS.values():
        np.testing.assert_allclose(positions.bicubic(1, 3, *method), np.ones((3, 1)))
