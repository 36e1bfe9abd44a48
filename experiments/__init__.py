"""The stages of the benchmarks, each run as `python -m experiments.<stage>`."""

import sys

from jaxparc import interrupts

# `python -m` imports this package before the stage's module, whose imports take seconds.
if sys.argv[:1] == ["-m"]:
    interrupts.watch("python -m experiments")
