"""Small pictures of images, embedded in a page."""

import base64
import io
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxparc.errors import InputError
from jaxparc.printing import count, html

SIDE = 64  # pixels, at most
PER_CLASS = 4  # images
CLASSES = 10  # classes
VALUES = 12  # images with values, from the lowest to the highest
_QUALITY = 70  # of JPEG: about 2 kB for 64 x 64 pixels


class Group(NamedTuple):
    """Pictures with one caption.

    Attributes:
        caption: caption, as plain text.
        pictures: the images, as data URIs.
    """

    caption: str
    pictures: tuple[str, ...]


class Thumbnails(NamedTuple):
    """Pictures of a probe set.

    Attributes:
        groups: a few pictures of each class, or pictures with their value.
        note: what is not shown; "" if nothing.
    """

    groups: tuple[Group, ...] = ()
    note: str = ""

    def html(self) -> str:
        """Return the pictures as HTML; "" if there are none."""
        groups = "".join(
            f"<figure><figcaption>{html(group.caption)}</figcaption>"
            + "".join(f'<img alt="" src="{uri}">' for uri in group.pictures)
            + "</figure>\n"
            for group in self.groups
        )
        note = f"<p>{html(self.note)}</p>" if self.note else ""
        return f'<div class="thumbnails">{groups}</div>{note}' if groups else ""


def thumbnails(images: Any, labels: np.ndarray, kind: str, names: Sequence[str] = ()) -> Thumbnails:
    """Choose images of a probe set and shrink them.

    Args:
        images: n images, anything that returns (b, h, w, 3) uint8 when sliced; only the chosen ones
            are read, and those that cannot be decoded are left out.
        labels: (n,) classes, (n, c) zeros and ones, or (n,) or (n, k) numbers.
        kind: kind of the labels, from `jaxparc.labels.KINDS`.
        names: names of the classes; by default their numbers.
    """
    if kind in ("classes", "multi_label"):
        member = labels[:, None] == np.arange(labels.max() + 1) if labels.ndim == 1 else labels > 0
        present = np.flatnonzero(member.any(axis=0))
        groups = []
        for code in present[:CLASSES]:
            of_class = np.flatnonzero(member[:, code])
            name = names[code] if code < len(names) else f"class {code}"
            caption = f"{name} ({len(of_class):,})"
            groups.append(Group(caption, tuple(_pictures(images, of_class, PER_CLASS))))
        more = len(present) - len(groups)
        note = f"and {count(more, 'more class', 'more classes')}" if more > 0 else ""
        return Thumbnails(tuple(group for group in groups if group.pictures), note)
    columns = labels.reshape(len(labels), -1)
    order = np.argsort(columns[:, 0], kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, VALUES).round().astype(int))]
    singles = (
        Group(_numbers(columns[i]) if kind == "values" else "", tuple(_pictures(images, [i], 1)))
        for i in chosen
    )
    note = "Images from the lowest to the highest value." if kind == "values" else ""
    return Thumbnails(tuple(group for group in singles if group.pictures), note)


def _numbers(row: np.ndarray) -> str:
    return ", ".join(f"{value:.4g}" for value in row)


def _pictures(images: Any, indices: Sequence[int] | np.ndarray, most: int) -> Iterator[str]:
    """Yield the first `most` of the images that can be decoded, as data URIs."""
    from PIL import Image

    found = 0
    for i in map(int, indices):
        if found == most:
            return
        try:
            [pixels] = np.asarray(images[i : i + 1])
        except (InputError, OSError):
            continue
        found += 1
        picture = Image.fromarray(pixels)
        picture.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=_QUALITY)
        yield f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
