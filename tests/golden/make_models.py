"""Make models_<name>.npz and names.json, of the original networks, for tests without torch.

The originals are torchvision's, of EfficientNet-Lite those of efficientnet_lite_pytorch, and of
the other EfficientNets, MobileNetV3, RegNet, ConvNeXt, Swin, vision transformers (see also
make_vit.py) and the ResNets that torchvision lacks timm's.

Run once, from the top of the repository, in an environment of its own:

    pip install numpy pillow torch==2.13.0
    pip install timm==1.0.31 transformers==5.24.0
    pip install --no-deps torchvision==0.26.0 efficientnet_lite_pytorch==0.1.0
    python tests/golden/make_models.py [NAME ...]

Each file has `state`, the original's keys and shapes ("key 64,3,7,7"), and for each height and
width of `drawn.SIZES`, in evaluation mode and float32, `logits_<h>x<w>` (2, 7) and, of the last
linear layer's input (2, d), averaged over SqueezeNet's map, `features_<h>x<w>`, every (d // 512)th
column, and `norms_<h>x<w>` (2,), the Euclidean norm of each whole row. names.json has the digests
of the keys and shapes of more networks.
"""

import json
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
import transformers  # noqa: E402


def original(name: str, height: int, width: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A network for images of a size, and its last linear layer."""
    if name.startswith("efficientnet_lite"):  # its padding is of the size that it is made for
        from efficientnet_lite_pytorch import EfficientNet

        given = name.replace("_", "-")
        size = (height, width)
        model = EfficientNet.from_name(given, num_classes=drawn.CLASSES, image_size=size)
        return model.eval(), model._fc
    if name.startswith("vgg"):
        model = vgg(name, drawn.WIDTHS[name]).eval()
        return model, model.classifier[-1]
    if name.startswith(TIMM):
        size = {"img_size": (height, width)} if name.startswith("swin") else {}
        model = timm.create_model(name, num_classes=drawn.CLASSES, **size).eval()
        return model, model.get_classifier()
    if name.startswith("vit_"):
        model = timm.create_model(name, num_classes=drawn.CLASSES, dynamic_img_size=True).eval()
        return model, model.get_classifier()
    options = {"init_weights": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(num_classes=drawn.CLASSES, **options).eval()
    if name == "squeezenet1_1":
        return model, model.classifier[1]
    head = model.fc if hasattr(model, "fc") else model.classifier
    return model, head[-1] if isinstance(head, torch.nn.Sequential) else head


# How the names of timm's originals begin; the others are torchvision's.
TIMM = ("convnext", "swin", "efficientnet", "mobilenetv3", "regnety")
TIMM += ("resnet18d", "resnet50d", "seresnet50")


def vgg(name: str, width: float) -> torch.nn.Module:
    """torchvision's VGG with fewer channels."""
    module = torchvision.models.vgg
    letter = {"11": "A", "13": "B", "16": "D", "19": "E"}[name[3:5]]
    layers = [m if m == "M" else int(m * width) for m in module.cfgs[letter]]
    features = module.make_layers(layers, batch_norm=name.endswith("_bn"))
    model = module.VGG(features, drawn.CLASSES, init_weights=False)
    for place, layer in enumerate(model.classifier):
        if isinstance(layer, torch.nn.Linear):
            outputs = drawn.CLASSES if place == 6 else int(layer.out_features * width)
            model.classifier[place] = torch.nn.Linear(int(layer.in_features * width), outputs)
    return model


def of_distances(model: torch.nn.Module, key: str, array: np.ndarray) -> np.ndarray:
    """The biases of the distances within the model's window, which is smaller on small maps."""
    if not key.endswith("relative_position_bias_table"):
        return array
    h, w = model.get_submodule(key.rpartition(".")[0]).window_size
    side = round(len(array) ** 0.5)
    rows, columns = (slice((side + 1) // 2 - n, (side - 1) // 2 + n) for n in (h, w))
    return array.reshape(side, side, -1)[rows, columns].reshape(-1, array.shape[1])


def make(name: str) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    arrays: dict[str, np.ndarray] = {}
    for height, width in drawn.SIZES[name]:
        model, head = original(name, height, width)
        usual = timm.create_model(name, num_classes=drawn.CLASSES) if name[:4] == "swin" else model
        shapes = {key: tuple(value.shape) for key, value in usual.state_dict().items()}
        weights = drawn.weights(shapes)
        if usual is not model:
            weights = {key: of_distances(model, key, array) for key, array in weights.items()}
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
        arrays[f"features_{height}x{width}"] = features[:, :: max(features.shape[1] // 512, 1)]
        arrays[f"norms_{height}x{width}"] = np.linalg.norm(features, axis=1)
    return arrays


HUGGING_FACE = {
    "resnet34": {"hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
    "resnet152": {"depths": [3, 8, 36, 3]},
}


def digests() -> dict[str, dict[str, str]]:
    """The digest of the keys and shapes of networks in each library, with 1,000 classes."""
    found: dict[str, dict[str, str]] = {}
    for name in drawn.NAMES:
        with torch.device("meta"):
            models = {"timm": timm.create_model(name)}
            if hasattr(torchvision.models, name):
                models["torchvision"] = getattr(torchvision.models, name)()
            if name in HUGGING_FACE:
                models["huggingface"] = transformers.ResNetForImageClassification(
                    transformers.ResNetConfig(num_labels=1000, **HUGGING_FACE[name])
                )
        found[name] = {
            library: drawn.digest({k: tuple(v.shape) for k, v in model.state_dict().items()})
            for library, model in models.items()
        }
    return found


if __name__ == "__main__":
    torch.set_num_threads(2)
    Path(__file__).with_name("names.json").write_text(json.dumps(digests(), indent=1) + "\n")
    for name in sys.argv[1:] or drawn.SIZES:
        arrays = make(name)
        path = Path(__file__).with_name(f"models_{name}.npz")
        np.savez_compressed(path, **arrays)
        for key, array in arrays.items():
            scale = "" if key == "state" else f"rms {np.sqrt(np.mean(np.square(array))):.3g}"
            print(path.name, path.stat().st_size, key, array.shape, array.dtype, scale)
