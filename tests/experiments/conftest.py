"""Where tests have their data sets."""

import pytest


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder in which the first benchmark to run prepares its data sets for all."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def data_dir(prepared):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(prepared))
        yield prepared
