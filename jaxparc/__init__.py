"""jaxparc: which pretrained model will be best after fine-tuning?

Scoring needs only jax, numpy and rich; what reads weights and images, and what trains, needs the
extras `bank` and `train`, and is imported where it is used. Names and submodules are imported on
first use, so that `import jaxparc` is instant and a command can be interrupted from its start.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from jaxparc._version import __version__ as __version__
from jaxparc.extras import advising as _advising

if TYPE_CHECKING:
    from jaxparc import datasets as datasets
    from jaxparc import evaluation as evaluation
    from jaxparc import labels as labels
    from jaxparc import models as models
    from jaxparc import selectors as selectors
    from jaxparc import weights as weights
    from jaxparc.bank.racing import race as race
    from jaxparc.bank.rank import rank as rank
    from jaxparc.bank.ranking import Ranking as Ranking
    from jaxparc.bank.scores import BankScores as BankScores
    from jaxparc.bank.scoring import score_bank as score_bank
    from jaxparc.errors import InputError as InputError
    from jaxparc.errors import UndefinedScoreWarning as UndefinedScoreWarning
    from jaxparc.extraction import extract as extract
    from jaxparc.finetuned import Finetuned as Finetuned
    from jaxparc.finetuned import load_finetuned as load_finetuned
    from jaxparc.selectors.probe import Probe as Probe

_HOMES = {
    "BankScores": "bank.scores",
    "Finetuned": "finetuned",
    "InputError": "errors",
    "Probe": "selectors.probe",
    "Ranking": "bank.ranking",
    "UndefinedScoreWarning": "errors",
    "extract": "extraction",
    "load_finetuned": "finetuned",
    "race": "bank.racing",
    "rank": "bank.rank",
    "score_bank": "bank.scoring",
}
# Submodules that the documentation mentions; all others can be accessed as well.
_MODULES = ("datasets", "evaluation", "labels", "models", "selectors", "weights")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(_imported(f"jaxparc.{_HOMES[name]}"), name)
    module = f"jaxparc.{name}"
    if name.startswith("_") or importlib.util.find_spec(module) is None:
        raise AttributeError(f"module 'jaxparc' has no attribute {name!r}")
    return _imported(module)


def _imported(module: str) -> Any:
    with _advising():
        return importlib.import_module(module)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES})
