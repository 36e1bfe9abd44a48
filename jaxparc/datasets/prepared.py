"""Registered data sets in the TFDS data folder: prepared once, then read without TensorFlow."""

import contextlib
import importlib
import importlib.util
import io
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxparc import extras, locks, printing
from jaxparc.datasets import images
from jaxparc.datasets.specs import DatasetError, DatasetSpec, Record

# The last Python version that the latest known TensorFlow (2.21) supports.
LAST_PYTHON = (3, 13)
CHUNK = 256  # records read at once for labels; their images are in memory too


def folder_of(spec: DatasetSpec, root: Path) -> Path:
    """Return the folder of a prepared data set, whether it exists or not."""
    return root / (spec.builder if spec.needs_tensorflow else spec.name) / spec.version


def manual_folder(spec: DatasetSpec, root: Path) -> Path:
    """Return the folder for files that are downloaded by hand, as in TFDS."""
    return root / "downloads" / "manual" / (spec.name if not spec.needs_tensorflow else "")


def is_prepared(spec: DatasetSpec, root: Path) -> bool:
    """Return whether a data set is prepared; its folder only appears when it is complete."""
    folder = folder_of(spec, root)
    return folder.is_dir() and not _without_random_access(folder)


class PreparedRows:
    """A split on disk with random access; safe to read from several threads."""

    def __init__(self, spec: DatasetSpec, folder: Path, split: str):
        import tensorflow_datasets as tfds

        self.spec, self._folder = spec, folder
        with _read_errors(spec, folder):
            builder = tfds.builder_from_directory(folder)
            wanted = ["image", spec.label, *(["objects"] if spec.multi_label else [])]
            # Other fields, such as masks, are not decoded. Images are returned as stored, so that
            # nothing depends on the image library that TFDS finds.
            self._features, self._label = (
                tfds.features.FeaturesDict({name: builder.info.features[name] for name in names})
                for names in (wanted, [spec.label])
            )
            self._skip = {"image": tfds.decode.SkipDecoding()}
            self._rows = builder.as_data_source(
                spec.stored.get(split, split),
                deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES,
            )
            self._kept: Sequence[int] = range(len(self._rows))
            if spec.left_out is not None:
                self._kept = [i for i, x in enumerate(self._stored_labels()) if x != spec.left_out]
            if len(self) != spec.sizes[split]:
                raise DatasetError(f"{split} has {len(self)} images; expected {spec.sizes[split]}")

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Record:
        """Return one record, its image encoded as stored."""
        with _read_errors(self.spec, self._folder):
            row = self._features.deserialize_example_np(
                self._rows[self._kept[index]], decoders=self._skip
            )
        record = {"image": row["image"], "label": self._class(row[self.spec.label])}
        if "objects" in row:
            record["boxes"] = np.array(row["objects"]["bbox"], np.float32).reshape(-1, 4)
            record["box_labels"] = np.array(row["objects"]["label"], np.int32)
        return record

    def labels(self) -> list[Any]:
        """Return all labels, without reading images."""
        with _read_errors(self.spec, self._folder):
            return [self._class(label) for label in self._stored_labels()]

    def _stored_labels(self) -> list[Any]:
        found = []
        for start in range(0, len(self._kept), CHUNK):
            for row in self._rows.__getitems__(list(self._kept[start : start + CHUNK])):
                found.append(self._label.deserialize_example_np(row)[self.spec.label])
        return found

    def _class(self, label: Any) -> Any:
        if self.spec.multi_label:
            return tuple(map(int, label))
        left_out = self.spec.left_out
        return int(label) - (left_out is not None and int(label) > left_out)


def prepare(spec: DatasetSpec, root: Path) -> Path:
    """Prepare a data set as `datasets.prepare` does.

    Returns:
      The folder of the prepared data set.

    Raises:
      DatasetError: a package or a file is missing, the folder cannot be written, or it holds the
        data set in a format that needs TensorFlow.
    """
    folder = folder_of(spec, root)
    if folder.is_dir() and (found := _without_random_access(folder)):
        raise DatasetError(
            f"{folder} holds {spec.name} as {found} files, which only TensorFlow reads; move it "
            "away, or give another data folder, to prepare it as array_record"
        )
    try:
        with locks.folder(folder.parent, wait=True):
            if folder.is_dir() and _intact(spec, folder):
                return folder
            _check_requirements(spec, root)
            # The lock is held: whatever is incomplete was left by a process that died.
            for stale in (folder, *folder.parent.glob("incomplete.*")):
                if stale.exists():
                    shutil.rmtree(stale)
            _build(spec, root)
    except OSError as error:
        raise DatasetError(f"cannot prepare {spec.name} in {root}: {error}") from error
    return folder


