"""Ctrl-C and SIGTERM at a command line: one line, exit 130, and what is done is kept.

The first one raises KeyboardInterrupt, so that whatever is half done is cleared away. Libraries may
swallow that, in a callback or while they are imported: so the process ends some seconds later
whatever they do, and at a second signal at once. Only commands watch, as the signals of a process
belong to whoever wrote its main program.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn

CODE = 130
GRACE = 3.0  # seconds from the first signal, in which a process clears away
_state: dict[str, Any] = {"watching": False, "came": False, "program": "jaxparc", "timer": None}


def watch(program: str) -> None:
    """Handle the signals of this process from now on.

    Args:
        program: as it is called, before the line that says that it was interrupted.
    """
    _state.update(watching=True, program=program)
    sys.excepthook = _hook
    sys.unraisablehook = _unraisable
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
    return f"{program}: interrupted; {kept or 'what is done is kept'}"


def busy() -> None:
    """Say that what is done is being saved, however long that takes."""
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
    """Exit; after an interrupt at once, as threads that are still at work crash when they find
    the interpreter gone.
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
    """Whether a module is being imported, of which half would be left."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """For what no command caught."""
    if came() or isinstance(error, KeyboardInterrupt):
        _say_and_leave(error)
    sys.__excepthook__(kind, error, traceback)


def _unraisable(unraisable: Any) -> None:
    """For an interrupt within a callback, where it is lost: it is raised once more, outside."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    busy()
    _state["came"] = False
    threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
