"""Extract the features of every layer of models: each scores as a model of its own, model@layer.

They are in the subfolder `layers` of a folder of features, which the command score ranks like any
other. Activations are averaged over positions.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxparc import array_files, extraction, files, printing
from jaxparc.bank.entry import Entry
from jaxparc.bank.features import ProbeImages, drawn_once, fingerprint, unit_name
from jaxparc.errors import InputError, OperationError
from jaxparc.units.unit import Unit

FOLDER = "layers"
FEATURES = "features"  # the layer before the head


def units(
    entries: Sequence[Entry], probe: ProbeImages, folder: Path, *, batch_size: int
) -> list[Unit]:
    """List the features of all layers of models as units of work.

    Args:
        entries: the models.
        probe: the images.
        folder: of the models' features; its subfolder `FOLDER` receives one file per layer.
        batch_size: images per batch, as `features.units` takes it.
    """
    return [_Layers(entry, probe, folder / FOLDER, batch_size).unit() for entry in entries]


def list_units(
    entries: Sequence[Entry],
    target: str,
    images: int,
    seed: int,
    data_dir: str | None,
    folder: Path,
    batch_size: int,
) -> list[Unit]:
    """List the same units as `units`, in another process; see `features.list_units`."""
    probe = drawn_once(target, images, seed, data_dir)
    return units(entries, probe, folder, batch_size=batch_size)


def of(entry: Entry, folder: Path) -> dict[str, Path]:
    """Return the files of a model's layers, by layer, from the first to the features.

    Args:
        entry: the model.
        folder: of the models' features.
    """
    last = files.path_of(folder / FOLDER, f"{entry.name}@{FEATURES}.npz")
    names = array_files.read(last)["layers"].tolist()
    return {
        name: files.path_of(folder / FOLDER, f"{entry.name}@{name}.npz")
        for name in (*names, FEATURES)
    }


@dataclasses.dataclass(frozen=True, eq=False)
class _Layers:
    """The work of one unit: the features of all layers of a model."""

    entry: Entry
    probe: ProbeImages
    folder: Path
    batch_size: int

    def unit(self) -> Unit:
        # Written last: with it, all are there.
        path = files.path_of(self.folder, f"{self.entry.name}@{FEATURES}.npz")
        return Unit(unit_name(self.entry), path, self.check, self.make)

    def check(self, path: Path, name: str) -> None:
        """Raise FileNotFoundError unless all files are valid."""
        del name
        with contextlib.suppress(Exception):  # missing or damaged; they are recomputed
            made_of = fingerprint(self.entry, self.probe)
            for file in of(self.entry, self.folder.parent).values():
                if str(array_files.read(file)["made_of"]) != made_of:
                    break
            else:
                return
        raise FileNotFoundError(path)

    def make(self, on_images: Callable[[int], None]) -> tuple[str, ...]:
        try:
            made_of = fingerprint(self.entry, self.probe)
            model = self.entry.implementation.load(self.entry)
        except OSError as error:
            raise OperationError(printing.line(error)) from error
        if model.start_all is None:
            raise InputError(f"{self.entry.address}: only its features are known, not its layers")
        run = model.start_all()

        def counted(images: np.ndarray) -> tuple[object, ...]:
            on_images(len(images))
            return run(images)

        crops = self.probe.crops(model.geometry)
        found = extraction.extract(counted, crops, batch_size=self.batch_size, jit=False)
        every = {**found.activations, FEATURES: found.features}
        for layer, array in every.items():
            if not np.isfinite(array).all():
                raise InputError(f"the activations of {layer} are not finite")
        for layer, array in every.items():
            path = files.path_of(self.folder, f"{self.entry.name}@{layer}.npz")
            with files.replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(
                    file,
                    features=array,
                    labels=self.probe.labels,
                    label_kind=np.array(self.probe.label_kind),
                    made_of=np.array(made_of),
                    layers=np.array([*found.activations]),
                )
        return model.notes
