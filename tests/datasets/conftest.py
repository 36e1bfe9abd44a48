import pytest

from jaxparc.datasets import user_images


@pytest.fixture(autouse=True)
def fresh():
    """Each test looks at its sets as a new process would."""
    user_images.open_set.cache_clear()


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "tfds"
