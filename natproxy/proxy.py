"""The proxy: a NAPT device for commands.

One command, from its line to the removal of its entry:

1. `ProxyProtocol.command_received` opens an upstream connection for it (`Translation`).
2. `UpstreamProtocol.connectionMade` registers the entry and sends the command.
3. `UpstreamProtocol.lineReceived` reads the reply's header and routes it, through the
   entry, to the client; `rawDataReceived` hands what follows to a relay.
4. `Translation.end` removes the entry, which stops the relay and drops the upstream
   connection, and lets the client's next command begin.

Everything runs in the reactor thread, so that there is nothing to lock.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy import wire
from natproxy.commands import CommandFactory, CommandReceiver
from natproxy.nat import Address, NATEntry, NATTable, Outcome, TranslationKey
from natproxy.relay import SourceShort, TransportRelay


class ProxyProtocol(CommandReceiver):
    """The client's side: each command becomes a translation."""

    log = Logger()
    factory: ProxyFactory

    def __init__(self) -> None:
        super().__init__()
        self._translation: Translation | None = None
        self._admitted = False

    def connectionMade(self) -> None:
        """Turn the client away if there are too many."""
        super().connectionMade()
        if self.factory.clients < self.factory.max_clients:
            self._admitted = True
            self.factory.clients += 1
        else:
            self.log.warn("{client} turned away: too many clients", client=self.client_address)
            self.refuse("proxy error: too many clients")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Make room for another client."""
        if self._admitted:
            self.factory.clients -= 1
        super().connectionLost(reason)

    def command_received(self, command: wire.Command) -> None:
        """Open an upstream connection for the command."""
        self._translation = Translation(self, command)
        self._translation.connect()

    def stop_answering(self, outcome: Outcome) -> None:
        """Take the client's entries out of the table, now."""
        assert self._translation is not None
        self._translation.abandon(outcome)
        self._translation = None

    def translated(self, entry: NATEntry | None, outcome: Outcome, reply: str | None) -> None:
        """A translation has ended by itself.

        :param entry: as it was; `None` if there was no connection to the upstream.
        :param reply: the error to send in the reply's place.
        """
        self._translation = None
        self.log_translation(entry, outcome, reply)
        if reply is not None:
            self.reply_error(reply)
        elif outcome is Outcome.COMPLETED:
            self.reply_finished()
        else:
            # A part of the reply is out: only an abort tells the client so.
            self.answering = None
            self.abort(outcome)

    def log_translation(
        self, entry: NATEntry | None, outcome: Outcome, reply: str | None = None
    ) -> None:
        """Log the command in `answering`: one event, with the client and its NAT port.

        :param reply: the error that is sent in the reply's place.
        """
        sent = 0 if reply is None else len(wire.error_line(reply))
        if entry is None:
            self.log_outcome(outcome, sent, nat_port=None, upstream=None)
        else:
            local, upstream = entry.key
            self.log_outcome(
                outcome,
                entry.relayed + sent,
                f", from port {local.port} to {upstream}",
                nat_port=local.port,
                upstream=str(upstream),
            )


