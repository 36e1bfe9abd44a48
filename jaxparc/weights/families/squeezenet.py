"""SqueezeNet's names: torchvision's, and Keras's of Caffe's weights."""

import re

from jaxparc.weights import names
from jaxparc.weights.families import plain
from jaxparc.weights.family import Family, Layout, Path
from jaxparc.weights.keras_names import CAFFE_MEAN, CAFFE_STD
from jaxparc.weights.translation import Metadata, State, Translated, Variant


def _pytorch(name: str, state: State, metadata: Metadata) -> Translated | None:
    return plain.translate("pytorch", "features.0.weight", state)


def _keras(name: str, state: State, metadata: Metadata) -> Translated | None:
    """Translate Caffe's names, with /0 for the kernel (in Keras's layout) and /1 for the bias."""
    if "fire2/squeeze1x1/0" not in state:
        return None
    kept = {}
    for key, array in state.items():
        layer, _, place = key.rpartition("/")
        module = "head" if layer == "conv10" else layer.replace("/", "_")
        leaf = {"0": "weight", "1": "bias"}.get(place)
        known = re.fullmatch(r"head|conv1|fire\d_(squeeze1x1|expand1x1|expand3x3)", module)
        if leaf is None or known is None:
            kept[key] = array
            continue
        ours = module.replace("squeeze1x1", "squeeze")
        array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
        kept[f"{names.module_key(name, ours)}.{leaf}"] = array
    return Translated("keras", kept, (), {"": Variant(mean=CAFFE_MEAN, std=CAFFE_STD, bgr=True)})


def _architecture_of(state: State) -> str | None:
    return "squeezenet1_1" if any("squeeze" in key for key in state) else None


def _layout(path: Path, shape: tuple[int, ...]) -> Layout | None:
    if path[-2:] != ("head", "kernel"):
        return None
    return Layout((*shape[::-1], 1, 1), shape[::-1], (1, 0))  # a convolution


FAMILY = Family(
    architectures=("squeezenet1_1",),
    rename=names.module_key,
    stem="conv1",
    schemes={"keras": _keras, "pytorch": _pytorch},
    architecture_of=_architecture_of,
    layout=_layout,
)
