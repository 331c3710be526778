"""A daemon as ``twistd`` runs it: with handlers of signals and the service manager's notifications.

It is made by the plugins of ``twistd`` and by application files (``.tac``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from twisted.application.service import Application, IService, MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import ILogObserver
from twisted.python.components import Componentized

from natproxy.daemon.log_options import LogChoice
from natproxy.daemon.notify import take_notifier
from natproxy.daemon.service import (
    DaemonService,
    StartupError,
    listening_status,
    startup_errors,
)
from natproxy.daemon.signals import MaintenanceSignals, SignalledReactor, TerminationSignals


class TwistdService(MultiService):
    """A daemon with all that it needs to run under ``twistd``.

    :param daemon: the daemon.
    :param reactor: is stopped by the first SIGTERM or SIGINT.
    :param log: where the daemon logs; by default, ``twistd`` writes its own log.
    """

    def __init__(
        self,
        daemon: DaemonService,
        reactor: SignalledReactor,
        log: LogChoice | None = None,
    ) -> None:
        super().__init__()
        self._daemon = daemon
        self._reactor = reactor
        daemon.setServiceParent(self)
        termination = TerminationSignals(reactor, daemon.abort)
        termination.setServiceParent(self)
        daemon.end = termination.stop
        file = None
        if log is not None:
            daemon.use_log(log)
            log.delay_commands(reactor)
            file = log.file
        self._maintenance = MaintenanceSignals(
            reactor, file, daemon.reopen_logs, reload=daemon.reload
        )
        self._maintenance.setServiceParent(self)
        self._termination = termination

    def privilegedStartService(self) -> None:
        """Open the ports; write the reason on the terminal if that fails.

        :raises StartupError: as `DrainingService` does.
        """
        # Before the daemon starts, which may take some time.
        self._termination.handle_now()
        self._maintenance.handle_now()
        self._daemon.notifier = take_notifier(os.environ, cast(IReactorTime, self._reactor))
        with _written_on_terminal():
            super().privilegedStartService()

    def startService(self) -> None:
        """Start, as `privilegedStartService` does.

        :raises StartupError: as `DrainingService` does.
        """
        with _written_on_terminal():
            super().startService()
        # After the handlers of signals are installed: what is ready can be stopped and reloaded.
        self._reactor.addSystemEventTrigger("after", "startup", self._notify_ready)

    def _notify_ready(self) -> None:
        if self._daemon.notifier is not None:
            self._daemon.notifier.ready(listening_status(self._daemon.addresses))

    def stopService(self) -> Deferred[list[tuple[bool, object]]]:
        """Notify the service manager, if there is one, and stop the daemon.

        :return: fires when it has stopped.
        """
        notifier = self._daemon.notifier
        if notifier is not None:
            notifier.stopping("draining")
        stopped: Deferred[list[tuple[bool, object]]] = super().stopService()
        return stopped if notifier is None else stopped.addBoth(notifier.closed)


def make_application(
    name: str, daemon: DaemonService, reactor: SignalledReactor, log: LogChoice
) -> Componentized:
    """Return a daemon as an application file (``.tac``) defines it.

    :param name: of the application.
    :param log: the daemon's; without one, ``twistd`` writes its own.
    """
    application: Componentized = Application(name)
    if log.writer is not None:
        application.setComponent(ILogObserver, log.writer)
    IService(TwistdService(daemon, reactor, log)).setServiceParent(application)
    return application


@contextmanager
def exit_on_error(program: str) -> Iterator[None]:
    """Raise errors of settings as a plain ``SystemExit``, for application files.

    ``twistd`` prints a traceback for an ``Exception`` in an application file, as `StartupError` is.

    :param program: as of `startup_errors`.
    """
    try:
        with startup_errors(program):
            yield
    except StartupError as error:
        raise SystemExit(str(error)) from None


@contextmanager
def _written_on_terminal() -> Iterator[None]:
    try:
        yield
    except StartupError as error:
        # By now twistd has replaced sys.stderr by its log.
        if sys.__stderr__ is not None and sys.stderr is not sys.__stderr__:
            sys.__stderr__.write(f"{error}\n")
        raise
