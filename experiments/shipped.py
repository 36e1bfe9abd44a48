"""Source models that come with the package, so that a benchmark begins with fine-tuning.

    python -m experiments.train_sources --benchmark demo --from-scratch
    python -m experiments.shipped --benchmark demo

The first command trains them; the second writes them to experiments/data/sources/, kernels in half
precision. Stage 1 takes a model from there if it was trained with the settings at hand, with any
seed, and trains it otherwise, or with --from-scratch.
"""

import argparse
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from experiments import benchmarks
from experiments.settings import Benchmark
from jaxparc import files, printing
from jaxparc.errors import InputError, OperationError
from jaxparc.training import checkpoints

FOLDER = Path(__file__).parent / "data" / "sources"
_KEY = "about"  # of a file's metadata


def path(architecture: str, source: str) -> Path:
    """Return the path of a model's file, whether it exists or not."""
    return FOLDER / f"{architecture}_{source}.safetensors"


def find(
    benchmark: Benchmark, architecture: str, source: str
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Return a source model that comes with the package.

    Args:
        benchmark: the settings.
        architecture: a key of `models.MODELS`.
        source: short name of the source.

    Returns:
        Its variables, float32, and what `save` was told about it; None if there is no such model,
        or it was trained with other settings; with any seed.

    Raises:
        DamagedFileError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    file = path(architecture, source)
    if not file.exists():
        return None
    try:
        with safe_open(file, framework="numpy") as opened:
            about = json.loads(opened.metadata()[_KEY])
            if about.pop("settings") != _settings(benchmark, architecture, source):
                return None
            names = opened.keys()
            flat = {name: opened.get_tensor(name).astype(np.float32) for name in names}
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise files.DamagedFileError(f"{file} is damaged: {printing.line(error)}") from error
    return traverse_util.unflatten_dict(flat, sep="/"), about


def save(
    benchmark: Benchmark,
    architecture: str,
    source: str,
    variables: Mapping[str, Any],
    about: Mapping[str, Any],
) -> Path:
    """Write a source model to the package, and return its file.

    Args:
        benchmark: the settings that it was trained with.
        architecture: a key of `models.MODELS`.
        source: short name of the source.
        variables: its weights; arrays of two or more axes are rounded to float16.
        about: JSON values that `find` returns.

    Raises:
        OSError: it cannot be written.
    """
    from safetensors.numpy import save_file

    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    arrays = {
        name: np.asarray(array, np.float32 if np.ndim(array) < 2 else np.float16, order="C")
        for name, array in flat.items()
    }
    about = {**about, "settings": _settings(benchmark, architecture, source)}
    metadata = {_KEY: json.dumps(about, sort_keys=True)}
    file = path(architecture, source)
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(file) as temporary:
        save_file(arrays, temporary, metadata)
    return file


def _settings(benchmark: Benchmark, architecture: str, source: str) -> dict[str, Any]:
    """Return the settings that determine a model's weights, as JSON returns them."""
    settings = benchmark.source_settings()
    settings.pop("from_scratch", None)
    del settings["seed"]  # of another seed, a benchmark fine-tunes the same models otherwise
    for key, name in (
        ("widths", architecture),
        ("source_learning_rates", architecture),
        ("source_steps", source),
        ("dataset_versions", source),
    ):
        settings[key] = settings[key].get(name)
    restored: dict[str, Any] = json.loads(json.dumps(settings))
    return restored


def export(benchmark: Benchmark, weights: Path) -> None:
    """Write the source models of a benchmark to the package.

    Args:
        benchmark: the settings.
        weights: the folder of its source models' checkpoints, trained with `from_scratch`.

    Raises:
        InputError: they were trained with other settings.
        OperationError: one is missing or damaged.
        OSError: a file cannot be read or written.
    """
    trained = dataclasses.replace(benchmark, from_scratch=True).source_settings()
    if files.read_sealed(weights / "settings.json") != json.loads(json.dumps(trained)):
        raise InputError(
            f"{weights} was not made by python -m experiments.train_sources --benchmark "
            f"{benchmark.name} --from-scratch"
        )
    for architecture in benchmark.architectures:
        for source in benchmark.source_names:
            variables, metadata = checkpoints.restore(weights / architecture / source)
            about = {"accuracy": round(metadata["accuracy"], 2), "seed": benchmark.seed}
            file = save(benchmark, architecture, source, variables, about)
            size = math.ceil(file.stat().st_size / 1000)
            print(f"{file.name}: {size} kB, {about['accuracy']:.1f} % on {source}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.shipped",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--benchmark", default="demo", metavar="NAME", help="[demo]")
    parser.add_argument(
        "--weights", type=Path, metavar="DIR", help="its source models [checkpoints/NAME]"
    )
    args = parser.parse_args()
    with printing.ending():
        try:
            benchmark = benchmarks.get(args.benchmark)
            export(benchmark, args.weights or Path("checkpoints") / benchmark.name)
        except BrokenPipeError:
            raise
        except (InputError, OperationError, OSError) as error:
            parser.exit(2, f"{parser.prog}: {printing.line(error)}\n")


if __name__ == "__main__":
    main()
