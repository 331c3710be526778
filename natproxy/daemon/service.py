"""Listening, draining, stopping.

A `DrainingService` is one daemon; `TerminationSignals` is what makes SIGTERM an orderly
end, and `TwistdService` both of them as ``twistd`` runs them. They are told everything
they need: no options are read and no factory is made in here.
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IReactorTime,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from natproxy import __version__
from natproxy.daemon.descriptors import raise_limit
from natproxy.daemon.listening import address_text, keep_alive
from natproxy.daemon.logfile import RotatingFile
from natproxy.server.factory import CommandFactory


class StartupError(SystemExit, Exception):
    """A daemon cannot start, for the reason that is this exception's text.

    Uncaught it ends the process as `SystemExit` does: the text on stderr, status 1, no
    traceback. It is an `Exception` as well, so that a ``twistd`` which has gone into the
    background hands the text to the terminal that it was started from.
    """


class DrainingService(Service):
    """Listens on endpoints, and lets clients finish when it is stopped.

    :param listeners: endpoints, each with the words that described it.
    :param factory: makes the connections.
    :param drain: seconds that commands in flight get to finish when it stops.
    :param clock: for the time to drain.
    :param details: what the log is to say when the daemon has started, beside where it
        listens and how many clients it admits.
    :param option: the option that chooses where to listen, to be named if it can't.
    :ivar announced: whether the start is logged.
    :ivar undo: is called if it can't listen.
    :ivar ports: the listening ports, in the order of the endpoints.
    """

    _log = Logger()

    def __init__(
        self,
        listeners: Sequence[tuple[str, IStreamServerEndpoint]],
        factory: CommandFactory,
        drain: float,
        clock: IReactorTime,
        details: str = "",
        option: str = "--listen",
    ) -> None:
        self.factory = factory
        self.option = option
        self.ports: list[IListeningPort] = []
        self._listeners = listeners
        self._drain = drain
        self._clock = clock
        self._details = details
        self.announced = True
        self.undo: Callable[[], object] = lambda: None

    def privilegedStartService(self) -> None:
        """Raise the limit of descriptors and listen; the process may have privileges now.

        :raises StartupError: if one of the endpoints can't be listened on.
        """
        super().privilegedStartService()
        raise_limit()
        for description, endpoint in self._listeners:
            failures: list[Failure] = []
            endpoint.listen(self.factory).addCallbacks(self.ports.append, failures.append)
            if failures:
                self.undo()
                ports, self.ports = self.ports, []
                for port in ports:
                    port.stopListening()
                raise StartupError(
                    f"cannot listen on {description}: {_reason(failures[0], self.option)}"
                )
        for port in self.ports:
            keep_alive(port)
        if self.announced:
            self._log_start()

    def startService(self) -> None:
        """Listen, unless `privilegedStartService` has done so."""
        super().startService()
        if not self.ports:
            self.privilegedStartService()

    def stopService(self) -> Deferred[None]:
        """Stop listening at once, drain, then cut off what is left.

        :return: fires when no connection is left.
        """
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        ports, self.ports = self.ports, []
        closed = gatherResults([maybeDeferred(port.stopListening) for port in ports])
        cut_off = self._clock.callLater(self._drain, self.hurry)
        if self.factory.connections:
            count = len(self.factory.connections)
            self._log.info(
                "draining {count} {connections} for up to {seconds:g} s",
                count=count,
                connections="connection" if count == 1 else "connections",
                seconds=self._drain,
            )
        await self.factory.drain()
        if cut_off.active():
            cut_off.cancel()
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

    def hurry(self) -> None:
        """Wait no longer for clients to finish."""
        self.factory.abort()


class SignalledReactor(Protocol):
    """What of a reactor `TerminationSignals` needs (`IReactorCore`, `IReactorFromThreads`)."""

    def addSystemEventTrigger(
        self, phase: str, event: str, trigger: Callable[[], object], /
    ) -> object:
        """Call when the reactor has started."""
        ...

    def callFromThread(self, function: Callable[..., object], /, *args: object) -> None:
        """Call in the reactor's thread, from a signal handler too."""
        ...

    def stop(self) -> None:
        """Stop the reactor."""
        ...


