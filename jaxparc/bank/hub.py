"""Weights from a model hub, through huggingface_hub and its local cache."""

import functools
from collections.abc import Sequence
from pathlib import Path

from jaxparc import printing
from jaxparc.errors import InputError

TIMM_FILES = ("model.safetensors", "pytorch_model.bin")


@functools.cache
def fetch(repository: str, names: Sequence[str] = TIMM_FILES) -> Path:
    """Return the path of a file of a repository in the local cache, downloaded if necessary.

    Args:
        repository: OWNER/NAME.
        names: of the file; the first that exists.

    Raises:
        InputError: huggingface_hub is not installed, there is no such repository or file, or it is
            not in the cache and the hub does not answer.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise InputError('huggingface_hub is not installed: pip install "jaxparc[hub]"') from None
    for name in names:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, name))
        except errors.LocalEntryNotFoundError:
            raise InputError(
                f"hf://{repository} is not in the local cache, and the hub does not answer; where "
                f"it does: hf download {repository} {name}"
            ) from None
        except errors.EntryNotFoundError:
            continue
        except errors.GatedRepoError:
            raise InputError(
                f"hf://{repository} is gated: accept its terms on its page, and log in with "
                "hf auth login"
            ) from None
        except errors.RepositoryNotFoundError:
            raise InputError(f"hf://{repository}: there is no such public repository") from None
        except Exception as error:  # of the network, or a full disk
            raise InputError(
                f"hf://{repository} cannot be fetched: {printing.line(error)}"
            ) from error
    raise InputError(f"hf://{repository} holds none of {', '.join(names)}")