class Translation(ClientFactory):
    """One command on its way: opens one upstream connection and says how it ended.

    :ivar entry: the table's entry while there is an upstream connection.
    """

    noisy = False

    def __init__(self, client: ProxyProtocol, command: wire.Command) -> None:
        self.client = client
        self.command = command
        self.entry: NATEntry | None = None
        self._taken = False
        self._connecting: Deferred[IProtocol] | None = None

    def connect(self) -> None:
        """Open the connection; `end` is called if it can't be."""
        proxy = self.client.factory
        connecting = proxy.upstream.connect(self)
        self._connecting = connecting
        connecting.addTimeout(
            proxy.connect_timeout, proxy.clock, lambda *_: Failure(error.TimeoutError())
        )
        connecting.addCallbacks(self._connected, self._not_connected)

    def buildProtocol(self, addr: IAddress | None) -> UpstreamProtocol:
        """Make the upstream side."""
        return UpstreamProtocol(self, self.client.factory.address_of(addr))

    def register(self, upstream: UpstreamProtocol, key: TranslationKey) -> NATEntry | None:
        """Enter the upstream connection into the table.

        :return: `None` if the command has had its one connection. A host name with two
            addresses can lead to two at once (RFC 8305).
        """
        if self._taken:
            return None
        self._taken = True
        self.entry = self.client.factory.table.register(
            key,
            self.client.outflow,
            self.client.client_address,
            self.command.verb,
            self.command.name,
            upstream.drop,
        )
        return self.entry

    def end(self, outcome: Outcome, reply: str | None = None) -> None:
        """The command has ended: remove the entry and let the client go on.

        :param reply: the error to send in the reply's place, if nothing of it is out.
        """
        entry, self.entry = self.entry, None
        if entry is not None:
            self.client.factory.table.remove(entry, outcome)
        self.client.translated(entry, outcome, reply)

    def abandon(self, outcome: Outcome) -> None:
        """The client can't have the reply: let go of the upstream connection."""
        self._taken = True
        entry, self.entry = self.entry, None
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        self.client.factory.table.remove_client(self.client.outflow, outcome)
        self.client.log_translation(entry, outcome)

    def _connected(self, _: object) -> None:
        self._connecting = None

    def _not_connected(self, failure: Failure) -> None:
        if self._connecting is None:
            return
        self._connecting = None
        reason = connect_failure(failure, self.client.factory.connect_timeout)
        self.client.log.error(
            "cannot connect to the upstream for {client}: {reason} ({error})",
            client=self.client.client_address,
            reason=reason,
            error=failure.getErrorMessage(),
        )
        timed_out = failure.check(*_CONNECT_TIMEOUTS)
        self.end(Outcome.TIMEOUT if timed_out else Outcome.ERROR, f"proxy error: {reason}")


@implementer(IPushProducer)
class UpstreamProtocol(LineReceiver, TimeoutMixin):
    """The upstream's side: one command, one reply.

    :param translation: whose connection this is.
    :param upstream: the address that it leads to.
    """

    delimiter = b"\n"
    MAX_LENGTH = wire.MAX_LINE

    transport: ITCPTransport

    def __init__(self, translation: Translation, upstream: Address) -> None:
        self._translation = translation
        self._proxy = translation.client.factory
        self._upstream = upstream
        self._entry: NATEntry | None = None
        self._relay: TransportRelay | None = None

    def callLater(self, period: float, func: Callable[[], None]) -> IDelayedCall:
        """Time out by the proxy's clock (``TimeoutMixin``)."""
        return self._proxy.clock.callLater(period, func)

    def connectionMade(self) -> None:
        """Register the translation, then send the command."""
        local = self._proxy.address_of(self.transport.getHost())
        self._entry = self._translation.register(self, TranslationKey(local, self._upstream))
        if self._entry is None:
            self.transport.abortConnection()
            return
        self.setTimeout(self._proxy.reply_timeout)
        self.transport.write(self._translation.command.line + b"\n")

    def dataReceived(self, data: bytes) -> None:
        """Receive bytes of the reply, unless it has ended."""
        if self._entry is not None:
            self.resetTimeout()
            super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        """Route the header to the client, and begin to relay what it promises."""
        if self._entry is None:
            return
        try:
            header = wire.parse_header(line, self._translation.command.framing)
        except wire.WireError as malformed:
            self._misunderstood(str(malformed))
            return
        self._proxy.table.relaying(self._entry)
        self._entry.write(line + b"\n")
        body = wire.body_of(header)
        if body is None:
            self._translation.end(Outcome.COMPLETED)
            return
        client = self._translation.client
        self._relay = TransportRelay(body, self, client.outflow, self._entry.write)
        self._relay.finished.addCallbacks(self._relayed, self._source_short)
        self.setRawMode()

    def rawDataReceived(self, data: bytes) -> None:
        """Relay bytes of the body."""
        if self._relay is not None:
            self._relay.deliver(data)

    def lineLengthExceeded(self, line: bytes) -> None:
        """The header has no end."""
        self._misunderstood("reply header too long")

    def timeoutConnection(self) -> None:
        """The upstream has been silent; unless it was us who did not listen."""
        if self._relay is None:
            reply = f"proxy error: the server was silent for {self._proxy.reply_timeout:g} s"
            self._translation.end(Outcome.TIMEOUT, reply)
        elif self.paused:
            self.setTimeout(self._proxy.reply_timeout)
        else:
            self._translation.client.log.error(
                "the upstream {upstream} fell silent inside a reply to {client}",
                upstream=self._upstream,
                client=self._translation.client.client_address,
            )
            self._translation.end(Outcome.TIMEOUT)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The upstream has gone; most often because we are done with it."""
        if self._entry is None:
            return
        if self._relay is not None:
            self._relay.source_lost()
        else:
            self._translation.end(Outcome.UPSTREAM_GONE, wire.EMPTY_RESPONSE)

    def resumeProducing(self) -> None:
        """The client reads again: from now on it is the upstream's turn."""
        self.resetTimeout()
        super().resumeProducing()

    def drop(self) -> None:
        """Stop the relay and let go of the connection: its entry has been removed."""
        self._entry = None
        self.setTimeout(None)
        if self._relay is not None:
            self._relay.stop()
        # A reset, not a close: the port is free at once instead of after 60 s in
        # TIME_WAIT, and a proxy that translates every command needs them all.
        self.transport.abortConnection()

    def _relayed(self, _: None) -> None:
        self._translation.end(Outcome.COMPLETED)

    def _source_short(self, failure: Failure) -> None:
        failure.trap(SourceShort)
        entry = self._entry
        assert entry is not None
        self._translation.client.log.error(
            "the upstream {upstream} died inside a reply to {client}: {reason}",
            upstream=entry.key.upstream,
            client=entry.client_address,
            reason=failure.value,
        )
        self._translation.end(Outcome.UPSTREAM_GONE)

    def _misunderstood(self, reason: str) -> None:
        self._translation.client.log.error(
            "the upstream {upstream} is not understood: {reason} (asked by {client})",
            upstream=self._upstream,
            client=self._translation.client.client_address,
            reason=reason,
        )
        self._translation.end(Outcome.ERROR, f"proxy error: {reason}")


