"""The methods that rank where none is named. This module imports nothing, for a fast `--help`."""

# The first determines the ranking. Those of `rank` are chosen by the evidence in docs/evaluation.md
# and take every kind of labels.
SCORED_BY = ("parc_f32",)
RANKED_BY = ("parc_f32", "ridge")
EVIDENCE = "parc_f32 ranked best over the paper's 168 transfers; see docs/evaluation.md of jaxparc"
ALL = "all"  # every method that can be applied
