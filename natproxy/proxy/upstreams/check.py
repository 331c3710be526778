"""One health check: ``FEAT`` on a connection of its own, and what the reply to it means.

A check is no command of a client, and has no entry in the NAT table: no client is behind its
port.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy.address import Address
from natproxy.nat import TranslationKey
from natproxy.protocol import (
    MAX_LINE,
    PROXY_ERROR,
    VERSION_1,
    Abilities,
    AbilitiesReader,
    ErrorKind,
    Framing,
    WireError,
    kind_of,
    parse_abilities,
    parse_error,
    parse_header,
    printable,
)
from natproxy.proxy.failure import explain, explain_loss
from natproxy.proxy.header import LOCAL, NO_HEADER_EXPECTED, send_header
from natproxy.proxy.upstreams.state import State
from natproxy.proxy.upstreams.upstream import Upstream
from natproxy.relay import Transport
from natproxy.server.state import Symbol, transition_table

COMMANDS = (b"FEAT\n", b"FEAT\n", b"LIST\n")
"""A server of version 1 may close the connection on ``FEAT``: if it does so twice, and ``LIST`` has
a reply, it is one. So do clients find out."""

TCP = (IPv4Address, IPv6Address)
"""The classes of Twisted's addresses of TCP connections."""

LONGEST_REASON = 200
"""Characters of an upstream's error that are logged and shown."""


class Stage(Symbol):
    """How far a check is."""

    CONNECTING = "connecting"
    """The connection has not been made."""
    WAITING = "waiting"
    """The command has been sent; the header of the reply is not complete."""
    ABILITIES = "abilities"
    """The body of the reply is received."""
    ENDED = "ended"
    """The connection is reset, or the attempt to connect cancelled."""


class Event(Symbol):
    """What changes the `Stage`."""

    CONNECTED = "connected"
    HEADER = "header"
    """The header of a reply that is no error has been received."""
    CLOSED = "closed"
    """The connection was lost before a reply; there is another one for the next command."""
    END = "end"
    """The check has passed, failed, or is cancelled."""


TRANSITIONS = transition_table(
    {
        Stage.CONNECTING: {Event.CONNECTED: Stage.WAITING, Event.END: Stage.ENDED},
        Stage.WAITING: {
            Event.HEADER: Stage.ABILITIES,
            Event.CLOSED: Stage.CONNECTING,
            Event.END: Stage.ENDED,
        },
        Stage.ABILITIES: {Event.END: Stage.ENDED},
        Stage.ENDED: {},
    }
)
"""The next stage, by stage and event."""


