"""Several processes, on one host or on many, that train one run together.

JAX's own runtime connects them. All have the same options and data, and each does the same; only
the first one says, writes and resumes things. A process that is gone takes the others with it:
they end with an error within a minute, and the same commands with ``--resume`` go on from the
checkpoints that ``--checkpoint-every`` has left.

When a process is lost, JAX's runtime aborts the others with a stack trace, which no Python code can
prevent. So each process trains in a child of its own, and the parent says in one line what has
happened (``docs/design.md`` says what else was tried).
"""

import contextlib
import hashlib
import json
import os
import re
import signal
import sys
import threading
from types import FrameType
from typing import NamedTuple

import jax
import numpy as np

import jaxae
from experiments.common import interrupts
from experiments.common.errors import InputError, first_line
from experiments.common.files.atomic import JsonObject

_HEARTBEAT_SECONDS = 20  # after so long without one, a process is taken for dead
_WAIT_SECONDS = 300  # for the others, at the start
_PARTING_SECONDS = 5  # for the others, at the end, where this process has failed or was stopped
# For the others, at the end: the first process may draw figures for long. It ends sooner if one is
# lost, because that is noticed by its heartbeat.
_END_SECONDS = 7 * 24 * 3600
_WHERE = re.compile(
    r"(?P<address>[^,\s]+:(?P<port>\d{1,9})),(?P<count>\d+),(?P<index>\d+)", re.ASCII
)
_FORM = "auto, or ADDRESS:PORT,PROCESSES,INDEX such as 10.0.0.1:1234,2,0 for the first of two"


class _Connection(NamedTuple):
    """How a process finds the others: arguments of ``jax.distributed.initialize``."""

    coordinator_address: str
    num_processes: int
    process_id: int


def check(where: str | None) -> None:
    """Raises InputError if ``--distributed`` has a value that cannot work."""
    if where not in (None, "auto"):
        _parse(str(where))


def join(where: str | None) -> None:
    """Connects this process with the others; to be called before JAX looks for devices.

    Args:
      where: the address of the first process, how many there are and which one this is;
        ``"auto"`` on a cluster that JAX knows; None for a run of one process.

    Raises:
      InputError: if they cannot be connected.
    """
    if where is None:
        return
    _fork_and_watch()
    # A signal is heard by this program, which stops all processes after the same step.
    jax.config.update("jax_enable_preemption_service", False)
    options: JsonObject = {} if where == "auto" else _parse(where)._asdict()
    try:
        jax.distributed.initialize(
            **options,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            initialization_timeout=_WAIT_SECONDS,
            shutdown_timeout_seconds=_END_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"--distributed {where}: the processes are not connected: {first_line(error)}"
        ) from error


def leave(status: int) -> None:
    """Ends this process, where it is one of several: after a success it waits for the others."""
    if not jax.distributed.is_initialized():
        return
    if status == 0:
        jax.distributed.shutdown()
        return
    # Mostly all fail alike, and part in peace: if the first one went at once, JAX would end the
    # others with a stack trace. But they may also be gone, or busy, so the wait is short.
    parting = threading.Thread(target=_disconnect, daemon=True)
    parting.start()
    parting.join(_PARTING_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _disconnect() -> None:
    with contextlib.suppress(RuntimeError):  # another process is gone
        jax.distributed.shutdown()


def is_first() -> bool:
    """Returns whether this is the process that says and writes things."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def are_several() -> bool:
    """Returns whether there is more than one process."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def start_together(identity: JsonObject, error: InputError | None) -> None:
    """Lets all processes begin, if each can and all do the same.

    Args:
      identity: options and data of this process.
      error: why this process cannot begin, or None.

    Raises:
      InputError: ``error``, or what keeps another process from beginning.
    """
    if are_several():
        from jax.experimental import multihost_utils

        digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode())
        mine = np.frombuffer(bytes([error is None]) + digest.digest(), np.uint8)
        try:
            found = np.asarray(multihost_utils.process_allgather(mine))
        except (RuntimeError, ValueError) as lost:
            raise jaxae.LostProcessError(first_line(lost)) from lost
        if error is None and not found[:, 0].all():
            which = int(np.argmin(found[:, 0]))
            raise InputError(f"process {which} cannot begin; what it printed says why")
        other = (found != found[0]).any(axis=1)
        if error is None and other.any():
            raise InputError(
                f"process {int(np.argmax(other))} has other options or data than process 0; "
                "all need the same"
            )
    if error is not None:
        raise error


def is_abandoned() -> bool:
    """Returns whether the parent that watches over this process is gone, for whatever reason."""
    return _Watcher.pid is not None and os.getppid() != _Watcher.pid


class _Watcher:
    """The parent that watches over this process.

    Attributes:
      pid: its number, or None where nobody watches.
    """

    pid: int | None = None


def _fork_and_watch() -> None:
    """Forks: the child returns, and the parent waits for its end, says why it ended, and exits."""
    if not hasattr(os, "fork"):
        print(
            "--distributed: this system cannot watch over a process (it has no fork); if another "
            "one is lost, JAX ends this one with a stack trace",
            file=sys.stderr,
        )
        return
    watcher, child = os.getpid(), os.fork()
    if child == 0:
        os.setpgid(0, 0)  # a terminal's Ctrl-C reaches it once, through its watcher
        _Watcher.pid = watcher
        return

    def pass_on(number: int, frame: FrameType | None) -> None:
        os.kill(child, number)

    for number in interrupts.SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == -signal.SIGABRT:
        print(
            "error: another process of this run is gone; start all again, with --resume",
            file=sys.stderr,
        )
    sys.stderr.flush()
    os._exit(code if code >= 0 else interrupts.status_of(-code))


def _parse(where: str) -> _Connection:
    """Returns what a value of ``--distributed`` says. Raises InputError for one of another form."""
    found = _WHERE.fullmatch(where)
    if found is None:
        raise InputError(f"--distributed must be {_FORM}, but it is {where}")
    if not 1 <= int(found["port"]) <= 65535:  # JAX would wait for minutes
        raise InputError(f"--distributed must have a port from 1 to 65535, but it is {where}")
    count, index = int(found["count"]), int(found["index"])
    if not 1 <= count <= 2**16 or index >= count:
        raise InputError(
            f"--distributed must be {_FORM}, but {where} is process {index} of {count}; "
            "they are counted from 0"
        )
    return _Connection(found["address"], num_processes=count, process_id=index)
