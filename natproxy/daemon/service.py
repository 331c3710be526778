"""The daemons as services: they listen, drain and stop.

A `DrainingService` is one daemon, and `TwistdService` is all of it as ``twistd`` runs it, with the
handlers of signals. No settings are read here, and no factory is made.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import Protocol, cast

from twisted.application.service import Application, IService, MultiService, Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorTime
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from natproxy import __version__
from natproxy.daemon.descriptors import raise_limit
from natproxy.daemon.listening import Bound, ListeningEndpoint, address_text
from natproxy.daemon.log_options import LogChoice
from natproxy.daemon.notify import Notifier, take_notifier
from natproxy.daemon.reload import Reloader, Result
from natproxy.daemon.signals import MaintenanceSignals, SignalledReactor, TerminationSignals
from natproxy.server.factory import CommandFactory
from natproxy.settings import SettingError

SWITCH_INTERVAL = 0.0005
"""Seconds after which a thread that computes lets the reactor's thread run.

Each system call of the reactor's thread may wait as long: with Python's 5 ms, a command takes tens
of milliseconds while the journal is searched.
"""


class StartupError(SystemExit, Exception):
    """A daemon cannot start, for the reason that is this exception's text.

    Uncaught it ends the process as ``SystemExit`` does: the text on stderr, status 1, no
    traceback. It is an ``Exception`` as well, so that a ``twistd`` which runs in the background
    passes the text to the terminal that it was started from.
    """


@contextmanager
def startup_errors(program: str) -> Iterator[None]:
    """Raise errors of settings and of the command line as `StartupError`.

    :param program: what the user has started; the text begins with it.
    """
    try:
        yield
    except (SettingError, usage.UsageError) as error:
        raise StartupError(f"{program}: {error}") from None


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


class Phase(Enum):
    """What a `DrainingService` does."""

    STARTING = "starting"
    LISTENING = "listening"
    DRAINING = "draining"
    STOPPED = "stopped"


class Companion(Protocol):
    """What runs beside a daemon and shows it: control socket, journal, metrics."""

    def open_ports(self) -> None:
        """Open the listening sockets, after those of the daemon; with privileges, if it has any.

        :raises StartupError: if one cannot be opened.
        """
        ...

    def start(self) -> None:
        """Open files, as the user that the daemon runs as.

        :raises StartupError: if one that was configured cannot be opened.
        """
        ...

    def cancel_start(self) -> None:
        """Close the sockets again: the daemon cannot start."""
        ...

    def reopen_logs(self) -> bool:
        """Open the log files again; return whether there is one."""
        ...

    async def stop(self) -> None:
        """Close everything; all clients of the daemon have finished."""
        ...


class DaemonService(Service):
    """A daemon, in this process or in several.

    :param endpoints: where it listens.
    :param drain: seconds that commands in flight may take when it stops.
    :ivar drain: as the parameter; ``None`` for any time.
    :ivar endpoints: likewise.
    :ivar announced: whether the start is logged.
    :ivar ports: what listens, in the order of the endpoints.
    :ivar addresses: those of the ports, as texts; they stay when it has stopped listening.
    :ivar phase: what it does now.
    :ivar companion: started after it listens, and stopped when the last client has finished.
    :ivar log: where it logs, which decides how the ends of commands are logged.
    :ivar reloader: reads its settings again; ``None`` for a daemon without settings.
    :ivar end: ends the process in order, as SIGTERM does; set by what runs the daemon.
    :ivar notifier: notifies the service manager; ``None`` if there is none.
    """

    _log = Logger()

    def __init__(self, endpoints: Sequence[ListeningEndpoint], drain: float | None) -> None:
        self.ports: Sequence[Bound] = []
        self.drain = drain
        self.announced = True
        self.addresses: tuple[str, ...] = ()
        self.phase = Phase.STARTING
        self.companion: Companion | None = None
        self.log = LogChoice()
        self.reloader: Reloader | None = None
        self.end: Callable[[str], object] = lambda cause: None
        self.notifier: Notifier | None = None
        self.endpoints = endpoints

    def use_log(self, log: LogChoice) -> None:
        """Set where it logs, before it starts."""
        self.log = log

    def abort(self) -> None:
        """Abort the connections that are left."""
        raise NotImplementedError

    def reload(self, cause: str, dry_run: bool = False) -> Deferred[Result]:
        """Read the settings again; see `Reloader.reload`.

        :return: fires with the result; it has an error if the daemon stops.
        """
        if self.reloader is None or self.phase in (Phase.DRAINING, Phase.STOPPED):
            reason = "has no settings" if self.reloader is None else f"is {self.phase.value}"
            result = Result(errors=(f"the daemon {reason}",))
            self._log.warn("{cause}: {reason}", cause=cause, reason=result.errors[0])
            return succeed(result)
        if self.notifier is None or dry_run:
            return self.reload_now(cause, dry_run)
        self.notifier.reloading()
        return self.reload_now(cause, False).addCallback(self._reloaded, self.notifier)

    def _reloaded(self, result: Result, notifier: Notifier) -> Result:
        errors = "; ".join(result.errors)
        wrong = f"; the settings were not reloaded: {errors}" if errors else ""
        notifier.reloaded(listening_status(self.addresses) + wrong)
        return result

    def reload_now(self, cause: str, dry_run: bool) -> Deferred[Result]:
        """Read the settings again: the daemon has some, and does not stop."""
        assert self.reloader is not None
        return self.reloader.reload(cause, dry_run)

    def reopen_logs(self) -> bool:
        """Open the companion's log files again; return whether it has one."""
        return self.companion is not None and self.companion.reopen_logs()


