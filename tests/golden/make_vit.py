"""Make vit.npz: vision transformers of timm, Hugging Face and OpenCLIP, for tests without torch.

Run once, from the top of the repository, in an environment of its own:

    pip install numpy torch==2.13.0 timm==1.0.31 transformers==5.24.0 open_clip_torch==3.3.0
    pip install --no-deps torchvision==0.26.0
    python tests/golden/make_vit.py

For each case of `CASES` and `OTHERS`, with two attention heads (so that the file is small and the
tests are quick) and weights of `drawn.weights`: `<case>/state`, keys and shapes ("key 64,3,7,7"),
and, for images of h x w pixels, `<case>/features_<h>x<w>` (2, d). Of all networks in timm, with
their own size and a head of 1,000 classes, `names`: "name digest" (`drawn.digest`). And
`bicubic/<old>_<new>_<way>` (new, old): torch's matrices of `torch.nn.functional.interpolate`.
"""

import sys
import tempfile
from pathlib import Path

import drawn
import numpy as np
import torch

library = torch.library.Library("torchvision", "DEF")  # see make_models.py
for operator in ("nms", "qnms"):
    library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import open_clip  # noqa: E402
import timm  # noqa: E402
import transformers  # noqa: E402
from safetensors import safe_open  # noqa: E402

NARROW = {"embed_dim": 128, "num_heads": 2}


def of_timm(name: str, **options: object) -> tuple[torch.nn.Module, object]:
    """A network, and the function from images to its features."""
    model = timm.create_model(
        name, num_classes=drawn.CLASSES, dynamic_img_size=True, **{**NARROW, **options}
    )
    return model, lambda x: model.forward_head(model.forward_features(x), pre_logits=True)


def of_transformers(kind: str, patch: int, size: int) -> tuple[torch.nn.Module, object]:
    """A model that has an image tower of two heads, or is one."""
    vision = {
        "hidden_size": 128,
        "num_attention_heads": 2,
        "num_hidden_layers": 12,
        "patch_size": patch,
        "image_size": size,
    }
    config = getattr(transformers, f"{kind}Config")
    if kind in ("CLIP", "Siglip"):
        text = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
        text |= {"intermediate_size": 8, "vocab_size": 3, "max_position_embeddings": 4}
        ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
        given = config(vision_config=vision | {"intermediate_size": 512}, text_config=text | ends)
        model = getattr(transformers, f"{kind}Model")(given)
        tower = model.vision_model
        return model, lambda x: tower(x, interpolate_pos_encoding=True).pooler_output
    width = {"mlp_ratio": 4} if "Dinov2" in kind else {"intermediate_size": 512}
    given = config(**vision, **width, num_labels=drawn.CLASSES)
    if kind == "ViT":
        model = transformers.ViTForImageClassification(given)
        options = {"interpolate_pos_encoding": True}
        return model, lambda x: model.vit(x, **options).last_hidden_state[:, 0]
    model = getattr(transformers, f"{kind}Model")(given)
    return model, lambda x: model(x).last_hidden_state[:, 0]


def of_open_clip() -> tuple[torch.nn.Module, object]:
    """A model with an image and a text tower."""
    vision = {"layers": 12, "width": 128, "head_width": 64, "patch_size": 32, "image_size": 224}
    text = {"context_length": 4, "vocab_size": 3, "width": 8, "heads": 1, "layers": 1}
    model = open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=text, quick_gelu=True)
    seen = []
    model.visual.ln_post.register_forward_hook(lambda _, given, output: seen.append(output))

    def features(x: torch.Tensor) -> torch.Tensor:
        model.encode_image(x)
        last = seen.pop()
        return last[:, 0] if last.ndim == 3 else last

    return model, features


