"""The commands of `jaxparc`, which is `python -m jaxparc`: one module each.

The function of a module takes plain arguments.
"""

from jaxparc.bank.defaults import RANKED_BY as RANKED_BY
from jaxparc.bank.defaults import SCORED_BY as SCORED_BY

PROGRAM = "jaxparc"

# The peak learning rates that `finetune` chooses from.
LEARNING_RATES = (0.003, 0.01, 0.03)
