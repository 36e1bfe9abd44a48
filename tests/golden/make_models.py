"""Make models_<name>.npz: outputs of the original networks, for tests without torch.

The originals are torchvision's; of EfficientNet-Lite those of efficientnet_lite_pytorch, and of
the other EfficientNets and MobileNetV3 those of timm.

Run once, from the top of the repository, in an environment of its own:

    pip install numpy pillow torch==2.13.0 timm==1.0.31
    pip install --no-deps torchvision==0.26.0 efficientnet_lite_pytorch==0.1.0
    python tests/golden/make_models.py [NAME ...]

Each file has `state`, the original's keys and shapes ("key 64,3,7,7"), and for each height and
width of `drawn.SIZES`, in evaluation mode and float32, `logits_<h>x<w>` (2, 7) and, of the last
linear layer's input (2, d), averaged over SqueezeNet's map, `features_<h>x<w>`, every (d // 512)th
column, and `norms_<h>x<w>` (2,), the Euclidean norm of each whole row.
"""

import sys
from pathlib import Path

import drawn
import numpy as np
import torch

# torchvision registers fake versions of two compiled operators on import; without its compiled
# part, which no network here needs, they have to be declared first
library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402


def original(name: str, height: int, width: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A network for images of a size, and its last linear layer."""
    if name.startswith("efficientnet_lite"):  # its padding is of the size that it is made for
        from efficientnet_lite_pytorch import EfficientNet

        given = name.replace("_", "-")
        size = (height, width)
        model = EfficientNet.from_name(given, num_classes=drawn.CLASSES, image_size=size)
        return model.eval(), model._fc
    if name.startswith(("efficientnet", "mobilenetv3")):
        model = timm.create_model(name, num_classes=drawn.CLASSES).eval()
        return model, model.get_classifier()
    options = {"init_weights": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(num_classes=drawn.CLASSES, **options).eval()
    if name == "squeezenet1_1":
        return model, model.classifier[1]
    return model, model.fc if hasattr(model, "fc") else model.classifier[-1]


def make(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    arrays: dict[str, np.ndarray] = {}
    for height, width in drawn.SIZES[name]:
        model, head = original(name, height, width)
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        weights = drawn.weights(shapes)
        model.load_state_dict({key: torch.from_numpy(np.array(w)) for key, w in weights.items()})
        lines = [f"{key} {','.join(map(str, shape))}" for key, shape in shapes.items()]
        arrays["state"] = np.array(lines)

        seen = []
        head.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0].numpy()))
        images = torch.from_numpy(drawn.images(height, width)).permute(0, 3, 1, 2)
        with torch.no_grad():
            arrays[f"logits_{height}x{width}"] = model(images).numpy()
        features = seen.pop()
        features = features.mean((2, 3)) if features.ndim == 4 else features
        arrays[f"features_{height}x{width}"] = features[:, :: features.shape[1] // 512]
        arrays[f"norms_{height}x{width}"] = np.linalg.norm(features, axis=1)
    return arrays


if __name__ == "__main__":
    torch.set_num_threads(2)
    for name in sys.argv[1:] or drawn.SIZES:
        arrays = make(name)
        path = Path(__file__).with_name(f"models_{name}.npz")
        np.savez_compressed(path, **arrays)
        for key, array in arrays.items():
            scale = "" if key == "state" else f"rms {np.sqrt(np.mean(np.square(array))):.3g}"
            print(path.name, path.stat().st_size, key, array.shape, array.dtype, scale)
