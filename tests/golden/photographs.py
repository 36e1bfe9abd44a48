"""foolbox's 20 labelled photographs of ImageNet, and what a network sees in them."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image


def of_size(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(20, size, size, 3) float32 in [0, 255] and their classes (20,); skips without foolbox."""
    package = importlib.util.find_spec("foolbox")
    if package is None:
        pytest.skip("pip install foolbox")
    files = sorted(Path(package.submodule_search_locations[0], "data").glob("imagenet_*.jpg"))
    images = [
        Image.open(f).convert("RGB").resize((size, size), Image.Resampling.BILINEAR) for f in files
    ]
    labels = np.array([int(file.stem.rpartition("_")[2]) for file in files])
    return np.stack([np.asarray(image) for image in images]).astype(np.float32), labels


def seen(loaded, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, d) and class probabilities (n, z) of a `weights.Loaded`."""
    given = (images / 255 - np.float32(loaded.spec.mean)) / np.float32(loaded.spec.std)
    logits, activations = jax.jit(loaded.module.apply)(loaded.variables, given)
    return np.asarray(activations["features"]), np.asarray(jax.nn.softmax(logits))
