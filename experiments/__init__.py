"""The stages of the benchmarks, each run as `python -m experiments.<stage>`."""

import sys

from experiments import memory
from jaxparc import interrupts

# `python -m` imports this package before the stage's module, whose imports take seconds.
if sys.argv[:1] == ["-m"]:
    memory.use_huge_pages()
    words = sys.orig_argv
    module = words[words.index("-m") + 1] if "-m" in words else "experiments"
    interrupts.watch(f"python -m {module}", extra="demo")
