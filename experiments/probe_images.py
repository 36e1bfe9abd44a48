"""Export the images of the probe sets, to extract features outside this project.

Writes probe_images/<target>_<probe set>/ in the results folder: images 0000.jpeg, 0001.jpeg, ... in
the order of the probe set, and labels.npy with their classes (n,) or annotation vectors (n, c).
import_probes imports features that were extracted from these images, in the same order.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments import extract_probes
from experiments.runner import command_line, data
from experiments.runner.run import Run, Stage, run_units
from jaxparc import datasets
from jaxparc.datasets import images
from jaxparc.units.unit import Unit, read_result, write_result


def stage(run: Run) -> int:
    """Export the probe sets that are missing; return the number of failures."""
    data.prepare(run.benchmark)
    return run_units(run, "probe_images", units(run))


def units(run: Run) -> list[Unit]:
    """Return a unit per target and probe set."""
    return [
        Unit(
            f"images of {target}, probe set {probe_set}",
            folder_of(run.out, target, probe_set),
            _check,
            functools.partial(_write, run, target, probe_set),
            data.lacking(run.benchmark, target),
        )
        for target in run.benchmark.target_names
        for probe_set in range(run.benchmark.probe_sets)
    ]


def folder_of(out: Path, target: str, probe_set: int) -> Path:
    """Return the folder of the images of a probe set."""
    return out / "probe_images" / f"{target}_{probe_set}"


def _check(folder: Path, name: str) -> None:
    read_result(folder / "probe_set.json", name)


def _write(run: Run, target: str, probe_set: int, on_images: Callable[[int], None]) -> None:
    indices = extract_probes.probe_of(run, target, probe_set).indices
    stored = datasets.load(run.benchmark.address(target), "train", decode=False)
    folder = folder_of(run.out, target, probe_set)
    partial = folder.with_name(f".{folder.name}.incomplete")
    partial.mkdir(parents=True)
    names = [
        _save(partial / f"{number:04d}", stored[int(index)]["image"])
        for number, index in enumerate(indices)
    ]
    np.save(partial / "labels.npy", data.labels(run.benchmark, target, "train")[indices])
    name = f"images of {target}, probe set {probe_set}"
    write_result(partial / "probe_set.json", name, {"images": names})
    partial.rename(folder)
    on_images(len(names))


def _save(path: Path, image: Any) -> str:
    """Save an image in its stored format, or as PNG if it is an array; return the file name."""
    if isinstance(image, bytes):
        path = path.with_suffix(images.suffix_of(image))
        path.write_bytes(image)
    else:
        path = path.with_suffix(".png")
        Image.fromarray(image).save(path)
    return path.name


STAGE = Stage(stage, units, "probe_images")

if __name__ == "__main__":
    command_line.main(__doc__, STAGE)
