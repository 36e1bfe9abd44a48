"""jaxparc: which pretrained model will be best after fine-tuning?

Needs jax, numpy and rich alone; training, data and checkpoints are imported where they are used.
What is named here, and every submodule, is imported on first use, so that a command can be
interrupted from its start.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from jaxparc._version import __version__ as __version__

if TYPE_CHECKING:
    from jaxparc import selectors as selectors
    from jaxparc.bank.scores import BankScores as BankScores
    from jaxparc.bank.scoring import score_bank as score_bank
    from jaxparc.extraction import extract as extract
    from jaxparc.selectors.probe import Probe as Probe

_HOMES = {
    "BankScores": "bank.scores",
    "Probe": "selectors.probe",
    "extract": "extraction",
    "score_bank": "bank.scoring",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"jaxparc.{_HOMES[name]}"), name)
    module = f"jaxparc.{name}"
    if name.startswith("_") or importlib.util.find_spec(module) is None:
        raise AttributeError(f"module 'jaxparc' has no attribute {name!r}")
    return importlib.import_module(module)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, "selectors"})