def require(spec: DatasetSpec, package: str, module: str, extra: str = "demo") -> None:
    """Check that a package is installed, without importing it.

    Args:
      spec: of the data set that needs it.
      package: its name on PyPI.
      module: its name in Python.
      extra: the extra of this package that installs it.

    Raises:
      DatasetError: it is not; the message says how to install it.
    """
    if importlib.util.find_spec(module) is None:
        raise DatasetError(f"{spec.name}: {extras.missing(package, extra)}")


def _check_requirements(spec: DatasetSpec, root: Path) -> None:
    """Check that all packages and files that preparing needs are there, before it starts."""
    require(spec, "array_record", "array_record")
    if spec.package:
        require(spec, spec.package, spec.module)
    if spec.needs_tensorflow and importlib.util.find_spec("tensorflow") is None:
        folder = folder_of(spec, root)
        message = (
            f"preparing {spec.name}, which is done once, needs TensorFlow (reading it does not): "
            'pip install "jaxparc[prepare]"'
        )
        if sys.version_info[:2] > LAST_PYTHON:
            here, last = (".".join(map(str, v[:2])) for v in (sys.version_info, LAST_PYTHON))
            message += (
                f"; this is Python {here}, and TensorFlow 2.21 supports up to Python {last}: if "
                f"pip finds no version, prepare it with an older Python and copy {folder} here"
            )
        raise DatasetError(message)
    if spec.manual:
        manual = manual_folder(spec, root)
        lacking = [name for name in spec.manual_files if not (manual / name).is_file()]
        if not manual.is_dir() or lacking:
            raise DatasetError(
                f"{spec.name} must be downloaded by hand: put {spec.manual}, into {manual}"
            )


def _build(spec: DatasetSpec, root: Path) -> None:
    """Run the TFDS builder; for our own ones, with one progress bar instead of several."""
    import tensorflow_datasets as tfds
    from rich.console import Console

    if spec.needs_tensorflow:
        builder = tfds.builder(spec.builder, data_dir=root, file_format="array_record")
        with _builder_errors(spec):
            builder.download_and_prepare()
        return
    module, _, cls = spec.builder.partition(":")
    builder = getattr(importlib.import_module(module), cls)(
        data_dir=root, file_format="array_record"
    )
    bar = printing.progress_bar(console=Console(stderr=True))
    tfds.disable_progress_bar()
    try:
        with bar, contextlib.redirect_stdout(io.StringIO()):
            task = bar.add_task(f"Preparing {spec.name}", total=sum(spec.sizes.values()))
            builder.on_example = lambda: bar.advance(task)
            builder.download_and_prepare()
    finally:
        tfds.enable_progress_bar()


@contextlib.contextmanager
def _builder_errors(spec: DatasetSpec) -> Iterator[None]:
    """Turn whatever a TFDS builder raises into an error of one line."""
    try:
        yield
    except Exception as error:  # downloads, archives and generators raise dozens of kinds
        first = str(error).strip().partition("\n")[0]
        raise DatasetError(
            f"{spec.name} could not be prepared: {type(error).__name__}: {first}; downloads are "
            "kept, and the same command continues"
        ) from error


def _intact(spec: DatasetSpec, folder: Path) -> bool:
    """Return whether every split can be opened and, of embedded data sets, every image decoded.

    Embedded data sets are small. In large ones, the CRC of a record is checked when it is read.
    """
    try:
        for split in spec.sizes:
            rows = PreparedRows(spec, folder, split)
            for i in range(len(rows) if spec.embedded else 0):
                images.open_rgb(rows[i]["image"])
    except (DatasetError, OSError):
        return False
    return True


def _without_random_access(folder: Path) -> str:
    """Return the file format if only TensorFlow reads it, else ""."""
    try:
        form = json.loads((folder / "dataset_info.json").read_bytes()).get("fileFormat", "")
    except (OSError, ValueError, AttributeError):
        return ""  # damaged, which is noticed when it is read
    return form if form in ("tfrecord", "riegeli") else ""


@contextlib.contextmanager
def _read_errors(spec: DatasetSpec, folder: Path) -> Iterator[None]:
    """Turn whatever a reader raises on damaged files into an error that says what to do."""
    try:
        yield
    except Exception as error:
        raise DatasetError(
            f"{spec.name} in {folder} is missing or damaged ({error}); "
            f"run: jaxparc data prepare {spec.name}"
        ) from error
