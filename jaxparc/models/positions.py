"""Resampling of learned position embeddings to other grids, as PyTorch does it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Each library's way of resampling bicubically: whether with antialiasing, and what is added to the
# size of the new grid where the ratio of sizes is computed.
METHODS = {
    "timm": (True, 0.0),
    "huggingface": (False, 0.0),
    "dinov2": (False, 0.1),  # the original code's guard against rounding
}


def resample(positions: jax.Array, height: int, width: int, method: str) -> jax.Array:
    """Resample position embeddings bicubically.

    Args:
      positions: (h, w, d) float32.
      height: h', of the new grid.
      width: w', of the new grid.
      method: a key of `METHODS`. As the libraries do, an unchanged grid is returned as it is.

    Returns:
      (h', w', d) float32.
    """
    if positions.shape[:2] == (height, width):
        return positions
    antialias, offset = METHODS[method]
    rows, columns = (
        jnp.asarray(bicubic(old, new, antialias, offset))
        for old, new in zip(positions.shape[:2], (height, width), strict=True)
    )
    return jnp.einsum("ih,jw,hwd->ijd", rows, columns, positions, precision=lax.Precision.HIGHEST)


def bicubic(old: int, new: int, antialias: bool, offset: float = 0.0) -> np.ndarray:
    """Return the matrix of `torch.nn.functional.interpolate(mode="bicubic")` along one axis.

    The kernel is Keys's (1981), with a = -0.75, and, with antialiasing, with a = -0.5 and stretched
    where the new grid is coarser.

    Args:
      old: number of points.
      new: number of points after resampling.
      antialias: as in torch's function.
      offset: if not 0, the ratio of sizes is old / (new + offset), as with torch's `scale_factor`.

    Returns:
      (new, old) float32; rows sum to 1.
    """
    ratio = old / (new + offset)
    stretch, a = (max(ratio, 1.0), -0.5) if antialias else (1.0, -0.75)
    matrix = np.zeros((new, old))
    for i in range(new):
        centre = ratio * (i + 0.5) - 0.5
        first, last = math.floor(centre - 2 * stretch) + 1, math.ceil(centre + 2 * stretch) - 1
        points = np.arange(first, last + 1)
        if antialias:  # points beyond the edges are left out
            points = points[(points >= 0) & (points < old)]
        weights = _keys(np.abs(points - centre) / stretch, a)
        # without antialiasing, points beyond the edges repeat the edges
        np.add.at(matrix[i], np.clip(points, 0, old - 1), weights / weights.sum())
    return matrix.astype(np.float32)


def _keys(x: np.ndarray, a: float) -> np.ndarray:
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
