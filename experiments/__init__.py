"""The stages of the benchmarks, each run as `python -m experiments.<stage>`."""

import sys

from jaxparc import interrupts

# `python -m` imports this package first, and what a stage needs, which takes seconds, after it.
if sys.argv[:1] == ["-m"]:
    interrupts.watch("python -m experiments")
