"""jaxparc: which pretrained model will be best after fine-tuning?

Needs jax, numpy and rich alone; training, data and checkpoints are imported where they are used.
"""

from jaxparc import selectors as selectors
from jaxparc._version import __version__ as __version__
from jaxparc.bank import score_bank as score_bank
from jaxparc.extraction import extract as extract
from jaxparc.probe import Probe as Probe
from jaxparc.scores import BankScores as BankScores
