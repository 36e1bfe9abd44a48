"""Images, folders and tables that tests make up."""

import numpy as np
from PIL import Image

IMAGES = np.zeros((4, 5, 5), np.uint8)
ROWS = [f"{i}.png,{'dog' if i % 2 else 'cat'}" for i in range(6)]


def picture(seed, size=(12, 10), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def class_folders(root, counts, suffix=".png"):
    for c, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            picture(100 * c + i).save(root / name / f"{i}{suffix}")
    return root


def table(folder, text, *, images=6):
    for i in range(images):
        picture(i).save(folder / f"{i}.png")
    (folder / "list.csv").write_text(text, encoding="utf-8", newline="")
    return f"csv:{folder}/list.csv"
