"""Methods beyond the paper: their values in float64, computed twice independently."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxparc import score_bank
from jaxparc.selectors import SELECTORS

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "expected.json").read_text())["cases"]
EXPECTED = json.loads((GOLDEN / "more_methods.json").read_text())


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("case", "method"),
    [(case, name) for case, of_case in EXPECTED.items() for name in of_case if name in SELECTORS],
)
def test_score_is_the_definition(case, method):
    with np.load(GOLDEN / f"{case}.npz") as arrays:
        features, labels = arrays["features"], arrays["labels"]
    given = {"methods": method, "num_classes": CASES[case]["num_classes"]}
    found = score_bank({case: features}, labels, **given).values[0, 0]
    assert found == pytest.approx(EXPECTED[case][method], rel=1e-3)
