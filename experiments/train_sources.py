"""Stage 1: train every architecture on every source, from random or another source's weights.

Source models that come with the package are not trained again, without --from-scratch. Those of a
bank file are not trained either: this records their weights, so that later runs notice others.

Writes checkpoints/<benchmark>/<architecture>/<source>/.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from experiments import pretrained, shipped
from experiments.benchmarks import Benchmark
from experiments.runner import command_line, data, telemetry
from experiments.runner.run import Run, Stage, list_by_name, partial_folder, run_units
from jaxparc import models, parallel
from jaxparc.training import checkpoints, loop, steps
from jaxparc.training.steps import Task, Variables
from jaxparc.units.unit import Unit


def task_of(
    benchmark: Benchmark,
    architecture: str,
    source: str,
    *,
    target: str = "",
    training: bool = False,
) -> Task:
    """Return the network of a source model, for its own classes or for those of a target.

    Args:
        benchmark: the settings.
        architecture: a key of `models.MODELS`.
        source: source of the model, or any with random weights.
        target: short name of the data set of which it has the classes; "" for the source.
        training: whether to use the dtype and batch norm of training instead of those of inference.
    """
    if benchmark.bank:
        found = pretrained.loaded(benchmark.network(architecture, source))
        spec, module = found.spec, found.module.clone(axis_name=parallel.AXIS)
        images = benchmark.data(target) if target else None
        if images is not None:
            module = module.clone(num_classes=images.num_classes)
    else:
        spec, images = models.get(architecture), benchmark.data(target or source)
        module = spec.module(
            num_classes=images.num_classes,
            width=benchmark.widths[architecture],
            stem=benchmark.stem,
            axis_name=parallel.AXIS,
        )
    if not benchmark.dropout and hasattr(module, "dropout_rate"):
        module = module.clone(dropout_rate=0.0)
    if training:
        module = module.clone(
            dtype=jnp.dtype(benchmark.dtype),
            axis_name=parallel.AXIS if benchmark.sync_batch_norm else None,
        )
    return Task(
        module,
        spec.mean,
        spec.std,
        images is not None and images.multi_label,
        benchmark.momentum,
    )


def initial(run: Run, architecture: str, dataset: str, *purpose: object) -> Variables:
    """Return random weights, including the head, drawn for one purpose."""
    # One compiled initialisation serves any number of classes, as only the head differs.
    module = task_of(run.benchmark, architecture, run.benchmark.source_names[0]).module
    seed = run.seed("initial", architecture, dataset, *purpose)
    variables = steps.initial(module, run.benchmark.image_size, seed)
    return steps.with_new_head(variables, run.benchmark.data(dataset).num_classes, seed)


def _first(run: Run, architecture: str, source: str) -> Variables:
    """Return the weights that training on a source starts from."""
    start = run.benchmark.source_start
    if start in ("", source):
        return initial(run, architecture, source)
    classes = run.benchmark.data(source).num_classes
    seed = run.seed("start", architecture, source)
    return steps.with_new_head(source_model(run, architecture, start), classes, seed)


def weights_path(run: Run, architecture: str, source: str) -> Path:
    """Return the path of a source model's checkpoint."""
    return run.weights / architecture / source


def unit_name(architecture: str, source: str) -> str:
    """Return the name of a source model's unit, which its checkpoint records."""
    return f"{architecture} on {source}"


def source_model(run: Run, architecture: str, source: str) -> Variables:
    """Return the weights of a source model.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or belongs to another model.
        InputError: the weights of a network of a bank file do not fit it.
        OSError: they cannot be read.
    """
    if run.benchmark.bank:
        return dict(pretrained.loaded(run.benchmark.network(architecture, source)).variables)
    return _cached(weights_path(run, architecture, source), unit_name(architecture, source))


def _restore(path: Path, name: str) -> Variables:
    variables, metadata = checkpoints.restore(path)
    if metadata.get("unit") != name:
        raise checkpoints.CheckpointError(
            f"checkpoint {path} belongs to the unit {metadata.get('unit')!r}; expected {name!r}"
        )
    return variables


# A few are cached, as successive units need the same model.
_cached = functools.lru_cache(maxsize=4)(_restore)


def _check(path: Path, name: str) -> None:
    if not path.exists():
        raise FileNotFoundError(path)
    _restore(path, name)


