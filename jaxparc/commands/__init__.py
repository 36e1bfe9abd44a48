"""The commands of `jaxparc`, which is `python -m jaxparc`: one module each.

The function of a module takes plain arguments.
"""

from jaxparc.bank.defaults import RANKED_BY as RANKED_BY
from jaxparc.bank.defaults import SCORED_BY as SCORED_BY

PROGRAM = "jaxparc"
