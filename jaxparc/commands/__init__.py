"""The commands of `python -m jaxparc`: one module each, whose function takes plain arguments."""

PROGRAM = "python -m jaxparc"

# The methods of a command without --methods; the first determines the ranking. Those of `rank` are
# chosen by the evidence in docs/evaluation.md and take every kind of labels.
SCORED_BY = ("parc_f32",)
RANKED_BY = ("parc_f32", "ridge")
EVIDENCE = (
    "ranked by parc_f32, the paper's best method over 168 fine-tuned models; docs/evaluation.md "
    "weighs the evidence"
)
ALL = "all"  # of --methods: every method that can be applied
