"""The command convert: convert weights of any supported format to safetensors."""

from collections.abc import Sequence
from pathlib import Path

from jaxparc import printing, weights
from jaxparc.commands import saving
from jaxparc.errors import InputError, OperationError


def convert(
    source: str,
    destination: Path,
    *,
    architecture: str | None = None,
    scheme: str | None = None,
    variant: str | None = None,
    weights_key: str | None = None,
    ignore: Sequence[str] = (),
    channels: str | None = None,
    stride_in_1x1: bool | None = None,
) -> None:
    """Convert published weights to a safetensors file with this package's names.

    Args:
        source: a file or folder, as `weights.load` takes it.
        destination: the .safetensors file to write.
        architecture: a key of `models.MODELS`; None to detect it from the names of the weights.
        scheme: as `weights.load` takes it.
        variant: as `weights.load` takes it.
        weights_key: as `weights.load` takes it.
        ignore: as `weights.load` takes it.
        channels: as `weights.load` takes it.
        stride_in_1x1: as `weights.load` takes it.

    Raises:
        InputError: an argument is wrong, or the weights do not fit.
        OperationError: the source cannot be read, or the destination cannot be written.
    """
    if destination.suffix != ".safetensors":
        raise InputError(f"DST is {destination}; expected a name that ends in .safetensors")
    saving.require_writable(destination)
    try:
        loaded = weights.load(
            architecture,
            source,
            scheme=scheme,
            variant=variant,
            weights_key=weights_key,
            ignore=ignore,
            channels=channels,
            stride_in_1x1=stride_in_1x1,
        )
        saving.save(loaded, destination)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or source}: {error.strerror}") from error
    except OSError as error:
        raise OperationError(f"{error.filename or source}: {error.strerror}") from error
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{destination} was not written") from None
    classes, name = loaded.module.num_classes, loaded.spec.name
    lines = [f"{source}: {name}, {loaded.scheme}'s names, {classes} classes"]
    if not architecture and loaded.scheme != "jaxparc":
        lines.append(f"  note: detected as {name} by its names; --architecture overrides this")
    lines += [f"  note: {note}" for note in loaded.notes]
    counters = [name for name in loaded.left_out if name.endswith("num_batches_tracked")]
    lines += [f"  left out: {name}" for name in loaded.left_out if name not in counters]
    if counters:
        lines.append(f"  left out: {printing.count(len(counters), 'name')} *num_batches_tracked")
    for line in (*lines, f"written to {destination}"):
        print(printing.shown(line))
