"""The command line, `python -m jaxparc`: one module per command."""
