"""The commands of `python -m jaxparc`: one module each, with one function of plain arguments."""
