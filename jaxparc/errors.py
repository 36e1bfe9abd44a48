"""Errors and warnings whose message is for the user.

Any other exception is a defect, shown with its traceback.

This module imports nothing, so that every other module can raise these.
"""


class InputError(ValueError):
    """An argument or an input file is wrong.

    The message is one line that says where (the argument, the file, the model), what was found and
    what was expected. The command line prints it and exits with 2.
    """


class OperationError(RuntimeError):
    """Valid input could not be processed, wholly or in part.

    Examples are a folder that another process uses, a damaged file, or models that failed while the
    others succeeded. The message says what. The command line prints it and exits with 1.
    """


class UndefinedScoreWarning(UserWarning):
    """Scores are NaN; the message names the models, the methods and the reason."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the host or a device is out of memory."""
    if isinstance(error, MemoryError):
        return True
    names = ("JaxRuntimeError", "XlaRuntimeError")  # the second is that of JAX before 0.8
    return type(error).__name__ in names and "RESOURCE_EXHAUSTED" in str(error)
