"""Where tests have their data sets, and a bank file."""

import pytest
from safetensors.numpy import save_file
from tiny_bank import weights_of


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder in which the first benchmark to run prepares its data sets for all."""
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def data_dir(prepared):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(prepared))
        yield prepared


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """A bank file of one architecture from two sources, and a network of another library."""
    folder = tmp_path_factory.mktemp("bank")
    text = ""
    for source, classes in (("stars", 7), ("trees", 3)):
        weights = {k: v * (1.0 + 0.1 * classes) for k, v in weights_of("resnet18", classes).items()}
        save_file(weights, folder / f"{source}.safetensors")
        text += (
            f'[[model]]\nname = "of {source}"\narchitecture = "resnet18"\nsource = "{source}"\n'
            f'source_images = {1000 * classes}\nweights = "{source}.safetensors"\n'
        )
    text += '[[model]]\nname = "other"\ntimm = "resnet18"\n'
    (folder / "bank.toml").write_text(text)
    return folder / "bank.toml"
