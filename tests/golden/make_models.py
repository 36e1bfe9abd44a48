"""Make models_<name>.npz: what torchvision's own networks say, for tests that have no torch.

Run once, from the top of the repository, in an environment of its own:

    pip install numpy pillow torch==2.13.0
    pip install --no-deps torchvision==0.26.0
    python tests/golden/make_models.py

Each file has `state`, torchvision's keys and shapes ("key 64,3,7,7"), and for each height and
width of `drawn.SIZES`, in evaluation mode and float32, `logits_<h>x<w>` (2, 7) and, of the last
linear layer's input (2, d), `features_<h>x<w>` (2, 512), every (d / 512)th column, and
`norms_<h>x<w>` (2,), the Euclidean norm of each whole row.
"""

from pathlib import Path

import drawn
import numpy as np
import torch

# torchvision registers fake versions of two compiled operators on import; without its compiled
# part, which no network here needs, they have to be declared first
library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import torchvision  # noqa: E402


def make(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    options = {"init_weights": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(num_classes=drawn.CLASSES, **options).eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    drawn_weights = drawn.weights(shapes)
    model.load_state_dict({key: torch.from_numpy(np.array(w)) for key, w in drawn_weights.items()})

    seen = []
    head = model.classifier[-1] if name == "alexnet" else model.fc
    head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].numpy()))

    arrays = {
        "state": np.array([f"{k} {','.join(map(str, shape))}" for k, shape in shapes.items()])
    }
    for height, width in drawn.SIZES[name]:
        images = torch.from_numpy(drawn.images(height, width)).permute(0, 3, 1, 2)
        with torch.no_grad():
            arrays[f"logits_{height}x{width}"] = model(images).numpy()
        features = seen.pop()
        arrays[f"features_{height}x{width}"] = features[:, :: features.shape[1] // 512]
        arrays[f"norms_{height}x{width}"] = np.linalg.norm(features, axis=1)
    return arrays


if __name__ == "__main__":
    torch.set_num_threads(2)
    for name in drawn.SIZES:
        arrays = make(name)
        path = Path(__file__).with_name(f"models_{name}.npz")
        np.savez_compressed(path, **arrays)
        for key, array in arrays.items():
            scale = "" if key == "state" else f"rms {np.sqrt(np.mean(np.square(array))):.3g}"
            print(path.name, path.stat().st_size, key, array.shape, array.dtype, scale)
