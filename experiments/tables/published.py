"""Numbers printed in the paper that tables of accuracies and scores can reproduce.

They are from the paper's tables 1 and 2, and from the README of the authors' repository, whose two
numbers are those of table 4. Other cells of the paper's tables are not included.
"""

from collections.abc import Mapping
from types import MappingProxyType

# (table, method label, column) -> printed number
PRINTED: Mapping[tuple[int, str, str], float] = MappingProxyType(
    {
        (1, "heuristic", "Mean PC"): 51.05,
        (1, "hscore", "Mean PC"): -5.4,
        (2, "heuristic", "architecture"): 61.27,
        (2, "heuristic", "source"): 7.13,
        (2, "heuristic", "target"): 13.63,
        (4, "parc_f32", "+ layers, pooled"): 70.28,
        (4, "knn", "+ layers, pooled"): 68.01,
    }
)

_SWAPPED = "The paper's tables 1 and 3 swap the values of RSA and DDS (56.1 and 57.3)."

# Table -> places where the paper contradicts itself or its own definitions.
FOOTNOTES: Mapping[int, tuple[str, ...]] = MappingProxyType(
    {
        1: (
            "The paper prints 51.0 and 51.05 for the heuristic; eq. 4 gives 51.06, and 51.05 with "
            "+ layers.",
            _SWAPPED,
            "Its H-Score of -5.4 is rounding noise: with more features than images, the definition "
            "gives the number of classes minus one for any features.",
        ),
        3: (_SWAPPED,),
        4: (
            "Eq. 6 standardises the scores of each target; the published numbers are reproduced "
            "with one mean and deviation over all targets and probe sets (pooled).",
        ),
        5: ("The paper says 423 transfers; its table has an accuracy for 424.",),
    }
)
