"""`python -m jaxparc`."""

from collections.abc import Sequence

from jaxparc import interrupts
from jaxparc.commands import PROGRAM


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command, see `jaxparc.commands.parser.main`."""
    from jaxparc.commands import parser

    return parser.main(argv)


if __name__ == "__main__":
    interrupts.watch(PROGRAM)  # before the imports of the command line
    interrupts.leave(main())
