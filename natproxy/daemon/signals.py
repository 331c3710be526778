"""The signals of the daemons.

SIGTERM and SIGINT drain, SIGUSR1 opens the logs again, and SIGHUP reloads the settings.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from inspect import getclosurevars
from types import FunctionType
from typing import Protocol

from twisted.application.service import Service
from twisted.logger import Logger
from twisted.python.logfile import LogFile

from natproxy.daemon.logfile import RotatingFile


class SignalledReactor(Protocol):
    """The part of a reactor that signals need (``IReactorCore``, ``IReactorFromThreads``)."""

    def addSystemEventTrigger(
        self, phase: str, event: str, trigger: Callable[[], object], /
    ) -> object:
        """Register a call for a phase of an event, such as the reactor's start."""
        ...

    def callFromThread(self, function: Callable[..., object], /, *args: object) -> None:
        """Call in a turn of the reactor; signal handlers may use it."""
        ...

    def stop(self) -> None:
        """Stop the reactor."""
        ...


class SignalService(Service):
    """Handles signals in the reactor's turns, once the reactor has installed its handlers.

    :param reactor: runs the handlers.
    :ivar numbers: the signals to handle. A signal that is ignored, as by ``nohup``, or that
        has another handler is left as it is.
    """

    numbers: tuple[int, ...] = ()

    _log = Logger()

    def __init__(self, reactor: SignalledReactor) -> None:
        self._reactor = reactor

    def startService(self) -> None:
        """Install the handlers as soon as the reactor has installed its own."""
        super().startService()
        self._reactor.addSystemEventTrigger("after", "startup", self._install)

    def received(self, number: int) -> None:
        """Handle a signal, in a turn of the reactor."""
        raise NotImplementedError

    def handle_now(self) -> None:
        """Handle the signals from now on, in the first turn of the reactor.

        Without a handler, a signal would end the daemon that starts, in the middle of its start.
        """
        self._install()

    def _install(self) -> None:
        for number in self.numbers:
            self._handle(number)

    def _handle(self, number: int) -> None:
        if self._has_no_handler(number):
            signal.signal(
                number, lambda number, _: self._reactor.callFromThread(self.received, number)
            )

    def _has_no_handler(self, number: int) -> bool:
        return signal.getsignal(number) in (signal.SIG_DFL, None)


class TerminationSignals(SignalService):
    """Makes the first SIGTERM or SIGINT drain the daemon, and the second abort the rest.

    With the reactor's own handlers, ``twistd`` would send itself the signal again after the
    shutdown; with these, the exit status is 0.

    :param reactor: is stopped by the first signal.
    :param abort: called by the second one.
    :param hangup: whether SIGHUP, the end of the terminal, does the same.
    """

    numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)

    def __init__(
        self, reactor: SignalledReactor, abort: Callable[[], object], hangup: bool = False
    ) -> None:
        super().__init__(reactor)
        self._abort = abort
        self._stopping = False
        if hangup:
            self.numbers = (*self.numbers, signal.SIGHUP)

    def received(self, number: int) -> None:
        """Stop the reactor; at the second signal, or if it is stopping already, abort."""
        name = signal.Signals(number).name
        if not self._stopping:
            self.stop(name)
        else:
            self._log.info("{signal} again: waiting no longer", signal=name)
            self._abort()

    def stop(self, cause: str) -> None:
        """Stop the reactor, unless it is stopping already.

        :param cause: why, for the log.
        """
        if not self._stopping:
            self._stopping = True
            self._log.info("{signal}: stopping", signal=cause)
            self._reactor.stop()

    def _has_no_handler(self, number: int) -> bool:
        # The reactor's handlers of SIGTERM and SIGINT are replaced.
        return number != signal.SIGHUP or super()._has_no_handler(number)


class MaintenanceSignals(SignalService):
    """Makes SIGUSR1 open all logs again, and SIGHUP reload the settings.

    A log that ``twistd`` writes (its option ``--logfile``) is opened again as well: its own handler
    renames the file, which another program has renamed already.

    :param log: the daemon's log file; ``None`` if it has none of its own.
    :param others: each opens other log files again, and returns whether there is one.
    :param reload: reloads the settings; ``None`` to leave SIGHUP alone.
    """

    numbers: tuple[int, ...] = (signal.SIGUSR1, signal.SIGHUP)

    def __init__(
        self,
        reactor: SignalledReactor,
        log: RotatingFile | None,
        *others: Callable[[], bool],
        reload: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__(reactor)
        self._reload = reload
        if reload is None:
            self.numbers = (signal.SIGUSR1,)
        self._file = log
        self._others = others
        self._twistds: LogFile | None = None

    def handle_now(self) -> None:
        """Handle SIGHUP from now on. The handler of SIGUSR1 depends on the log of ``twistd``."""
        if self._reload is not None:
            self._handle(signal.SIGHUP)

    def received(self, number: int) -> None:
        """Reload, or open the logs again; log why nothing is done."""
        if number == signal.SIGHUP and self._reload is not None:
            self._reload("SIGHUP")
            return
        reopened = [reopen() for reopen in self._others]
        if self._file is not None:
            self._file.reopen()
        elif self._twistds is not None:
            self._twistds.reopen()
            self._log.info("the log {path} has been opened again", path=self._twistds.path)
        elif not any(reopened):
            self._log.info(
                "SIGUSR1: nothing is done, since there is no log file (--log, --access-log)"
            )

    def _has_no_handler(self, number: int) -> bool:
        if number == signal.SIGUSR1:
            self._twistds = _log_rotated_by(signal.getsignal(number))
            if self._twistds is not None:
                return True
        return super()._has_no_handler(number)


def _log_rotated_by(handler: object) -> LogFile | None:
    """Return the log file that a signal's handler of ``twistd`` rotates.

    ``twistd`` has no other reference to it than the variable of a nested function. ``None`` if it
    is another handler.
    """
    if isinstance(handler, FunctionType) and handler.__module__.startswith("twisted.scripts."):
        file = getclosurevars(handler).nonlocals.get("logFile")
        if isinstance(file, LogFile):
            return file
    return None
