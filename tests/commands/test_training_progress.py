"""The progress of a training, without a terminal."""

import numpy as np
import pytest

from jaxparc.commands.training_progress import TrainingProgress
from jaxparc.training.history import Steps


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def steps(first, count=1, seconds=2.0, loss=0.5):
    return Steps(first, {"loss": np.full((1, count), loss)}, 64 * count, seconds)


def test_lines_have_step_loss_speed_and_time_left(capsys):
    clock = Clock()
    with TrainingProgress("a to pics", 200, clock=clock) as progress:
        for first in range(40):
            clock.now += 2
            progress.watch(0.01, steps(first))
    assert progress.done == 40
    assert capsys.readouterr().err.splitlines() == [
        "a to pics: step 15 of 200, learning rate 0.01, loss 0.500, 32 images/s, 6 min left",
        "a to pics: step 30 of 200, learning rate 0.01, loss 0.500, 32 images/s, 6 min left",
    ]


def test_steps_count_over_all_learning_rates_and_resumed_ones_have_no_speed(capsys):
    clock = Clock()
    progress = TrainingProgress("a to pics", 30, clock=clock)
    progress.watch(0.003, Steps(0, {"loss": np.zeros((1, 8))}, 0, 0.1))  # before an interruption
    progress.watch(0.003, steps(8, seconds=50.0))  # compiles
    clock.now = 31
    progress.watch(0.01, steps(0))
    assert progress.done == 10
    line = "a to pics: step 10 of 30, learning rate 0.01, loss 0.500, 32 images/s, 40 s left\n"
    assert capsys.readouterr().err == line


def test_learning_rates_that_an_earlier_command_measured_count():
    progress = TrainingProgress("a to pics", 30)
    progress.reach(0.003, 8)
    progress.watch(0.003, steps(8))
    progress.reach(0.003, 8)
    progress.reach(0.01, 8)
    assert progress.done == 17


@pytest.mark.parametrize("name", ["[red]a", "a\x1b[2J"])
def test_names_are_printed_as_they_are(name, capsys):
    clock = Clock()
    progress = TrainingProgress(name, 2, clock=clock)
    clock.now = 31
    progress.watch(0.01, steps(0))
    progress.say(f"{name}: done")
    err = capsys.readouterr().err
    assert "\x1b" not in err
    assert err.count("[red]a" if "red" in name else "a\\x1b[2J") == 2
