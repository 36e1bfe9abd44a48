"""Settings of how units of work are run, and command lines with their options.

This module imports nothing heavy, as command lines are parsed before anything else is loaded.
"""

import argparse
import dataclasses
import re
import sys
from typing import Any

EXECUTORS = ("local", "ray")  # the keys of `executors.EXECUTORS`


@dataclasses.dataclass(frozen=True)
class Execution:
    """Settings of how units are run.

    Attributes:
        executor: where units are run, one of `EXECUTORS`.
        num_gpus: GPUs that Ray reserves for each unit; None for one if the cluster has any.
        shard: (i, n) for the i-th of n parts of the units, i from 1.
        allow_missing: whether to skip units that lack data or weights.
    """

    executor: str = "local"
    num_gpus: float | None = None
    shard: tuple[int, int] = (1, 1)
    allow_missing: bool = False


LOCAL = Execution()


class Parser(argparse.ArgumentParser):
    """A parser whose flags have dashes; underscores, as in earlier releases, are accepted too."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, after replacing the underscores of flags."""
        words = sys.argv[1:] if args is None else args
        return super().parse_known_args([_dashed(word) for word in words], namespace)


def _dashed(word: str) -> str:
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value if flag.startswith("--") else word


def flag_of(name: str) -> str:
    """Return the flag of an argument: "batch_size" is --batch-size."""
    return f"--{name.replace('_', '-')}"


def add_executor(parser: argparse.ArgumentParser) -> None:
    """Add --executor and --num-gpus."""
    parser.add_argument(
        "--executor",
        choices=EXECUTORS,
        default="local",
        help="run in this process or on a Ray cluster [local]",
    )
    parser.add_argument(
        "--num-gpus",
        type=float,
        metavar="X",
        help="GPUs that Ray reserves for each unit of work [1 if the cluster has any]",
    )


def add_shard(parser: argparse.ArgumentParser) -> None:
    """Add --shard."""
    parser.add_argument(
        "--shard",
        type=parse_shard,
        default=(1, 1),
        metavar="I/N",
        help="run only part I of N, I from 1, as in a job array",
    )


def parse_shard(text: str) -> tuple[int, int]:
    """Parse I/N.

    Raises:
        argparse.ArgumentTypeError: `text` is not two integers with 1 <= I <= N.
    """
    if not re.fullmatch(r"\d+/\d+", text):
        raise argparse.ArgumentTypeError(f"expected I/N, such as 1/8, got {text!r}")
    i, n = map(int, text.split("/"))
    if not 1 <= i <= n:
        raise argparse.ArgumentTypeError(f"I must be from 1 to N, got {text!r}")
    return i, n
