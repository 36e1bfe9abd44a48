"""Run a whole benchmark: all five stages in order. Repeating a finished one takes seconds."""

from experiments import (
    extract_probes,
    finetune_all,
    linear_probes,
    report,
    score_probes,
    train_sources,
)
from experiments.runner import command_line

if __name__ == "__main__":
    command_line.main(
        __doc__,
        train_sources.STAGE,
        finetune_all.STAGE,
        linear_probes.STAGE,
        extract_probes.STAGE,
        score_probes.STAGE,
        report.STAGE,
    )
