"""Make keras.npz: EfficientNets of keras.applications, for tests without Keras.

Run once, from the top of the repository, in an environment of its own:

    pip install keras==3.15.1 jax h5py
    KERAS_BACKEND=jax python tests/golden/make_keras.py

The file has `digests`, lines of a name and the digest of the keys and shapes with 1,000 classes;
`state`, the keys and shapes of B0 without a head; and `features_<case>` (2, 1280) of B0 with
`drawn.keras_weights`, of `drawn.pixels(64, 64)` in evaluation mode. The network normalises its
images as that of the published weights ("imagenet"), or by another mean and variance ("adapted").
"""

import tempfile
from pathlib import Path

import drawn
import keras
import numpy as np
from keras.src.applications import efficientnet

ARGUMENTS = {"input_shape": (64, 64, 3), "include_top": False, "pooling": "avg"}


def shapes_of(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """The shapes of all weights but the number of images that the normalisation has seen."""
    return {w.path: tuple(w.shape) for w in model.weights if not w.path.endswith("/count")}


def fill(model: keras.Model, case: str) -> None:
    """Assign drawn weights."""
    for key, array in drawn.keras_weights(shapes_of(model), case).items():
        next(w for w in model.weights if w.path == key).assign(array)
    model.get_layer("normalization").finalize_state()  # which it does when it loads weights


if __name__ == "__main__":
    lines = []
    for i in range(8):
        keras.utils.clear_session()  # names are numbered
        network = getattr(keras.applications, f"EfficientNetB{i}")(weights=None)
        lines.append(f"efficientnet_b{i} {drawn.digest(shapes_of(network))}")
    keras.utils.clear_session()
    adapted = efficientnet.EfficientNetB0(weights=None, **ARGUMENTS)
    state = [f"{k} {','.join(map(str, shape))}" for k, shape in shapes_of(adapted).items()]
    arrays = {"digests": np.array(lines), "state": np.array(state)}
    fill(adapted, "imagenet")
    with tempfile.TemporaryDirectory() as folder:
        # Keras adds a layer to the network if it downloads the published weights
        path = f"{folder}/published.weights.h5"
        adapted.save_weights(path)
        efficientnet.file_utils.get_file = lambda *args, **kwargs: path
        published = efficientnet.EfficientNetB0(weights="imagenet", **ARGUMENTS)
    fill(adapted, "adapted")
    for case, network in (("imagenet", published), ("adapted", adapted)):
        features = np.asarray(network(drawn.pixels(64, 64).astype(np.float32), training=False))
        arrays[f"features_{case}"] = features
        print(case, features.std())
    np.savez_compressed(Path(__file__).with_name("keras.npz"), **arrays)