CASES = {
    "deit3_small_patch16_224": (lambda: of_timm("deit3_small_patch16_224"), (80, 64)),
    "avg": (lambda: of_timm("vit_tiny_patch16_224", global_pool="avg"), (80, 64)),
    "vit_small_patch14_dinov2": (lambda: of_timm("vit_small_patch14_dinov2"), (70, 84)),
    "vit_small_patch14_reg4_dinov2": (lambda: of_timm("vit_small_patch14_reg4_dinov2"), (70, 84)),
    "vit_base_patch32_clip_quickgelu_224": (
        lambda: of_timm("vit_base_patch32_clip_quickgelu_224"),
        (256, 288),
    ),
    "vit_base_patch16_siglip_224": (lambda: of_timm("vit_base_patch16_siglip_224"), (80, 64)),
    "vit_so400m_patch14_siglip_384": (
        lambda: of_timm("vit_so400m_patch14_siglip_384", embed_dim=144),
        (56, 70),
    ),
    "ViT": (lambda: of_transformers("ViT", 16, 224), (80, 64)),
    "Dinov2": (lambda: of_transformers("Dinov2", 14, 518), (70, 84)),
    "Dinov2WithRegisters": (lambda: of_transformers("Dinov2WithRegisters", 14, 518), (70, 84)),
    "CLIP": (lambda: of_transformers("CLIP", 32, 224), (256, 288)),
    "Siglip": (lambda: of_transformers("Siglip", 16, 224), (80, 64)),
    "openclip": (of_open_clip, (224, 224)),
}


_SIZES = (
    "tiny_patch16 small_patch32 small_patch16 small_patch8 base_patch32 base_patch16 base_patch8"
)
NAMES = (
    *(f"vit_{size}_224" for size in f"{_SIZES} large_patch16".split()),
    *(f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")),
    *(f"deit3_{size}_patch16_224" for size in ("small", "base")),
    *(
        f"vit_{size}_patch14_{registers}dinov2"
        for registers in ("", "reg4_")
        for size in ("small", "base", "large")
    ),
    *(
        f"vit_{size}_clip_{activation}224"
        for activation in ("", "quickgelu_")
        for size in ("base_patch32", "base_patch16", "large_patch14")
    ),
    *("vit_base_patch16_siglip_224", "vit_base_patch16_siglip_256"),
    "vit_so400m_patch14_siglip_384",
)


def published(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Keys and shapes as the library writes them."""
    if not isinstance(model, transformers.PreTrainedModel):
        return {key: tuple(value.shape) for key, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with safe_open(Path(folder, "model.safetensors"), "numpy") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118


def set_weights(model: torch.nn.Module, weights: dict[str, np.ndarray]) -> torch.nn.Module | None:
    """Put weights into a model, through a file where the library renames them."""
    tensors = {key: torch.from_numpy(np.array(w)) for key, w in weights.items()}
    if not isinstance(model, transformers.PreTrainedModel):
        model.load_state_dict(tensors)
        return
    loaded = type(model).from_pretrained(None, config=model.config, state_dict=tensors)
    model.load_state_dict(loaded.state_dict())


def bicubic() -> dict[str, np.ndarray]:
    """Matrices of interpolation along one axis: the images of unit vectors."""
    found = {}
    for old, new in ((14, 6), (14, 5), (7, 8), (4, 11), (37, 16)):
        # torch misreads maps of one column with antialiasing
        units = torch.eye(old).reshape(1, old, old, 1).repeat(1, 1, 1, 2)
        for way, options in {
            "timm": {"size": (new, 2), "antialias": True},
            "huggingface": {"size": (new, 2)},
            "dinov2": {"scale_factor": ((new + 0.1) / old, 1.0)},
        }.items():
            matrix = torch.nn.functional.interpolate(units, mode="bicubic", **options)
            found[f"bicubic/{old}_{new}_{way}"] = matrix[0, :, :, 0].T.numpy()
    return found


def digests() -> list[str]:
    """Of the keys and shapes of all networks that are registered."""
    found = []
    for name in NAMES:
        with torch.device("meta"):
            state = timm.create_model(name, num_classes=1000).state_dict()
        found.append(f"{name} {drawn.digest({k: tuple(v.shape) for k, v in state.items()})}")
    return found


if __name__ == "__main__":
    torch.set_num_threads(2)
    arrays = bicubic() | {"names": np.array(digests())}
    for case, (build, (height, width)) in CASES.items():
        model, features = build()
        model.eval()
        shapes = published(model)
        set_weights(model, drawn.weights(shapes))
        images = torch.from_numpy(drawn.images(height, width)).permute(0, 3, 1, 2)
        with torch.no_grad():
            found = features(images).numpy()
        lines = [f"{key} {','.join(map(str, shape))}" for key, shape in shapes.items()]
        arrays[f"{case}/state"] = np.array(lines)
        arrays[f"{case}/features_{height}x{width}"] = found
        print(case, found.shape, f"rms {np.sqrt(np.mean(np.square(found))):.3g}", file=sys.stderr)
    np.savez_compressed(Path(__file__).with_name("vit.npz"), **arrays)
