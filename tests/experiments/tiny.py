"""The smallest benchmarks that have every stage; run as a script, what a user would kill."""

import dataclasses
import os
import sys
import time
from pathlib import Path

from experiments import (
    benchmarks,
    extract_probes,
    finetune_all,
    linear_probes,
    report,
    score_probes,
    train_sources,
)
from experiments.runner import command_line
from experiments.runner.run import Run, Stage, prepare
from jaxparc.selectors import SELECTORS
from jaxparc.training import loop
from jaxparc.training.steps import Recipe

TINY = dataclasses.replace(
    benchmarks.SMOKE,
    name="tiny",
    architectures=("resnet18",),
    widths={"resnet18": 0.0625},
    source_learning_rates={"resnet18": 0.1},
    learning_rates={"resnet18": (0.03, 0.1)},
    sources=("digits", "glyph_digits", "glyph_letters"),
    targets=("digits",),
    image_size=14,
    source_recipe=Recipe(steps=6, batch_size=32, learning_rate=0.1),
    transfer_recipe=Recipe(steps=4, batch_size=32, learning_rate=0.1),
    transfer_images=96,
    validation_images=64,
    probe_images=40,
    eval_batch_size=64,
    # those of the paper, and every other one once
    methods=tuple(dict.fromkeys((*benchmarks.SMOKE.methods, *SELECTORS))),
)

# For what is scored again and again: of every kind that the stages tell apart.
FEW = dataclasses.replace(
    TINY, methods=("parc", "rsa", "dds_f32+l", "leep", "knn", "logistic+l", "heuristic")
)
# For what is started again and again: the fewest layers with batch norm, which compile quickest.
BRIEF = dataclasses.replace(
    FEW,
    architectures=("vgg11_bn",),
    reference="vgg11_bn",
    widths={"vgg11_bn": 0.0625},
    source_learning_rates={"vgg11_bn": 0.03},
    learning_rates={"vgg11_bn": (0.01, 0.03)},
)

# Published networks of a bank file, which the fixture `bank` writes.
REAL = dataclasses.replace(
    benchmarks.REAL,
    name="tiny_real",
    targets=("digits",),
    image_size=32,
    transfer_recipe=TINY.transfer_recipe,
    learning_rates={"": (0.01, 0.03)},
    halving=False,
    transfer_images=96,
    validation_images=64,
    probe_images=40,
    probe_sets=2,
    eval_batch_size=64,
    methods=("parc", "ridge", "knn+l", "heuristic"),
)

STAGES = (
    train_sources.stage,
    finetune_all.stage,
    linear_probes.stage,
    extract_probes.stage,
    score_probes.stage,
    report.stage,
)


def run_in(folder):
    run = Run(FEW, folder / "results", folder / "checkpoints")
    prepare(run)
    return run


def outcome(folder):
    """What a whole run leaves that does not depend on how often it was stopped."""
    return {name: (folder / name).read_bytes() for name in ("oracle.csv", "scores.csv")}


def slowly():
    """Lets every training step take a second, and says when the second one is there."""
    fit = loop.fit_together

    def slow_fit(*args, watch, **options):
        steps = []

        def wait(done):
            steps.append(done)
            if len(steps) == 2:
                Path("slow").touch()
            time.sleep(1)
            watch(done)

        return fit(*args, watch=wait, **options)

    loop.fit_together = slow_fit


if __name__ == "__main__":
    os.chdir(sys.argv.pop())
    if "--slowly" in sys.argv:
        sys.argv.remove("--slowly")
        slowly()
    stages = [Stage(stage) for stage in STAGES]
    for option, some in (
        ("--sources", [train_sources.STAGE]),
        ("--training", [train_sources.STAGE, finetune_all.STAGE]),
        ("--scores", stages[:-1]),
    ):
        if option in sys.argv:
            sys.argv.remove(option)
            stages = some
    benchmarks.BENCHMARKS = {"tiny": BRIEF, "tiny_real": REAL}
    sys.argv[1:1] = ["--benchmark", "tiny"]
    command_line.main("a tiny benchmark", *stages)
