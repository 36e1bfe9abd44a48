"""`python -m jaxparc`."""

from jaxparc import interrupts
from jaxparc.commands.parser import PROGRAM, main

if __name__ == "__main__":
    interrupts.watch(PROGRAM)
    interrupts.leave(main())
