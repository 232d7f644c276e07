"""Stopping when asked: a signal is noted, and work ends where it can go on from.

Nobody listens unless the command line does (`listen`): Python's own answer to Ctrl-C stays with who calls from Python.
Where work can be cut short anywhere, a signal raises `Stopped` there and then. Where it must reach a place to go on
from (`patiently`), it looks itself whether it was asked (`find_request`), and a second signal does not wait.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

__all__ = ["Stopped", "check_request", "find_request", "is_listening", "listen", "patiently"]

#: Ctrl-C; `kill`, `scancel` and shutdowns; and what SLURM sends before time is up. Windows has no SIGUSR1.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class Stopped(BaseException):
    """A signal asked to stop: not an Exception, so that nothing takes it for a fault that can be mended."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    def __reduce__(self) -> tuple[type["Stopped"], tuple[int]]:
        return Stopped, (self.number,)

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for all others."""
        return 128 + (signal.SIGINT if self.number == signal.SIGINT else signal.SIGTERM)


@dataclass
class _Listener:
    """What was heard so far."""

    heard: list[int] = field(default_factory=list)
    is_patient: bool = False
    tell: Callable[[], None] = lambda: None

    def hear(self, number: int, frame: FrameType | None) -> None:
        is_first = number not in self.heard
        self.heard.append(number)
        if not (self.is_patient and is_first):
            raise Stopped(number)
        self.tell()


_listener: _Listener | None = None


@contextlib.contextmanager
def listen() -> Iterator[None]:
    """Take signals as requests to stop, until left; only a main thread can.

    Called again inside, takes them back from whoever took them meanwhile.
    """
    global _listener
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, _listener = _listener, _listener or _Listener()
    handlers = {number: signal.signal(number, _listener.hear) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        _listener = outer


def is_listening() -> bool:
    """Tell whether signals are taken as requests to stop."""
    return _listener is not None


def find_request() -> int | None:
    """Return the signal that asked first, if any did."""
    return _listener.heard[0] if _listener is not None and _listener.heard else None


def check_request() -> None:
    """Stop if that was asked: an exception raised by a signal is lost where Python cleans up.

    Raises
    ------
    Stopped
        It was, and nobody is patient.
    """
    if _listener is not None and _listener.heard and not _listener.is_patient:
        raise Stopped(_listener.heard[0])


@contextlib.contextmanager
def patiently(tell: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let the first signal only be noted, and others told of it; a second of its kind raises `Stopped` at once."""
    if _listener is None:
        yield
        return
    _listener.is_patient, _listener.tell = True, tell
    try:
        yield
    finally:
        _listener.is_patient, _listener.tell = False, lambda: None