class HealthCheck(ClientFactory):
    """Checks one upstream once; see `natproxy.proxy.interfaces.ConnectionFactory`.

    :param clock: for the time-out.
    :param timeout: seconds that it may take, the connection included.
    :param connected: the checks that have a connection; it is one of them while it has one.
    :param ended: called once, when the upstream has been notified of the result.
    :ivar stage: see `Stage`.
    :ivar ends: the two ends of the connection; ``None`` if they have no host and port.
    """

    noisy = False

    def __init__(
        self,
        upstream: Upstream,
        clock: IReactorTime,
        timeout: float,
        connected: set[HealthCheck],
        ended: Callable[[], object],
    ) -> None:
        self.stage = Stage.CONNECTING
        self.ends: TranslationKey | None = None
        self._upstream = upstream
        self._header = upstream.header
        self._connected = connected
        self._ended = ended
        self._timeout = timeout
        self._timer: IDelayedCall = clock.callLater(timeout, self._expire)
        self._connecting: Callable[[], object] | None = None
        self._transport: Transport | None = None
        self._begun = b""
        self._abilities = AbilitiesReader()
        # Of `COMMANDS`, how many have had no reply.
        self._closed = 0

    def begin(self) -> None:
        """Begin to connect."""
        connecting = self._upstream.connector.connect(self)
        if self.stage is Stage.CONNECTING:
            self._connecting = connecting

    def cancel(self) -> None:
        """End without a result."""
        if self.stage is not Stage.ENDED:
            self._end()

    # What a connector calls.

    def buildProtocol(self, addr: object) -> Protocol:
        """Return the protocol of the connection."""
        return _CheckProtocol(self)

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        """Fail: there is no connection."""
        if self.stage is not Stage.CONNECTING:
            return
        failure = explain(reason, self._upstream.connector.timeout)
        if failure.counts:
            self._fail(failure.message)
        else:
            # The proxy has no port or no descriptor left: that is no sign of the upstream's health.
            self._end()
            self._ended()

    # What the protocol calls.

    def connected(self, transport: Transport) -> None:
        """Send the command, unless the check has another connection, or has ended."""
        if self.stage is not Stage.CONNECTING:
            transport.abortConnection()
            return
        self.stage = TRANSITIONS[self.stage][Event.CONNECTED]
        self._transport = transport
        host, peer = transport.getHost(), transport.getPeer()
        if isinstance(host, TCP) and isinstance(peer, TCP):
            local, remote = Address(host.host, host.port), Address(peer.host, peer.port)
            self.ends = TranslationKey(local, remote)
        self._connected.add(self)
        line = COMMANDS[self._closed]
        if self._header:
            line = send_header(transport, LOCAL, line)
        transport.write(line)

    def received(self, transport: Transport, data: bytes) -> None:
        """Receive bytes of the reply."""
        if transport is not self._transport or self.stage is Stage.ENDED:
            return
        if self.stage is Stage.WAITING:
            self._begun += data
            end = self._begun.find(b"\n")
            if end < 0:
                if len(self._begun) > MAX_LINE:
                    self._fail("reply header too long")
                return
            data = self._begun[end + 1 :]
            if not self._header_received(self._begun[:end]):
                return
        try:
            body = self._abilities.feed(data)
        except WireError as malformed:
            self._fail(str(malformed))
            return
        if body is not None:
            self._pass(parse_abilities(body))

    def lost(self, transport: Transport, reason: Failure, verified: bool) -> None:
        """Fail, if the reply is not complete.

        :param verified: whether the handshake of TLS, if there is one, was complete.
        """
        if transport is self._transport and self.stage is not Stage.ENDED:
            unverified = not verified and ISSLTransport.providedBy(transport)
            upstream = self._upstream
            # One that is up, and of version 2, is rather being restarted.
            older = upstream.abilities in (None, VERSION_1) or upstream.state is State.DOWN
            last = self._closed == len(COMMANDS) - 1
            if last or unverified or self._begun or self._header or not older:
                self._fail(explain_loss(reason, unverified, begun=bool(self._begun)))
                return
            # One that was of version 1 at the last check has shown it twice.
            self._closed = 2 if upstream.abilities == VERSION_1 else self._closed + 1
            self.stage = TRANSITIONS[self.stage][Event.CLOSED]
            self._connected.discard(self)
            self._transport = self._connecting = None
            self.begin()

    def _header_received(self, line: bytes) -> bool:
        """Return whether the body of a reply follows; end the check if not."""
        try:
            header = parse_header(line, Framing.LISTING)
        except WireError as malformed:
            self._fail(str(malformed))
            return False
        if COMMANDS[self._closed] == b"LIST\n":
            if header.error is None:
                self._pass(VERSION_1)
            else:
                self._fail(f"its reply to LIST is an error: {printable(header.error, 200)}")
            return False
        if header.error is None:
            self.stage = TRANSITIONS[self.stage][Event.HEADER]
            return True
        if kind_of(*parse_error(header.error)) is not ErrorKind.UNSUPPORTED:
            self._fail(f"its reply to FEAT is an error: {printable(header.error, LONGEST_REASON)}")
        elif self._header:
            # What it does not support is the header: no server of version 1 takes one.
            self._fail(NO_HEADER_EXPECTED)
        else:
            self._pass(VERSION_1)
        return False

    def _expire(self) -> None:
        waiting = "accept a connection" if self.stage is Stage.CONNECTING else "reply to FEAT"
        self._fail(f"the server did not {waiting} within {self._timeout:g} s")

    def _pass(self, abilities: Abilities) -> None:
        self._end()
        self._upstream.check_passed(abilities)
        self._ended()

    def _fail(self, reason: str) -> None:
        self._end()
        self._upstream.check_failed(reason.removeprefix(PROXY_ERROR))
        self._ended()

    def _end(self) -> None:
        self.stage = TRANSITIONS[self.stage][Event.END]
        self._connected.discard(self)
        if self._timer.active():
            self._timer.cancel()
        connecting, self._connecting = self._connecting, None
        if self._transport is not None:
            # A reset, as at the end of each upstream connection: the port is free at once.
            self._transport.abortConnection()
        elif connecting is not None:
            connecting()


@implementer(IHandshakeListener)
class _CheckProtocol(Protocol):
    """The connection of a check."""

    transport: Transport
    _verified = False

    def __init__(self, check: HealthCheck) -> None:
        self._check = check

    def connectionMade(self) -> None:
        self._check.connected(self.transport)

    def handshakeCompleted(self) -> None:
        self._verified = True

    def dataReceived(self, data: bytes) -> None:
        self._check.received(self.transport, data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._check.lost(self.transport, reason, self._verified)
