"""The command line: `jaxparc`, or `python -m jaxparc` from where it is not installed."""

from collections.abc import Sequence
from typing import NoReturn

from jaxparc import interrupts
from jaxparc.commands import PROGRAM


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, see `jaxparc.commands.parser.main`."""
    from jaxparc.commands import parser

    return parser.main(argv)


def run() -> NoReturn:
    """Run the command of this process, and exit with its code."""
    interrupts.watch(PROGRAM)  # before the imports of the command line
    interrupts.leave(main())


if __name__ == "__main__":
    run()