def stage(run: Run) -> int:
    """Train the models that are missing; return the number of failures."""
    data.prepare(run.benchmark)
    listing = list_by_name("experiments.train_sources", run)
    return run_units(run, "train_sources", units(run), listing)


def units(run: Run) -> list[Unit]:
    """Return the units of all source models, each before the ones that start from it."""
    if run.benchmark.bank:
        return [_network_unit(run, *model) for model in run.benchmark.models()]
    start = run.benchmark.source_start
    return [
        Unit(
            unit_name(architecture, source),
            weights_path(run, architecture, source),
            _check,
            functools.partial(_train, run, architecture, source),
            lacking(run, architecture, source),
            after="" if start in ("", source) else unit_name(architecture, start),
            group=architecture if start else "",
        )
        for architecture in run.benchmark.architectures
        for source in sorted(run.benchmark.source_names, key=lambda name: name != start)
    ]


def _network_unit(run: Run, architecture: str, source: str) -> Unit:
    """Return the unit of a network of the bank file."""
    entry = run.benchmark.network(architecture, source)
    name, path = unit_name(architecture, source), run.weights / architecture / f"{source}.json"
    return Unit(
        name,
        path,
        functools.partial(pretrained.check_record, entry),
        functools.partial(pretrained.write_record, entry, path, name),
        pretrained.lacking(entry),
    )


def lacking(run: Run, architecture: str, source: str) -> dict[str, str]:
    """Return the missing prerequisites of a source model; none if it is already trained."""
    if run.benchmark.bank:
        return pretrained.lacking(run.benchmark.network(architecture, source))
    if weights_path(run, architecture, source).exists():
        return {}
    start = run.benchmark.source_start
    before = lacking(run, architecture, start) if start not in ("", source) else {}
    return before | data.lacking(run.benchmark, source)


def _train(run: Run, architecture: str, source: str, on_images: Callable[[int], None]) -> None:
    started = time.monotonic()
    benchmark = run.benchmark
    found = None if benchmark.from_scratch else shipped.find(benchmark, architecture, source)
    if found is not None:
        variables, about = found
        keep(run, architecture, source, variables, about)
        return
    task = task_of(benchmark, architecture, source, training=True)
    name = f"{architecture}_{source}"
    partial = partial_folder(run, "train_sources", name)
    with telemetry.watching(run, "train_sources", [name], on_images) as watch:
        variables, losses = loop.fit(
            task,
            _first(run, architecture, source),
            data.images(benchmark, source, "train"),
            dataclasses.replace(
                benchmark.source_recipe,
                learning_rate=benchmark.source_learning_rates[architecture],
                steps=benchmark.source_steps.get(source, benchmark.source_recipe.steps),
                weight_decay=benchmark.weight_decay,
            ),
            size=benchmark.image_size,
            mirror=benchmark.data(source).mirror,
            seed=run.seed("train", architecture, source),
            workers=run.workers,
            watch=functools.partial(watch, 0),
            partial=partial,
        )
    accuracy = loop.accuracy(
        task,
        variables,
        data.images(benchmark, source, "test"),
        size=benchmark.image_size,
        batch_size=benchmark.eval_batch_size,
    )
    metadata: dict[str, Any] = {
        "unit": unit_name(architecture, source),
        "accuracy": accuracy,
        "losses": [round(float(loss), 4) for loss in losses],
        "seconds": time.monotonic() - started,
    }
    checkpoints.save(weights_path(run, architecture, source), variables, metadata)
    checkpoints.remove(partial)


def keep(
    run: Run,
    architecture: str,
    source: str,
    variables: Mapping[str, Any],
    about: Mapping[str, Any],
) -> Path:
    """Save weights that were not trained here as a source model, and return its checkpoint.

    Args:
        run: the run.
        architecture: a key of `models.MODELS`.
        source: short name of the source.
        variables: the weights.
        about: further metadata, such as `accuracy`.

    Raises:
        OSError: the checkpoint cannot be written.
    """
    metadata: dict[str, Any] = {
        "unit": unit_name(architecture, source),
        "accuracy": None,
        "losses": [],
        "seconds": math.nan,  # unknown, so left out of times.csv
    }
    path = weights_path(run, architecture, source)
    checkpoints.save(path, dict(variables), metadata | dict(about))
    return path


STAGE = Stage(stage, units, "train_sources", divisible=True)

if __name__ == "__main__":
    command_line.main(__doc__, STAGE)
