"""Drawing and distortion of one character of one font.

The fonts are those of matplotlib that map the Latin capitals and digits to their Unicode code
points. Left out: cmex10 and cmsy10 (symbols), the STIX sizes and non-Unicode fonts and the DejaVu
displays (no Latin letters), and Last Resort (every character is a framed A).
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 32
SPLITS = ("train", "test")

FAMILIES: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "train": MappingProxyType(
            {
                "DejaVu Sans": (
                    "DejaVuSans",
                    "DejaVuSans-Bold",
                    "DejaVuSans-BoldOblique",
                    "DejaVuSans-Oblique",
                ),
                "DejaVu Sans Mono": (
                    "DejaVuSansMono",
                    "DejaVuSansMono-Bold",
                    "DejaVuSansMono-BoldOblique",
                    "DejaVuSansMono-Oblique",
                ),
                "DejaVu Serif": (
                    "DejaVuSerif",
                    "DejaVuSerif-Bold",
                    "DejaVuSerif-BoldItalic",
                    "DejaVuSerif-Italic",
                ),
                "STIX": (
                    "STIXGeneral",
                    "STIXGeneralBol",
                    "STIXGeneralBolIta",
                    "STIXGeneralItalic",
                ),
            }
        ),
        # One design, with a roman, a bold, two italics, a sans and a typewriter: as varied as the
        # training fonts, and related to none of them.
        "test": MappingProxyType(
            {"Computer Modern": ("cmr10", "cmb10", "cmti10", "cmmi10", "cmss10", "cmtt10")}
        ),
    }
)
"""Split -> family -> font files; all styles of a family are in one split."""

_ZOOM = 4  # characters are drawn and distorted at this scale, then averaged down
_CAPITAL = 20 * _ZOOM  # height of a capital before distortion
_WIDEST = 22 * _ZOOM  # wider characters (W, M) are narrowed to fit


def font_files(split: str) -> list[Path]:
    """Return the font files of a split."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return [folder / f"{name}.ttf" for family in FAMILIES[split].values() for name in family]


def shape_of(character: str, font: Path) -> Image.Image:
    """Draw a character, white on black, in the centre of a canvas of SIDE times zoom pixels."""
    # The basic layout is always available; with the other, images would depend on a library.
    face = ImageFont.truetype(str(font), 100, layout_engine=ImageFont.Layout.BASIC)
    top, bottom = face.getbbox("H")[1::2]
    face = face.font_variant(size=100 * _CAPITAL / (bottom - top))
    left, top, right, bottom = face.getbbox(character)
    canvas = Image.new("L", (SIDE * _ZOOM, SIDE * _ZOOM))
    corner = ((canvas.width - left - right) / 2, (canvas.height - top - bottom) / 2)
    ImageDraw.Draw(canvas).text(corner, character, fill=255, font=face)
    if right - left > _WIDEST:
        squeeze = (right - left) / _WIDEST
        shift = (1 - squeeze) * canvas.width / 2
        matrix = (squeeze, 0, shift, 0, 1, 0)
        canvas = canvas.transform(
            canvas.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
        )
    return canvas


def distort(shape: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Distort a character by a random affine map, greys, blur and noise.

    Args:
      shape: as returned by `shape_of`.
      rng: all random choices are drawn from it, always the same number.

    Returns:
      (SIDE, SIDE) uint8.
    """
    angle, shear = np.deg2rad(rng.uniform(-10, 10)), rng.uniform(-0.15, 0.15)
    scale = rng.uniform(0.85, 1.15, size=2)
    shift = rng.uniform(-1.5, 1.5, size=2) * _ZOOM
    # Light on dark, like the scanned digits to and from which the glyphs are transferred.
    paper = rng.uniform(0, 80)
    ink = paper + rng.uniform(110, 175)
    blur, noise = rng.uniform(0, 0.8), rng.uniform(0, 14)

    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    # The inverse: PIL maps output pixels to input pixels.
    matrix = np.linalg.inv(turn @ np.array([[1, shear], [0, 1]]) @ np.diag(scale))
    centre = np.full(2, SIDE * _ZOOM / 2)
    origin = centre - matrix @ (centre + shift)
    mask = shape.transform(
        shape.size,
        Image.Transform.AFFINE,
        np.column_stack([matrix, origin]).ravel().tolist(),
        Image.Resampling.BILINEAR,
    )
    mask = mask.reduce(_ZOOM).filter(ImageFilter.GaussianBlur(blur))
    grey = paper + (ink - paper) / 255 * np.asarray(mask, np.float64)
    grey += noise * rng.standard_normal(grey.shape)
    return np.clip(np.rint(grey), 0, 255).astype(np.uint8)
