"""Make efficientnet.npz: variants of EfficientNets and MobileNetV3, for tests without torch.

Run once, from the top of the repository, in the environment of make_models.py and one package more:

    pip install --no-deps efficientnet_pytorch==0.7.1
    python tests/golden/make_efficientnet.py

The file has `digests`, lines of a library, a name, and the digest of the keys and shapes with 1,000
classes; and for each of the other libraries' networks in `CASES`, at 64x64 pixels in evaluation
mode, `<case>/state` (keys and shapes) and `<case>/logits` (2, 7).
"""

from pathlib import Path

import drawn
import make_models  # declares the operators that torchvision needs  # noqa: F401
import numpy as np
import timm
import torch
import torchvision
from efficientnet_pytorch import EfficientNet

NAMES = {
    **{f"efficientnet_b{i}": f"efficientnet_b{i}" for i in range(8)},
    **{f"efficientnetv2_{size}": f"efficientnet_v2_{size}" for size in "sml"},
    "mobilenetv3_large_100": "mobilenet_v3_large",
    "mobilenetv3_small_100": "mobilenet_v3_small",
}
CLASSES = {"num_classes": drawn.CLASSES}
CASES = {
    "tf_mobilenetv3_small_100": lambda: timm.create_model("tf_mobilenetv3_small_100", **CLASSES),
    "tf_efficientnet_b0": lambda: timm.create_model("tf_efficientnet_b0", **CLASSES),
    "mobilenet_v3_small": lambda: torchvision.models.mobilenet_v3_small(**CLASSES),
    "efficientnet_b0": lambda: torchvision.models.efficientnet_b0(**CLASSES),
    "efficientnet_v2_s": lambda: torchvision.models.efficientnet_v2_s(**CLASSES),
    "efficientnet-b0": lambda: EfficientNet.from_name(
        "efficientnet-b0", num_classes=drawn.CLASSES, image_size=64
    ),
}


def lines(model: torch.nn.Module) -> list[str]:
    """Keys and shapes."""
    state = model.state_dict().items()
    return [f"{key} {','.join(map(str, value.shape))}" for key, value in state]


if __name__ == "__main__":
    digests = []
    for name, theirs in NAMES.items():
        with torch.device("meta"):
            models = {
                "timm": timm.create_model(name),
                "tf": timm.create_model(f"tf_{name}"),
                "torchvision": getattr(torchvision.models, theirs)(),
            }
            if "_b" in name:
                package = EfficientNet.from_name(name.replace("_", "-"))
                models["efficientnet_pytorch"] = package
        for library, model in models.items():
            shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
            digests.append(f"{library} {name} {drawn.digest(shapes)}")
    arrays = {"digests": np.array(digests)}
    for case, make in CASES.items():
        model = make().eval()
        arrays[f"{case}/state"] = np.array(lines(model))
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        weights = drawn.weights(shapes)
        model.load_state_dict({key: torch.from_numpy(np.array(w)) for key, w in weights.items()})
        with torch.no_grad():
            images = torch.from_numpy(drawn.images(64, 64)).permute(0, 3, 1, 2)
            arrays[f"{case}/logits"] = model(images).numpy()
        print(case, arrays[f"{case}/logits"].std())
    np.savez_compressed(Path(__file__).with_name("efficientnet.npz"), **arrays)
