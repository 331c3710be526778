"""The process of a worker: how it is started, killed and reaped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import NamedTuple

from natproxy.daemon.workers.record import WorkerRecord, write_record

PROGRAM = "natproxy.daemon.workers.worker"
"""The module that a worker runs."""

NOT_INHERITED = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC")
"""Variables by which a service manager addresses the master alone."""


class WorkerProcess:
    """A child process.

    ``reactor.spawnProcess`` is not used: the daemon waits for its first workers before the reactor
    runs, and a master that has executed itself anew has children that it has not started.

    :param pid: its number.
    :ivar pid: likewise.
    :ivar status: as of ``os.waitpid``; ``None`` while it runs, -1 if another has reaped it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.status: int | None = None

    def poll(self) -> bool:
        """Return whether it has ended; it is reaped then."""
        if self.status is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.status = -1
            else:
                if pid:
                    self.status = status
        return self.status is not None

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self._send(signal.SIGKILL)

    def terminate(self) -> None:
        """Send SIGTERM, by which a worker drains and ends, unless it has ended."""
        self._send(signal.SIGTERM)

    def _send(self, number: int) -> None:
        if not self.poll():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self) -> str:
        """Return how it has ended, as a text."""
        status = self.status
        if status is None or status == -1:
            return "has ended"
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            return f"was ended by {signal.Signals(number).name}"
        return f"has ended with status {os.WEXITSTATUS(status)}"


class Launched(NamedTuple):
    """A worker that has just been started.

    :ivar process: its process.
    :ivar channel: the master's end of the channel.
    :ivar log: what it writes to standard error can be read here.
    """

    process: WorkerProcess
    channel: socket.socket
    log: socket.socket


def launch(record: WorkerRecord) -> Launched:
    """Start a worker; `WorkerRecord.channel` is replaced.

    :raises OSError: if it cannot be started, for instance because there are too many processes.
    """
    channel, theirs = socket.socketpair()
    log, standard_error = socket.socketpair()
    with theirs, standard_error:
        try:
            record = record._replace(channel=theirs.fileno())
            descriptor = write_record(record)
            try:
                process = _start(record, descriptor, standard_error.fileno())
            finally:
                os.close(descriptor)
        except BaseException:
            channel.close()
            log.close()
            raise
    channel.setblocking(False)
    log.setblocking(False)
    return Launched(process, channel, log)


def _start(record: WorkerRecord, descriptor: int, standard_error: int) -> WorkerProcess:
    environment = {
        **{name: value for name, value in os.environ.items() if name not in NOT_INHERITED},
        # The worker imports what the master does, also from a directory that is not installed.
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    started = subprocess.Popen(  # noqa: S603  # this program's own
        [sys.executable, "-m", PROGRAM, str(descriptor)],
        stdin=subprocess.DEVNULL,
        stderr=standard_error,
        pass_fds=(descriptor, *record.descriptors()),
        # With -m, Python imports from the working directory first.
        cwd="/",
        env=environment,
    )
    # `WorkerProcess` reaps it.
    started.returncode = 0
    return WorkerProcess(started.pid)