class DrainingService(DaemonService):
    """Listens on endpoints, and lets clients finish when it is stopped.

    :param endpoints: where to listen.
    :param factory: makes the connections.
    :param drain: seconds that commands in flight may take when it stops.
    :param clock: for the time to drain.
    :param details: what runs, for the line that is logged at the start.
    :param label: what chooses where to listen (``--listen``), for the error if that fails.
    :param start_failed: called if it cannot listen.
    """

    def __init__(
        self,
        endpoints: Sequence[ListeningEndpoint],
        factory: CommandFactory,
        drain: float,
        clock: IReactorTime,
        *,
        details: str = "",
        label: str = "--listen",
        start_failed: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(endpoints, drain)
        self.factory = factory
        self.details = details
        self.start_failed = start_failed
        self._open: list[IListeningPort] = []
        self._clock = clock
        self._label = label

    def privilegedStartService(self) -> None:
        """Raise the limit of descriptors and listen; the process may have privileges now.

        :raises StartupError: if one of the endpoints can't be listened on.
        """
        super().privilegedStartService()
        raise_limit()
        sys.setswitchinterval(SWITCH_INTERVAL)
        try:
            self.ports = self._open = open_ports(self.endpoints, self.factory, self._label)
            self.addresses = tuple(address_text(port.getHost()) for port in self.ports)
            if self.companion is not None:
                self.companion.open_ports()
        except StartupError:
            self._cancel_start()
            raise
        self.phase = Phase.LISTENING
        if self.announced:
            self._log_start()

    def startService(self) -> None:
        """Listen, unless `privilegedStartService` has done so, and start the companion.

        :raises StartupError: as `privilegedStartService`, and if the companion cannot start.
        """
        super().startService()
        if self.phase is not Phase.LISTENING:
            self.privilegedStartService()
        if self.companion is not None:
            try:
                self.companion.start()
            except StartupError:
                self._cancel_start()
                raise
        self.factory.start()

    def _cancel_start(self) -> None:
        self.start_failed()
        self.phase = Phase.STOPPED
        ports = self._closed_ports()
        for port in ports:
            port.stopListening()
        if self.companion is not None:
            self.companion.cancel_start()

    def stopService(self) -> Deferred[None]:
        """Stop listening at once, drain, then abort what is left.

        :return: fires when no connection is left, and the companion has stopped.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.phase = Phase.DRAINING
        ports = self._closed_ports()
        closed = gatherResults([maybeDeferred(port.stopListening) for port in ports])
        drain = self.drain
        time_out = None if drain is None else self._clock.callLater(drain, self.abort)
        if self.factory.connections:
            count = len(self.factory.connections)
            self._log.info(
                "draining {count} {connections} {limit}",
                count=count,
                connections="connection" if count == 1 else "connections",
                limit="for any time" if drain is None else f"for up to {drain:g} s",
            )
        await self.factory.drain()
        if time_out is not None and time_out.active():
            time_out.cancel()
        await closed
        if self.companion is not None:
            await self.companion.stop()
        self.phase = Phase.STOPPED

    def retire(self) -> Deferred[None]:
        """Stop listening, and serve the clients that are connected for as long as they stay.

        :return: fires when no client is connected. The service still has to be stopped.
        """
        self.phase = Phase.DRAINING
        for port in self._closed_ports():
            port.stopListening()
        return self.factory.emptied()

    def _log_start(self) -> None:
        admission = self.factory.admission
        self._log.info(
            "natproxy {version}: {details} listens on {addresses}; clients at once: {clients},"
            " of one host: {per_host}",
            version=__version__,
            details=self.details,
            addresses=", ".join(self.addresses),
            clients=admission.clients,
            per_host=admission.per_host or "no limit",
        )

    def abort(self) -> None:
        """Abort the connections that are left."""
        self.factory.abort()

    def _closed_ports(self) -> list[IListeningPort]:
        """Return the ports, for the caller to close them."""
        ports, self._open = self._open, []
        self.ports = []
        return ports


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


def listening_status(addresses: Sequence[str]) -> str:
    """Return what a daemon that runs notifies the service manager of, for people."""
    return f"listens on {', '.join(addresses)}"


@contextmanager
def _written_on_terminal() -> Iterator[None]:
    try:
        yield
    except StartupError as error:
        # By now twistd has replaced sys.stderr by its log.
        if sys.__stderr__ is not None and sys.stderr is not sys.__stderr__:
            sys.__stderr__.write(f"{error}\n")
        raise


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


def open_ports(
    endpoints: Sequence[ListeningEndpoint], factory: IProtocolFactory, label: str
) -> list[IListeningPort]:
    """Return the ports of endpoints on which it listens now; all of them, or none.

    :param label: what chooses the endpoints, for the error: ``--listen``.
    :raises StartupError: if one of them can't be listened on.
    """
    ports: list[IListeningPort] = []
    for endpoint in endpoints:
        failures: list[Failure] = []
        endpoint.listen(factory).addCallbacks(ports.append, failures.append)
        if failures:
            for port in ports:
                port.stopListening()
            reason = _reason(failures[0], label)
            raise StartupError(f"cannot listen on {endpoint.description}: {reason}")
    return ports


def _reason(failure: Failure, label: str) -> str:
    error = failure.value
    if isinstance(error, CannotListenError):
        error = error.socketError
    reason = str(getattr(error, "strerror", None) or error)
    if getattr(error, "errno", None) == errno.EADDRINUSE:
        return f"{reason}; choose another one with {label}"
    return reason
