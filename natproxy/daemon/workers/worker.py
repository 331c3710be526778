"""The program of a worker: ``python -m natproxy.daemon.workers.worker DESCRIPTOR``.

It is the daemon in one process, with sockets that it inherits. Its master has the signals and the
log; the worker drains when the master's end of the channel is closed, for whatever reason.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner

from natproxy.daemon.log_options import LogChoice, brief_observer, brief_writer
from natproxy.daemon.logfile import LogWriter, Stream
from natproxy.daemon.workers.record import WorkerRecord, read_record

STANDARD_ERROR = 2

IGNORED = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""Signals that a terminal or a service manager sends to all processes: they are the master's."""


def main() -> None:
    """Run the worker of the descriptor that the command line has."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    os.set_blocking(STANDARD_ERROR, False)
    record = read_record(int(sys.argv[1]))
    channel = socket.socket(fileno=record.channel)
    # The master passes absolute paths if it may not enter this directory any more.
    with suppress(OSError):
        os.chdir(record.config.directory)
    from natproxy.daemon.service import StartupError, startup_errors

    try:
        with startup_errors(record.config.program()):
            run(record, channel)
    except StartupError as error:
        channel.setblocking(True)
        channel.sendall(json.dumps({"event": "failed", "reason": str(error)}).encode() + b"\n")
        raise SystemExit(1) from None


def run(record: WorkerRecord, channel: socket.socket) -> None:
    """Run a worker until it has drained.

    :raises StartupError: if it cannot start.
    :raises SettingError: likewise.
    """
    install(record.reactor)
    from twisted.internet import reactor

    log = begin_logging(record)
    from natproxy.daemon.workers.membership import Membership, make_daemon

    daemon = make_daemon(reactor, record)
    daemon.announced = False
    daemon.use_log(log)
    log.use(record.config)
    log.delay_commands(reactor)
    daemon.startService()
    membership = Membership(reactor, daemon, record)
    membership.start(channel)
    loop: Any = reactor
    loop.addSystemEventTrigger(
        "before", "shutdown", lambda: Deferred.fromCoroutine(membership.stop())
    )
    loop.run(installSignalHandlers=False)


def install(module: str) -> None:
    """Install the reactor that the master has, before another is imported."""
    if module and "twisted.internet.reactor" not in sys.modules:
        with suppress(ImportError, AttributeError):
            import_module(module).install()


def begin_logging(record: WorkerRecord) -> LogChoice:
    """Log to standard error, which the master reads; return the choice of the daemon."""
    chosen = record.log
    if chosen.brief:
        observer = brief_observer(brief_writer(STANDARD_ERROR))
        globalLogBeginner.beginLoggingTo([observer], redirectStandardIO=False)
        return LogChoice()
    writer = LogWriter(Stream(STANDARD_ERROR))
    globalLogBeginner.beginLoggingTo([writer], redirectStandardIO=False)
    return LogChoice(
        writer if chosen.own else None, None, chosen.structured, chosen.commands, chosen.foreign
    )


if __name__ == "__main__":
    main()
