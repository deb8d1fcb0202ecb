"""Ctrl-C and SIGTERM: the step under way is finished and saved; a second Ctrl-C stops at once.

SIGHUP, which comes when a terminal is closed, and SIGUSR1, SIGUSR2 and SIGXCPU, which schedulers
send some time before the limit of a job, are heard as SIGTERM is. Windows has none of these, and
SIGBREAK for Ctrl-Break.

While the main thread trains, a signal is only remembered, since an exception between two calls
of a program would lose the state that was handed over. Elsewhere it is raised at once.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")
    if hasattr(signal, name)
)


class Interrupted(KeyboardInterrupt):
    """The run was told to stop.

    Attributes:
      status: exit status, 128 and the number of the signal, as a shell gives it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.status = status_of(number)


def status_of(number: int) -> int:
    """Returns the exit status of a process that was stopped by a signal."""
    return 128 + number


class _Heard:
    number: int | None = None
    deferrals = 0


def is_requested() -> bool:
    """Returns whether a signal has come."""
    return _Heard.number is not None


@contextmanager
def listening() -> Iterator[None]:
    """Turns the signals into :class:`Interrupted`; those that are ignored stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    _Heard.number, _Heard.deferrals = None, 0
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _hear)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        _Heard.number = None


@contextmanager
def deferred() -> Iterator[None]:
    """Keeps a signal from being raised in the main thread until the block is left."""
    is_main = threading.current_thread() is threading.main_thread()
    _Heard.deferrals += is_main
    try:
        yield
    finally:
        _Heard.deferrals -= is_main
        if is_main and _Heard.number is not None:
            raise Interrupted(_Heard.number) from None


def _hear(number: int, frame: FrameType | None) -> None:
    if _Heard.number is not None:
        # A closed terminal sends SIGHUP twice (the kernel, and the shell), and a scheduler SIGTERM
        # after SIGUSR1: only a person means that it shall not even save.
        if number == signal.SIGINT:
            _Heard.deferrals = 0
            raise Interrupted(number)
        return
    _Heard.number = number
    if _Heard.deferrals:
        print("stopping after this step; once more to stop at once", file=sys.stderr)
    else:
        raise Interrupted(number)
