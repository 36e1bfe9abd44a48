"""The commands of `python -m jaxparc`: one module each, whose function takes plain arguments."""

PROGRAM = "python -m jaxparc"
