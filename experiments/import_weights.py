"""Import published weights as a benchmark's source model, instead of training it.

    python -m experiments.import_weights FILE --benchmark controlled --architecture A --source S

FILE is read by `jaxparc.weights.load`. The network must match the benchmark's: the same width, a
head for the source's classes, and the architecture's own mean and std. The latter cannot be checked
for torchvision's GoogLeNet, which was trained on images in [-1, 1]; it will be a worse source than
it could be.
"""

import argparse
from pathlib import Path

from experiments import benchmarks, train_sources
from experiments.runner.run import Run, claim
from jaxparc import models, printing, weights
from jaxparc.errors import InputError, OperationError
from jaxparc.weights import WeightsError


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.import_weights",
        description=__doc__,
        epilog="Exit codes: 0 imported, or already there; 2 refused.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="weights that jaxparc.weights.load reads")
    for name in ("benchmark", "architecture", "source"):
        parser.add_argument(f"--{name}", required=True, metavar="NAME")
    with printing.ending():
        _import(parser, parser.parse_args())


def _import(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    try:
        benchmark = benchmarks.get(args.benchmark)
        checkpoints_dir = Path("checkpoints") / benchmark.name
        run = Run(benchmark, Path("results") / benchmark.name, checkpoints_dir)
        done = import_weights(run, args.architecture, args.source, args.file)
        print(printing.shown(f"{args.file}: {done}"))
    except BrokenPipeError:
        raise
    except (InputError, OperationError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {printing.line(error)}\n")


def import_weights(run: Run, architecture: str, source: str, file: str | Path) -> Path:
    """Save weights as a source model's checkpoint, unless it exists.

    Returns:
        The checkpoint's folder.

    Raises:
        InputError: the benchmark has no such model, or the weights do not match its network.
        StageError: the folder of checkpoints was created with other settings.
        OSError: the file cannot be read, or the checkpoint cannot be written.
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
    loaded = weights.load(architecture, file)
    spec, own = loaded.spec, models.get(architecture)
    if (spec.mean, spec.std, spec.module) != (own.mean, own.std, own.module):
        raise WeightsError(
            f"{file} needs images with mean {spec.mean} and std {spec.std}, or another variant of "
            f"{architecture}; {benchmark.name} trains torchvision's, with mean {own.mean} and std "
            f"{own.std}"
        )
    if loaded.module.num_classes not in (0, classes):
        raise WeightsError(
            f"{file} has a head for {loaded.module.num_classes} classes; {source} has {classes}"
        )
    if loaded.module.num_classes == 0:
        raise WeightsError(f"{file} has no head; expected one of {classes} classes")
    if benchmark.widths[architecture] != 1 or benchmark.stem != "imagenet":
        raise WeightsError(
            f"{file} is for networks of width 1 with an imagenet stem; {benchmark.name} has width "
            f"{benchmark.widths[architecture]:g} and a {benchmark.stem} stem"
        )
    claim(run.weights, benchmark.source_settings())
    about = {"from": str(file)}
    return train_sources.keep(run, architecture, source, loaded.variables, about)


if __name__ == "__main__":
    main()
