"""The connections of those who observe a daemon: bounded in number, and closed at its end."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IProtocolFactory, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper

from natproxy.server.refusal_log import RefusalLog

CLOSING = 1.0
"""Seconds that an observer may take to read the rest, when the daemon ends."""


class ObserverConnection(ProtocolWrapper):
    """Counts a connection; its protocol can limit what the transport holds of it."""

    @property
    def bufferSize(self) -> int:
        """Bytes that the transport passes to the kernel at once, and holds before it pauses."""
        return int(cast(Any, self.transport).bufferSize)

    @bufferSize.setter
    def bufferSize(self, size: int) -> None:
        cast(Any, self.transport).bufferSize = size


class ObserverFactory(ServerFactory):
    """Makes the connections of another factory, up to a number at the same time.

    One more is closed as soon as it is accepted, so that the clients' descriptors stay free. The
    other factory may be set after the port is open.

    :param reactor: for the time to close.
    :param limit: connections at the same time.
    :param label: what they connect to, for the log.
    """

    noisy = False
    _log = Logger()

    def __init__(self, reactor: IReactorTime, limit: int, label: str) -> None:
        self._reactor = reactor
        self._limit = limit
        self._label = label
        self._factory: IProtocolFactory | None = None
        self._connections: set[ProtocolWrapper] = set()
        self._refusals = RefusalLog(reactor.seconds)
        self._closed: Deferred[None] | None = None

    def logPrefix(self) -> str:
        """Return what the port is, for the log."""
        return self._label

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._connections)

    def serve(self, factory: IProtocolFactory) -> None:
        """Use a factory for the connections from now on."""
        self._factory = factory
        factory.doStart()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return a protocol; ``None`` if there are too many."""
        if self._factory is None or self._closed is not None:
            return None
        if len(self._connections) >= self._limit:
            self._refusals.warn(
                self._log,
                "{label}: connection refused: {limit} are open",
                label=self._label,
                limit=self._limit,
            )
            return None
        # The address of a UNIX client is `None` in Twisted's annotations only.
        protocol = self._factory.buildProtocol(cast(IAddress, addr))
        return None if protocol is None else ObserverConnection(cast(Any, self), protocol)

    def close(self) -> Deferred[None]:
        """Close all connections, and abort those that do not read the rest within `CLOSING`.

        :return: fires when none is left.
        """
        if self._factory is not None:
            self._factory.doStop()
        if not self._connections:
            self._closed = succeed(None)
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._closed = closed
        time_out = self._reactor.callLater(CLOSING, self._abort)
        for connection in list(self._connections):
            connection.loseConnection()

        def cancel(result: None) -> None:
            if time_out.active():
                time_out.cancel()

        return closed.addCallback(cancel)

    def registerProtocol(self, protocol: ProtocolWrapper) -> None:
        """Count a connection; ``ProtocolWrapper`` calls it."""
        self._connections.add(protocol)

    def unregisterProtocol(self, protocol: ProtocolWrapper) -> None:
        """Count a connection no longer."""
        self._connections.discard(protocol)
        if self._closed is not None and not self._connections and not self._closed.called:
            self._closed.callback(None)

    def _abort(self) -> None:
        for connection in list(self._connections):
            cast(Any, connection).abortConnection()
