"""Make schemes_<family>.npz and names_<family>.json, of networks with other libraries' names.

Run once, from the top of the repository, in an environment of its own:

    pip install numpy torch==2.13.0 timm==1.0.31 transformers==5.24.0 safetensors
    pip install --no-deps torchvision==0.26.0
    python tests/golden/make_schemes.py [FAMILY ...]

Each file has, for each network of `ORIGINALS`, "<architecture> <scheme> state", the keys and shapes
of its weights as files have them ("key 64,3,7,7"), and "<architecture> <scheme> features" (2, d)
and "... logits" (2, 7) for `drawn.weights` of these and images of `drawn.SCHEME_SIZE`. The networks
have the fewest channels that they can have, and windows of 2. The JSON files have the digest of the
keys and shapes in timm of each network that `NAMES` matches, with 1,000 classes, and those in
torchvision of `TORCHVISION`.
"""

import json
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import drawn
import numpy as np
import torch

# as in make_models.py
library = torch.library.Library("torchvision", "DEF")
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from timm.models import convnext, swin_transformer  # noqa: E402
from torchvision.models.convnext import CNBlockConfig, ConvNeXt  # noqa: E402
from torchvision.models.regnet import BlockParams, RegNet  # noqa: E402

Shapes = dict[str, tuple[int, ...]]
State = dict[str, torch.Tensor]
BUFFERS = ("relative_position_index", "attn_mask")


def shapes_of(state: State) -> Shapes:
    """The shapes of a state dict."""
    return {key: tuple(value.shape) for key, value in state.items()}


def drawn_state(shapes: Shapes) -> State:
    """Drawn weights as tensors, without buffers, which follow from the configuration."""
    weights = drawn.weights({k: s for k, s in shapes.items() if not k.endswith(BUFFERS)})
    return {key: torch.from_numpy(np.array(array)) for key, array in weights.items()}


def filled(model: torch.nn.Module, state: State) -> torch.nn.Module:
    """The network with these weights, and its own buffers."""
    found = model.load_state_dict(state, strict=False)
    assert not found.unexpected_keys
    assert all(key.endswith(BUFFERS) for key in found.missing_keys), found.missing_keys
    return model.eval()


Original = tuple[Shapes, torch.nn.Module, torch.nn.Module]
"""The shapes of weights, the network with them, and its last linear layer."""


def last(module: torch.nn.Module) -> torch.nn.Module:
    """The last layer of a classifier."""
    return module[-1] if isinstance(module, torch.nn.Sequential) else module


def from_torchvision(model: torch.nn.Module) -> Original:
    """A network of torchvision."""
    shapes = shapes_of(model.state_dict())
    name = next(name for name in ("head", "fc", "classifier") if hasattr(model, name))
    return shapes, filled(model, drawn_state(shapes)), last(getattr(model, name))


def from_huggingface(model: torch.nn.Module, as_modules: bool = False) -> Original:
    """A network of transformers, with the names in its files or of its modules."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        path = Path(folder, "model.safetensors")
        shapes = shapes_of(model.state_dict() if as_modules else load_file(path))
        if as_modules:
            model = filled(model, drawn_state(shapes))
        else:
            save_file(drawn_state(shapes), path, {"format": "pt"})
            model = type(model).from_pretrained(folder).eval()
    return shapes, model, last(model.classifier)


def from_authors(
    model: torch.nn.Module, shapes: Shapes, translate: Callable[..., State]
) -> Original:
    """A network of timm, with weights of the authors' names, which timm translates."""
    state = translate(drawn_state(shapes), model)
    return shapes, filled(model, state), model.get_classifier()


def facebook(name: str) -> Original:
    """ConvNeXt in the names of facebookresearch/ConvNeXt and ConvNeXt-V2."""
    model = timm.create_model(name, num_classes=drawn.CLASSES)
    shapes = {}
    for key, shape in shapes_of(model.state_dict()).items():
        key = re.sub(r"^stem\.", "downsample_layers.0.", key)
        key = re.sub(r"^stages\.(\d)\.downsample\.", r"downsample_layers.\1.", key)
        key = key.replace(".blocks.", ".").replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        key = key.replace("mlp.grn.weight", "grn.gamma").replace("mlp.grn.bias", "grn.beta")
        key = key.replace("head.norm.", "norm.").replace("head.fc.", "head.")
        if ".grn." in key:
            shape = (1, 1, 1, *shape)
        shapes[key] = shape[:2] if re.search(r"pwconv\d\.weight", key) else shape
    return from_authors(model, shapes, convnext.checkpoint_filter_fn)


def microsoft(model: torch.nn.Module) -> Original:
    """Swin in the names of microsoft/Swin-Transformer, and of timm before 0.9."""
    shapes = {}
    for key, shape in shapes_of(model.state_dict()).items():
        key = re.sub(
            r"^layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key
        )
        shapes[key.replace("head.fc.", "head.")] = shape
        if key.endswith("relative_position_bias_table"):
            shapes[key.replace("bias_table", "index")] = (4, 4)
    shapes["layers.0.blocks.1.attn_mask"] = (64, 4, 4)
    return from_authors(model, shapes, swin_transformer.checkpoint_filter_fn)


def _huggingface_convnext(library: str) -> torch.nn.Module:
    config = getattr(transformers, f"{library}Config")(
        hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2], num_labels=drawn.CLASSES
    )
    return getattr(transformers, f"{library}ForImageClassification")(config)


def _torchvision_convnext() -> torch.nn.Module:
    channels = [40, 80, 160, 320, None]
    blocks = zip(channels[:-1], channels[1:], (2, 2, 6, 2), strict=True)
    return ConvNeXt([CNBlockConfig(*block) for block in blocks], num_classes=drawn.CLASSES)


