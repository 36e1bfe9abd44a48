"""The stages of the benchmarks, each run as `python -m experiments.<stage>`."""
