import pytest
from weights.written import state_of


@pytest.fixture(scope="module")
def state():
    """A ResNet-18 of a sixteenth of the channels."""
    return state_of()
