"""Published weights as a benchmark's source model, in place of training it.

    python -m experiments.import_weights FILE --benchmark controlled --architecture A --source S

FILE is what `jaxparc.models.load` reads. The network must be the benchmark's: as wide, for the
classes of the source, and fed with the images of the architecture's own mean and deviation. That
cannot be told of torchvision's GoogLeNet, which was trained on images in [-1, 1]: it will be a
worse source than it could be.
"""

import argparse
import math
from pathlib import Path
from typing import Any

from experiments import benchmarks, train_sources
from experiments.runner.run import Run, claim
from jaxparc import models, printing
from jaxparc.errors import InputError
from jaxparc.training import checkpoints
from jaxparc.units.progress import say
from jaxparc.weights import WeightsError


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.import_weights",
        description=__doc__,
        epilog="Exit codes: 0 done, or it was there; 2 it could not be taken.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="as jaxparc.models.load takes it")
    for name in ("benchmark", "architecture", "source"):
        parser.add_argument(f"--{name}", required=True, metavar="NAME")
    with printing.ending():
        _take(parser, parser.parse_args())


def _take(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    try:
        benchmark = benchmarks.get(args.benchmark)
        weights = Path("checkpoints") / benchmark.name
        run = Run(benchmark, Path("results") / benchmark.name, weights)
        say(f"{args.file}: {import_weights(run, args.architecture, args.source, args.file)}")
    except BrokenPipeError:
        raise
    except (ValueError, RuntimeError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {printing.line(error)}\n")


def import_weights(run: Run, architecture: str, source: str, file: str | Path) -> Path:
    """Takes weights as a source model's checkpoint, unless that is there.

    Returns:
        The checkpoint's folder.

    Raises:
        ValueError: the benchmark has no such model, or the weights are not of its network.
        StageError: the folder of checkpoints was made with other settings.
        OSError: the file cannot be read, or the checkpoint not written.
    """
    benchmark = run.benchmark
    for kind, name, known in (
        ("architecture", architecture, benchmark.architectures),
        ("source", source, benchmark.source_names),
    ):
        if name not in known:
            raise InputError(
                f"benchmark {benchmark.name} has no {kind} {name!r}; it has {', '.join(known)}"
            )
    folder = train_sources.weights_path(run, architecture, source)
    if folder.exists():
        return folder
    classes = benchmark.data(source).num_classes
    loaded = models.load(architecture, file)
    spec, own = loaded.spec, models.get(architecture)
    if (spec.mean, spec.std, spec.module) != (own.mean, own.std, own.module):
        raise WeightsError(
            f"{file} wants images less {spec.mean} and divided by {spec.std}, or strides in other "
            f"places than torchvision's {architecture}, which {benchmark.name} trains"
        )
    if loaded.module.num_classes not in (0, classes):
        raise WeightsError(
            f"{file} is for {loaded.module.num_classes} classes; {source} has {classes}"
        )
    if loaded.module.num_classes == 0:
        raise WeightsError(f"{file} has no head; the probabilities of {classes} classes need one")
    if benchmark.widths[architecture] != 1 or benchmark.stem != "imagenet":
        raise WeightsError(
            f"{file} is for networks of full width; those of {benchmark.name} are of width "
            f"{benchmark.widths[architecture]:g} with a {benchmark.stem} stem"
        )
    claim(run.weights, benchmark.source_settings())
    metadata: dict[str, Any] = {
        "unit": train_sources.unit_name(architecture, source),
        "accuracy": None,
        "losses": [],
        "seconds": math.nan,  # not known: no row of times.csv
        "from": str(file),
    }
    checkpoints.save(folder, dict(loaded.variables), metadata)
    return folder


if __name__ == "__main__":
    main()