class SignalService(Service):
    """Handles signals in the reactor's turns, once the reactor has installed its handlers.

    :param reactor: runs the handlers.
    :ivar numbers: the signals to handle. One that is ignored, as ``nohup`` has it, or that
        has another handler stays as it is.
    """

    numbers: tuple[int, ...] = ()

    _log = Logger()

    def __init__(self, reactor: SignalledReactor) -> None:
        self._reactor = reactor

    def startService(self) -> None:
        """Install the handlers as soon as the reactor has installed its own."""
        super().startService()
        self._reactor.addSystemEventTrigger("after", "startup", self._install)

    def got(self, number: int) -> None:
        """Handle a signal, in a turn of the reactor."""
        raise NotImplementedError

    def _install(self) -> None:
        for number in self.numbers:
            if self._free(number):
                signal.signal(
                    number, lambda number, _: self._reactor.callFromThread(self.got, number)
                )

    def _free(self, number: int) -> bool:
        return signal.getsignal(number) in (signal.SIG_DFL, None)


class TerminationSignals(SignalService):
    """Makes the first SIGTERM or SIGINT drain the daemon, and the second abort the rest.

    With the reactor's own handlers ``twistd`` would end by the signal once more, when
    everything is done; here the exit status says that all is well.

    :param reactor: is stopped by the first signal.
    :param hurry: called by the second one.
    :param hangup: whether SIGHUP does the same: the end of the terminal.
    """

    numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGINT)

    def __init__(
        self, reactor: SignalledReactor, hurry: Callable[[], object], hangup: bool = False
    ) -> None:
        super().__init__(reactor)
        self._hurry = hurry
        self._received = 0
        if hangup:
            self.numbers = (*self.numbers, signal.SIGHUP)

    def got(self, number: int) -> None:
        """Stop the reactor, or wait no longer for clients."""
        self._received += 1
        name = signal.Signals(number).name
        if self._received == 1:
            self._log.info("{signal}: stopping", signal=name)
            self._reactor.stop()
        else:
            self._log.info("{signal} again: waiting no longer", signal=name)
            self._hurry()

    def _free(self, number: int) -> bool:
        # In the place of the reactor's handlers.
        return number != signal.SIGHUP or super()._free(number)


class MaintenanceSignals(SignalService):
    """Makes SIGUSR1 open the log file again; SIGHUP is logged, and nothing else.

    :param log: the daemon's log file; `None` if it has none of its own.
    """

    numbers: tuple[int, ...] = (signal.SIGUSR1, signal.SIGHUP)

    def __init__(self, reactor: SignalledReactor, log: RotatingFile | None) -> None:
        super().__init__(reactor)
        self._file = log

    def got(self, number: int) -> None:
        """Open the log file again, or log why nothing is done."""
        if number == signal.SIGHUP:
            self._log.info("SIGHUP: nothing is done, since no settings can be reloaded")
        elif self._file is None:
            self._log.info("SIGUSR1: nothing is done, since there is no log file (--log)")
        else:
            self._file.reopen()


class TwistdService(MultiService):
    """A daemon with all that it needs to run under ``twistd``.

    :param daemon: what is to run.
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
        TerminationSignals(reactor, daemon.hurry).setServiceParent(self)
        MaintenanceSignals(reactor, log).setServiceParent(self)

    def privilegedStartService(self) -> None:
        """Start, or say on the terminal why not.

        :raises StartupError: as `DrainingService` does.
        """
        try:
            super().privilegedStartService()
        except StartupError as error:
            # By now twistd has put its log in the place of sys.stderr.
            if sys.__stderr__ is not None and sys.stderr is not sys.__stderr__:
                sys.__stderr__.write(f"{error}\n")
            raise


def _reason(failure: Failure, option: str) -> str:
    error = failure.value
    if isinstance(error, CannotListenError):
        error = error.socketError
    reason = str(getattr(error, "strerror", None) or error)
    if getattr(error, "errno", None) == errno.EADDRINUSE:
        return f"{reason}; choose another one with {option}"
    return reason
