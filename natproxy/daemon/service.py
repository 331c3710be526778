"""The daemons as services: they listen, drain and stop; signals end them.

A `DrainingService` is one daemon; `TerminationSignals` makes SIGTERM end it in order, and
`TwistdService` is all of it as ``twistd`` runs it. No settings are read here, and no
factory is made.
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from twisted.application.service import Application, IService, MultiService, Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IReactorTime
from twisted.logger import ILogObserver, Logger
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.failure import Failure

from natproxy import __version__
from natproxy.daemon.descriptors import raise_limit
from natproxy.daemon.listening import ListeningEndpoint, address_text
from natproxy.daemon.log_options import LogChoice
from natproxy.daemon.logfile import RotatingFile
from natproxy.server.factory import CommandFactory
from natproxy.settings import SettingError


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


class DrainingService(Service):
    """Listens on endpoints, and lets clients finish when it is stopped.

    :param endpoints: where to listen.
    :param factory: makes the connections.
    :param drain: seconds that commands in flight may take when it stops.
    :param clock: for the time to drain.
    :param details: what runs, for the line that is logged at the start.
    :param label: what chooses where to listen (``--listen``), for the error if that fails.
    :param start_failed: called if it cannot listen.
    :ivar announced: whether the start is logged.
    :ivar ports: the listening ports, in the order of the endpoints.
    """

    _log = Logger()

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
        self.factory = factory
        self.ports: list[IListeningPort] = []
        self.announced = True
        self._endpoints = endpoints
        self._drain = drain
        self._clock = clock
        self._details = details
        self._label = label
        self._start_failed = start_failed

    def privilegedStartService(self) -> None:
        """Raise the limit of descriptors and listen; the process may have privileges now.

        :raises StartupError: if one of the endpoints can't be listened on.
        """
        super().privilegedStartService()
        raise_limit()
        for endpoint in self._endpoints:
            failures: list[Failure] = []
            endpoint.listen(self.factory).addCallbacks(self.ports.append, failures.append)
            if failures:
                self._start_failed()
                ports, self.ports = self.ports, []
                for port in ports:
                    port.stopListening()
                reason = _reason(failures[0], self._label)
                raise StartupError(f"cannot listen on {endpoint.description}: {reason}")
        if self.announced:
            self._log_start()

    def startService(self) -> None:
        """Listen, unless `privilegedStartService` has done so."""
        super().startService()
        if not self.ports:
            self.privilegedStartService()

    def stopService(self) -> Deferred[None]:
        """Stop listening at once, drain, then abort what is left.

        :return: fires when no connection is left.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        ports, self.ports = self.ports, []
        closed = gatherResults([maybeDeferred(port.stopListening) for port in ports])
        time_out = self._clock.callLater(self._drain, self.abort)
        if self.factory.connections:
            count = len(self.factory.connections)
            self._log.info(
                "draining {count} {connections} for up to {seconds:g} s",
                count=count,
                connections="connection" if count == 1 else "connections",
                seconds=self._drain,
            )
        await self.factory.drain()
        if time_out.active():
            time_out.cancel()
        await closed

    def _log_start(self) -> None:
        admission = self.factory.admission
        self._log.info(
            "natproxy {version}: {details} listens on {addresses}; clients at once: {clients},"
            " of one host: {per_host}",
            version=__version__,
            details=self._details,
            addresses=", ".join(address_text(port.getHost()) for port in self.ports),
            clients=admission.clients,
            per_host=admission.per_host or "no limit",
        )

    def abort(self) -> None:
        """Abort the connections that are left."""
        self.factory.abort()


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

    def _install(self) -> None:
        for number in self.numbers:
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
        self._count = 0
        if hangup:
            self.numbers = (*self.numbers, signal.SIGHUP)

    def received(self, number: int) -> None:
        """Stop the reactor; at the second signal, abort."""
        self._count += 1
        name = signal.Signals(number).name
        if self._count == 1:
            self._log.info("{signal}: stopping", signal=name)
            self._reactor.stop()
        else:
            self._log.info("{signal} again: waiting no longer", signal=name)
            self._abort()

    def _has_no_handler(self, number: int) -> bool:
        # The reactor's handlers of SIGTERM and SIGINT are replaced.
        return number != signal.SIGHUP or super()._has_no_handler(number)


class MaintenanceSignals(SignalService):
    """Makes SIGUSR1 open the log file again; SIGHUP is logged, and has no other effect.

    :param log: the daemon's log file; ``None`` if it has none of its own.
    """

    numbers: tuple[int, ...] = (signal.SIGUSR1, signal.SIGHUP)

    def __init__(self, reactor: SignalledReactor, log: RotatingFile | None) -> None:
        super().__init__(reactor)
        self._file = log

    def received(self, number: int) -> None:
        """Open the log file again, or log why nothing is done."""
        if number == signal.SIGHUP:
            self._log.info("SIGHUP: nothing is done, since no settings can be reloaded")
        elif self._file is None:
            self._log.info("SIGUSR1: nothing is done, since there is no log file (--log)")
        else:
            self._file.reopen()


class TwistdService(MultiService):
    """A daemon with all that it needs to run under ``twistd``.

    :param daemon: the daemon.
    :param reactor: is stopped by the first SIGTERM or SIGINT.
    :param log: the daemon's log file, if it has one of its own.
    """

    def __init__(
        self,
        daemon: DrainingService,
        reactor: SignalledReactor,
        log: RotatingFile | None = None,
    ) -> None:
        super().__init__()
        daemon.setServiceParent(self)
        TerminationSignals(reactor, daemon.abort).setServiceParent(self)
        MaintenanceSignals(reactor, log).setServiceParent(self)

    def privilegedStartService(self) -> None:
        """Start; write the reason on the terminal if that fails.

        :raises StartupError: as `DrainingService` does.
        """
        try:
            super().privilegedStartService()
        except StartupError as error:
            # By now twistd has replaced sys.stderr by its log.
            if sys.__stderr__ is not None and sys.stderr is not sys.__stderr__:
                sys.__stderr__.write(f"{error}\n")
            raise


def make_application(
    name: str, daemon: DrainingService, reactor: SignalledReactor, log: LogChoice
) -> Componentized:
    """Return a daemon as an application file (``.tac``) defines it.

    :param name: of the application.
    :param log: the daemon's; without one, ``twistd`` writes its own.
    """
    application: Componentized = Application(name)
    if log.writer is not None:
        application.setComponent(ILogObserver, log.writer)
    IService(TwistdService(daemon, reactor, log.file)).setServiceParent(application)
    return application


def _reason(failure: Failure, label: str) -> str:
    error = failure.value
    if isinstance(error, CannotListenError):
        error = error.socketError
    reason = str(getattr(error, "strerror", None) or error)
    if getattr(error, "errno", None) == errno.EADDRINUSE:
        return f"{reason}; choose another one with {label}"
    return reason
