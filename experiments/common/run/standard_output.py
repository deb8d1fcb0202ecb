"""Standard output and error that never stop a run, whatever becomes of their other end.

A reader that has gone (``| head -1``), a closed terminal, a full disk behind ``>``, a stream that
was closed from the start (``>&-``), an encoding without a letter: what a stream cannot take is
lost, or written as an escape, and the program goes on.
"""

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from typing import TextIO


class _Tolerant:
    """A text stream whose ``write`` and ``flush`` never raise; the rest is that of the stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._forgiving():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._forgiving():
            self._stream.flush()

    def isatty(self) -> bool:
        return not self._stream.closed and self._stream.isatty()

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):  # nobody reads, no room, or closed
            self._discard()
        except RuntimeError:  # a signal handler writes in the middle of another write
            pass

    def _discard(self) -> None:
        """Lets the file descriptor lead nowhere, so that what is buffered can go there too.

        Otherwise the interpreter itself would try to write it at its end, and fail.
        """
        with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextlib.contextmanager
def tolerated() -> Iterator[None]:
    """Makes ``sys.stdout`` and ``sys.stderr`` streams that never raise."""
    _occupy_closed_descriptors()
    with contextlib.ExitStack() as opened:
        before = sys.stdout, sys.stderr
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is None:  # it was closed before Python began
                stream = opened.enter_context(open(os.devnull, "w", encoding="utf-8"))
            setattr(sys, name, _Tolerant(stream))
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            sys.stdout, sys.stderr = before


def _occupy_closed_descriptors() -> None:
    """Opens what is closed of the descriptors 0, 1 and 2.

    Otherwise the next file of the run would get such a number, and what XLA prints to standard
    error would be written into it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
