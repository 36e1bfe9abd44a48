"""Ctrl-C and SIGTERM at a command line: one line, exit 130, and what is done is kept.

The first one raises KeyboardInterrupt, so that whatever is half done is cleared away; a second one,
or what libraries make of the first, ends the process with the same line. Only commands watch, as
the signals of a process belong to whoever wrote its main program.
"""

import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import NoReturn

CODE = 130
_state = {"watching": False, "came": False, "program": "jaxparc"}


def watch(program: str) -> None:
    """Handle the signals of this process from now on.

    Args:
        program: as it is called, before the line that says that it was interrupted.
    """
    _state.update(watching=True, program=program)
    sys.excepthook = _hook
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, _handle)


def watching() -> bool:
    """Whether `watch` was called."""
    return bool(_state["watching"])


def came() -> bool:
    """Whether a signal came: an error after it may be what a library made of it."""
    return bool(_state["came"])


def line(program: str, interrupt: BaseException | None = None) -> str:
    """What is said: that it was interrupted and, if the exception says so, what is kept."""
    kept = str(interrupt) if isinstance(interrupt, KeyboardInterrupt) else ""
    return f"{program}: interrupted" + (f"; {kept}" if kept else "")


def leave(code: int) -> NoReturn:
    """Exit; after an interrupt at once, as threads that are still at work crash when they find
    the interpreter gone.
    """
    if code != CODE or not watching():
        sys.exit(code)
    for child in multiprocessing.active_children():
        child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or a full disk
            stream.flush()
    os._exit(code)


def _say_and_leave(interrupt: BaseException | None) -> NoReturn:
    with suppress(OSError, ValueError):
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h\r")  # a bar may have hidden the cursor
        print(line(str(_state["program"]), interrupt), file=sys.stderr)
    leave(CODE)


def _handle(number: int, frame: FrameType | None) -> None:
    del number, frame
    if _state["came"]:
        _say_and_leave(None)
    _state["came"] = True
    raise KeyboardInterrupt


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """For what no command caught: an interrupt while modules were imported, above all."""
    if came() or isinstance(error, KeyboardInterrupt):
        _say_and_leave(error)
    sys.__excepthook__(kind, error, traceback)
