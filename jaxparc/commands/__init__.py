"""The commands of `jaxparc`, which is `python -m jaxparc`: one module each.

The function of a module takes plain arguments.
"""

PROGRAM = "jaxparc"

# The methods of a command without --methods; the first determines the ranking. Those of `rank` are
# chosen by the evidence in docs/evaluation.md and take every kind of labels.
SCORED_BY = ("parc_f32",)
RANKED_BY = ("parc_f32", "ridge")
EVIDENCE = "parc_f32 ranked best over the paper's 168 transfers; see docs/evaluation.md"
ALL = "all"  # of --methods: every method that can be applied

# The peak learning rates that `finetune` chooses from.
LEARNING_RATES = (0.003, 0.01, 0.03)
