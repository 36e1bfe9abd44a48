"""Write the metrics of training runs, step by step, as JSONL and optionally for TensorBoard."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from experiments.runner.run import Run
from jaxparc.training.history import Steps


@contextlib.contextmanager
def watching(
    run: Run, stage: str, names: Sequence[str], on_images: Callable[[int], None]
) -> Iterator[Callable[[int, Steps], None]]:
    """Write metrics/STAGE/NAME.jsonl while runs are trained.

    A line has the step, its loss, the accuracy on its batch in percent, the learning rate, and the
    images per second since the previous report. A loss that is not finite is null, as is the speed
    of steps before an interruption. A resumed run rewrites all its lines.

    Args:
        run: the run, in whose results folder they are written.
        stage: name of the stage.
        names: names of the training runs.
        on_images: called with numbers of images as they are processed.

    Yields:
        A function to call with the index of a run and its latest steps.
    """
    with contextlib.ExitStack() as stack:
        writers: dict[int, Callable[[dict[str, Any]], None]] = {}

        def watch(number: int, done: Steps) -> None:
            if number not in writers:
                writers[number] = stack.enter_context(_writing(run, stage, names[number]))
            for line in _lines(done):
                writers[number](line)
            on_images(done.images)

        yield watch


def _lines(done: Steps) -> Iterator[dict[str, Any]]:
    losses, accuracies, rates = (
        done.metrics[name][0].tolist() for name in ("loss", "accuracy", "learning_rate")
    )
    speed = round(done.images / max(done.seconds, 1e-9), 1) if done.images else None
    for i, (loss, accuracy, rate) in enumerate(zip(losses, accuracies, rates, strict=True)):
        yield {
            "step": done.first + i,
            "loss": loss if math.isfinite(loss) else None,
            "accuracy": round(100 * accuracy, 4),
            "learning_rate": rate,
            "images_per_second": speed,
        }


@contextlib.contextmanager
def _writing(run: Run, stage: str, name: str) -> Iterator[Callable[[dict[str, Any]], None]]:
    path = run.out / "metrics" / stage / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("w", encoding="utf-8", buffering=1))
        board = None
        if run.tensorboard:
            import tensorboardX

            folder = run.out / "tensorboard" / stage / name
            board = stack.enter_context(tensorboardX.SummaryWriter(str(folder)))

        def write(line: dict[str, Any]) -> None:
            file.write(json.dumps(line) + "\n")
            if board is not None:
                for key, value in line.items():
                    if key != "step" and value is not None:
                        board.add_scalar(key, value, line["step"])

        yield write
