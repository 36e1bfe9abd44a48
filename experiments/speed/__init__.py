"""The speed tables: `python -m experiments.speed`."""
