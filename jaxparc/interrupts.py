"""Ctrl-C and SIGTERM at a command line: one line, exit code 130, and finished work is kept.

The first signal raises KeyboardInterrupt, so that unfinished work is cleaned up. Libraries may
swallow that, in a callback or while they are imported, so the process ends a few seconds later in
any case, and at once on a second signal. Only commands install these handlers, as the signals of a
process belong to its main program.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn

from jaxparc import extras

CODE = 130
GRACE = 3.0  # seconds after the first signal for cleaning up
_state: dict[str, Any] = {
    "watching": False,
    "came": False,
    "program": "jaxparc",
    "extra": None,
    "timer": None,
}


def watch(program: str, extra: str | None = None) -> None:
    """Handle the signals of this process from now on.

    Args:
        program: name of the program, printed before the line that says it was interrupted.
        extra: the extra that installs all that the program needs, see `extras.advising`.
    """
    _state.update(watching=True, program=program, extra=extra)
    sys.excepthook = _hook
    sys.unraisablehook = _unraisable
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, _handle)


def watching() -> bool:
    """Return whether `watch` was called."""
    return bool(_state["watching"])


def came() -> bool:
    """Return whether a signal came; a later error may be what a library turned it into."""
    return bool(_state["came"])


def line(program: str, interrupt: BaseException | None = None) -> str:
    """Return the line to print: interrupted, and what is kept if the exception says so."""
    kept = str(interrupt) if isinstance(interrupt, KeyboardInterrupt) else ""
    return f"{program}: interrupted; {kept or 'finished work is kept'}"


def busy() -> None:
    """Cancel the time limit for cleaning up, while work is being saved."""
    if _state["timer"] is not None:
        _state["timer"].cancel()


class Deferral:
    """A context in which Ctrl-C and SIGTERM can wait for the end of what they would tear apart.

    Outside `deferred`, and in any thread but the main one, which alone gets signals, it changes
    nothing.
    """

    def __init__(self) -> None:
        self._deferring = False
        self._came: list[tuple[int, Any]] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> "Deferral":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if callable(handler := signal.getsignal(number)):
                    self._handlers[number] = handler
                    signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._deferring:
            self._came.append((number, frame))
        else:
            self._handlers[number](number, frame)

    @contextmanager
    def deferred(self, defer: bool = True) -> Iterator[None]:
        """Handle signals that arrive within at its end, also where that is an exception.

        Args:
            defer: False to handle them at once.
        """
        self._deferring = defer
        try:
            yield
        finally:
            self._deferring = False
            while self._came:
                number, frame = self._came.pop(0)
                self._handlers[number](number, frame)


def leave(code: int) -> NoReturn:
    """Exit; after an interrupt without waiting for threads, which would crash while the
    interpreter shuts down.
    """
    if not watching():
        sys.exit(code)
    if came() and code != CODE:
        _say_and_leave(None)
    if code != CODE:
        sys.exit(code)
    if "multiprocessing" in sys.modules:
        from multiprocessing import active_children

        for child in active_children():
            child.terminate()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed, or a full disk
            stream.flush()
    os._exit(code)


def _say_and_leave(interrupt: BaseException | None = None) -> NoReturn:
    with suppress(Exception):
        if sys.stderr.isatty():
            sys.stderr.write("\x1b[?25h\r")  # a bar may have hidden the cursor
        print(line(_state["program"], interrupt), file=sys.stderr)
    leave(CODE)


def _handle(number: int, frame: FrameType | None) -> None:
    del number
    if _state["came"] or _imports(frame):
        _say_and_leave()
    _state["came"] = True
    _state["timer"] = timer = threading.Timer(GRACE, _say_and_leave)
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    """Return whether a module is being imported, which would be left half-initialised."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Handle exceptions that no command caught."""
    if came() or isinstance(error, KeyboardInterrupt):
        _say_and_leave(error)
    if advice := extras.advice_for(error, _state["extra"]):
        print(f"{_state['program']}: {advice}", file=sys.stderr)
        return
    sys.__excepthook__(kind, error, traceback)


def _unraisable(unraisable: Any) -> None:
    """Raise an interrupt again that was lost in a callback."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    busy()
    _state["came"] = False
    threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