class ProxyFactory(CommandFactory):
    """The proxy's clients, and what they share.

    :param clock: for every time-out.
    :param upstream: where commands are sent.
    :param reply_timeout: seconds that the upstream may be silent.
    :param connect_timeout: seconds that it may take to accept a connection.
    :param idle_timeout: seconds that a client may take for its next step.
    :param max_clients: how many there may be at once.
    :ivar clients: how many there are.
    :ivar table: the translations that exist now.
    """

    def __init__(
        self,
        clock: IReactorTime,
        upstream: IStreamClientEndpoint,
        reply_timeout: float = 60.0,
        connect_timeout: float = 5.0,
        idle_timeout: float = 600.0,
        max_clients: int = 10_000,
    ) -> None:
        super().__init__(clock, idle_timeout)
        self.upstream = upstream
        self.reply_timeout = reply_timeout
        self.connect_timeout = connect_timeout
        self.max_clients = max_clients
        self.clients = 0
        self.table = NATTable(clock.seconds)

    def buildProtocol(  # type: ignore[override]  # our factory attribute is narrower
        self, addr: IAddress | None
    ) -> ProxyProtocol:
        """Receive a new client."""
        protocol = ProxyProtocol()
        protocol.factory = self
        return protocol


_CONNECT_TIMEOUTS = (error.TimeoutError, error.TCPTimedOutError)

_CONNECT_FAILURES = (
    (error.ConnectionRefusedError, "the server refuses connections"),
    (error.DNSLookupError, "the server's name cannot be resolved"),
    (error.NoRouteError, "there is no route to the server"),
)

_OWN_LACK: dict[int | None, str] = {
    errno.EADDRNOTAVAIL: "the proxy has no free port left",
    errno.EMFILE: "the proxy has no free descriptor left",
    errno.ENFILE: "the proxy's system has no free descriptor left",
}


def connect_failure(failure: Failure, timeout: float) -> str:
    """Say in plain words, for a client, why the upstream could not be reached.

    :param timeout: seconds that it had.
    """
    if failure.check(*_CONNECT_TIMEOUTS):
        return f"the server did not accept a connection within {timeout:g} s"
    for kind, words in _CONNECT_FAILURES:
        if failure.check(kind):
            return words
    return _OWN_LACK.get(getattr(failure.value, "osError", None), "cannot connect to the server")
