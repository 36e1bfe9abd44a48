import pytest

from jaxparc.datasets import own


@pytest.fixture(autouse=True)
def fresh():
    """Each test looks at its sets as a new process would."""
    own.open_set.cache_clear()


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "tfds"