_SWIN = {"embed_dim": 32, "depths": (2, 2, 6, 2), "num_heads": (1, 2, 4, 8), "window_size": 2}


def _huggingface_swin() -> torch.nn.Module:
    size = drawn.SCHEME_SIZE
    config = transformers.SwinConfig(image_size=size, num_labels=drawn.CLASSES, **_SWIN)
    return transformers.SwinForImageClassification(config)


def _torchvision_swin() -> torch.nn.Module:
    sides = {"patch_size": [4, 4], "window_size": [2, 2], "num_classes": drawn.CLASSES}
    return torchvision.models.SwinTransformer(**{**_SWIN, **sides})


def _timm_swin() -> torch.nn.Module:
    name, size = "swin_tiny_patch4_window7_224", drawn.SCHEME_SIZE
    return timm.create_model(name, img_size=size, num_classes=drawn.CLASSES, **_SWIN)


def _torchvision_regnet() -> torch.nn.Module:
    parameters = BlockParams.from_init_params(13, 24, 36.44, 2.49, group_width=8, se_ratio=0.25)
    return RegNet(parameters, num_classes=drawn.CLASSES)


def _huggingface_regnet() -> torch.nn.Module:
    config = transformers.RegNetConfig(
        embedding_size=32,
        hidden_sizes=[24, 56, 152, 368],
        depths=[1, 1, 4, 7],
        groups_width=8,
        layer_type="y",
        num_labels=drawn.CLASSES,
    )
    return transformers.RegNetForImageClassification(config)


SWIN = "swin_tiny_patch4_window7_224"
ORIGINALS: dict[str, dict[tuple[str, str], Callable[[], Original]]] = {
    "convnext": {
        ("convnext_atto", "facebook"): lambda: facebook("convnext_atto"),
        ("convnext_atto", "torchvision"): lambda: from_torchvision(_torchvision_convnext()),
        ("convnext_atto", "huggingface"): lambda: from_huggingface(
            _huggingface_convnext("ConvNext")
        ),
        ("convnextv2_atto", "facebook"): lambda: facebook("convnextv2_atto"),
        ("convnextv2_atto", "huggingface"): lambda: from_huggingface(
            _huggingface_convnext("ConvNextV2")
        ),
    },
    "swin": {
        (SWIN, "microsoft"): lambda: microsoft(_timm_swin()),
        (SWIN, "torchvision"): lambda: from_torchvision(_torchvision_swin()),
        (SWIN, "huggingface"): lambda: from_huggingface(_huggingface_swin()),
        (SWIN, "huggingface (modules)"): lambda: from_huggingface(_huggingface_swin(), True),
    },
    "regnet": {
        ("regnety_002", "torchvision"): lambda: from_torchvision(_torchvision_regnet()),
        ("regnety_002", "huggingface"): lambda: from_huggingface(_huggingface_regnet()),
    },
}


NAMES = {
    "convnext": r"convnext_(atto|femto|pico|nano|tiny|small|base|large|xlarge)"
    r"|convnextv2_(atto|femto|pico|nano|tiny|base|large|huge)",
    "swin": r"swin_(tiny|small|base|large)_patch4_window\d+_\d+",
    "regnet": r"regnety_(0\d\d|120|160|320)(_tv)?",
}
TORCHVISION = {
    "regnet": {
        "regnety_004": "regnet_y_400mf",
        "regnety_008_tv": "regnet_y_800mf",
        "regnety_016": "regnet_y_1_6gf",
        "regnety_032": "regnet_y_3_2gf",
        "regnety_080_tv": "regnet_y_8gf",
        "regnety_160": "regnet_y_16gf",
        "regnety_320": "regnet_y_32gf",
    },
}


def digests(family: str) -> dict[str, str]:
    """The digest of each network of a family."""
    found = {}
    for name in timm.list_models():
        if re.fullmatch(NAMES[family], name):
            with torch.device("meta"):
                model = timm.create_model(name)
            found[name] = drawn.digest(shapes_of(model.state_dict()))
    for name, theirs in TORCHVISION.get(family, {}).items():
        model = getattr(torchvision.models, theirs)()
        found[f"{name} torchvision"] = drawn.digest(shapes_of(model.state_dict()))
    return found


def make(family: str) -> dict[str, np.ndarray]:
    """The arrays of one file."""
    arrays: dict[str, np.ndarray] = {}
    size = drawn.SCHEME_SIZE
    images = torch.from_numpy(drawn.images(size, size)).permute(0, 3, 1, 2)
    for (name, scheme), original in ORIGINALS[family].items():
        shapes, model, head = original()
        seen = []
        head.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0].numpy()))
        with torch.no_grad():
            logits = model(images)
        lines = [f"{key} {','.join(map(str, shape))}" for key, shape in shapes.items()]
        arrays[f"{name} {scheme} state"] = np.array(lines)
        arrays[f"{name} {scheme} features"] = seen.pop()
        arrays[f"{name} {scheme} logits"] = getattr(logits, "logits", logits).numpy()
    return arrays


if __name__ == "__main__":
    torch.set_num_threads(2)
    for family in sys.argv[1:] or ORIGINALS:
        arrays = make(family)
        path = Path(__file__).with_name(f"schemes_{family}.npz")
        np.savez_compressed(path, **arrays)
        names = path.with_name(f"names_{family}.json")
        names.write_text(json.dumps(digests(family), indent=1) + "\n")
        for key, array in arrays.items():
            scale = "" if "state" in key else f"rms {np.sqrt(np.mean(np.square(array))):.3g}"
            print(path.name, path.stat().st_size, key, array.shape, array.dtype, scale)
