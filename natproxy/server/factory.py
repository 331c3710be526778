"""The factory of a daemon's client connections, and what the connections share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any, Protocol

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import ServerFactory
from twisted.logger import Logger

from natproxy.access import Bandwidth, Counts, Gate
from natproxy.access.networks import Networks
from natproxy.access.rules import Rules, RulesGate
from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.nat import Outcome, Subscribers
from natproxy.protocol import printable
from natproxy.server.admission import TOO_FAST, Admission, Arrivals
from natproxy.server.authentication import Authenticator
from natproxy.server.deadlines import Deadlines, Expiry
from natproxy.server.delays import Delays
from natproxy.server.events import Finished
from natproxy.server.minimum_rate import MinimumRate
from natproxy.server.refusal_log import HostRefusalLog, RefusalLog
from natproxy.server.resets import ResetWatch
from natproxy.server.rotation import RoundRobin
from natproxy.tokens.entries import Tokens

LINGER = 1.0
"""Seconds for which a client may still read, and close first, after everything was sent."""

_NO_HOST = Address("unix", FIRST_STAND_IN_PORT)


class Connection(Protocol):
    """A client's connection, as the factory uses it."""

    def drain(self) -> None:
        """Finish the current command, begin no other, and close."""
        ...

    def abort(self, outcome: Outcome) -> None:
        """Reset the connection."""
        ...

    def tokens_changed(self) -> None:
        """Take the client's identity away if its token is no longer accepted."""
        ...


class CommandFactory(ServerFactory):
    """Builds and holds the client connections of one daemon.

    A subclass sets `protocol`, which returns a new connection.

    :param clock: for every time-out.
    :param idle_timeout: seconds that a client may take to send its next command or to read on.
    :param admission: limits the number of clients; by default, to 10,000.
    :param first_command_timeout: seconds that a client may take to send its first command,
        and a load balancer to send the PROXY header; 0 for no limit but ``idle_timeout``.
    :ivar idle: idle time-outs.
    :ivar lingering: time-outs of clients to which everything was sent.
    :ivar first_commands: time-outs of clients that have not sent a command.
    :ivar lines: time-outs of lines that have begun; 0 s, for no limit, until it is changed.
    :ivar bodies: total times of bodies; likewise.
    :ivar minimum_rate: the rate at which clients must read; none until it is set.
    :ivar deadlines: all of these; their timers are cancelled when no client is connected.
    :ivar gates: called in their order before each command; they may be replaced at any time, for
        the commands that begin later.
    :ivar rules: the gate of the rules, in effect or not; see `use_rules`.
    :ivar arrivals: limits the new connections of a host.
    :ivar trusted_proxies: networks from which a PROXY header is accepted; ``None`` for all.
    :ivar bandwidth: limits the bytes of the replies to commands that have passed gates; ``None``
        for no limit.
    :ivar delays: the connections whose next command a gate delays.
    :ivar counts: of the commands that gates have delayed and refused.
    :ivar connections: the open connections.
    :ivar rotation: the connections that have used up their share of a reactor turn.
    :ivar resets: watches the connections from which nothing is read.
    :ivar authenticator: replies to ``AUTH``.
    :ivar subscribers: the callbacks of `subscribe`.
    :ivar refused_headers: connections refused for their PROXY header so far.
    :ivar failed_handshakes: connections whose TLS handshake has failed so far.
    :ivar disconnected: clients that were disconnected so far, by the reason.
    """

    _log = Logger()
    noisy = False
    protocol: Callable[[], Any]

    def __init__(
        self,
        clock: IReactorTime,
        idle_timeout: float,
        admission: Admission | None = None,
        first_command_timeout: float = 0.0,
    ) -> None:
        self.clock = clock
        self.admission = admission or Admission()
        self.arrivals = Arrivals(clock.seconds)
        self.idle = Deadlines(clock, idle_timeout)
        self.lingering = Deadlines(clock, LINGER)
        self.first_commands = Deadlines(clock, first_command_timeout)
        self.lines = Deadlines(clock, 0.0)
        self.bodies = Deadlines(clock, 0.0)
        self.minimum_rate = MinimumRate(clock)
        self.deadlines = [
            self.idle,
            self.lingering,
            self.first_commands,
            self.lines,
            self.bodies,
            self.minimum_rate.looks,
        ]
        self.gates: tuple[Gate, ...] = ()
        self.rules = RulesGate()
        self.trusted_proxies: Networks | None = None
        self.bandwidth: Bandwidth | None = None
        self.delays = Delays(clock)
        self.counts = Counts(clock.seconds)
        self.connections: set[Connection] = set()
        self.rotation = RoundRobin(clock)
        self.resets = ResetWatch(clock)
        self.subscribers: Subscribers[Finished] = Subscribers((Finished,))
        self.refused_headers = 0
        self.failed_handshakes = 0
        self.disconnected = dict.fromkeys(Expiry, 0)
        self._stand_in_ports = count(FIRST_STAND_IN_PORT)
        self._emptied: list[Deferred[None]] = []
        self._refusals = RefusalLog(clock.seconds)
        self._header_refusals = RefusalLog(clock.seconds)
        self._fast_arrivals = HostRefusalLog(clock.seconds)
        self._slow_readers = HostRefusalLog(clock.seconds)
        self._long_bodies = HostRefusalLog(clock.seconds)
        self._handshake_failures = HostRefusalLog(clock.seconds)
        self._token_refusals = HostRefusalLog(clock.seconds)
        self.authenticator = Authenticator(clock, self.log_token_refusal)
        self.deadlines.append(self.authenticator.delays)

    def subscribe(self, callback: Callable[[Finished], object]) -> Callable[[], None]:
        """Call back at the end of each command of the file server.

        The proxy's commands are events of its NAT table: see `natproxy.nat`. An exception from
        the callback is logged and stops neither the command nor other subscribers.

        :return: ends the subscription; further calls of it have no effect.
        """
        return self.subscribers.add(callback, (Finished,))

    def use_rules(self, rules: Rules) -> None:
        """Decide by other rules about the commands that begin from now on."""
        self.rules.rules = rules
        self.use_gate(self.rules, bool(rules), first=True)

    def use_gate(self, gate: Gate, used: bool, first: bool = False) -> None:
        """Call a gate for the commands that begin from now on, or do not; it is called once.

        :param first: whether it is called before the others, or after them. What a rule forbids is
            not counted: the rules come first, and the limits last.
        """
        others = tuple(other for other in self.gates if other is not gate)
        if used:
            self.gates = (gate, *others) if first else (*others, gate)
        else:
            self.gates = others

    def overloaded(self, address: object) -> bool:
        """Return whether a new connection must be closed at once; see `Admission`.

        :param address: the peer's address, as Twisted passes it.
        """
        known = isinstance(address, (IPv4Address, IPv6Address))
        client = self.address_of(address) if known else _NO_HOST
        if known and self.too_fast(client):
            self.admission.entered += 1
            return True
        overloaded = self.admission.overloaded(client)
        if overloaded:
            self._refusals.suppress()
        return overloaded

    def too_fast(self, client: Address) -> bool:
        """Return whether a new connection exceeds its host's limit of them; log that it does."""
        if not self.arrivals.too_fast(client):
            return False
        self.admission.refusals[TOO_FAST] += 1
        self._fast_arrivals.warn(self._log, client, "{client} refused: {reason}", reason=TOO_FAST)
        return True

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Return the protocol of a new client; ``None`` if there are too many clients."""
        return None if self.overloaded(addr) else super().buildProtocol(addr)

    def log_refusal(self, log: Logger, client: Address, message: str) -> None:
        """Log that a client was refused; see `RefusalLog`.

        :param message: the reason.
        """
        self._refusals.warn(log, "{client} refused: {reason}", client=client, reason=message)

    def log_header_refusal(self, log: Logger, peer: str, reason: str) -> None:
        """Log that a connection was refused for its PROXY header; see `RefusalLog`.

        :param peer: host of the connection; the client's host is not known.
        """
        self.refused_headers += 1
        self._header_refusals.warn(
            log, "connection from {peer} refused: PROXY header: {reason}", peer=peer, reason=reason
        )

    def log_token_refusal(self, log: Logger, client: Address, reason: str) -> None:
        """Log that a client's token is not accepted; see `HostRefusalLog`.

        :param reason: without the token.
        """
        self._token_refusals.warn(log, client, "{client}: AUTH refused: {reason}", reason=reason)

    def log_handshake_failure(self, log: Logger, client: Address, reason: str) -> None:
        """Log that the TLS handshake of a client has failed; see `HostRefusalLog`."""
        self.failed_handshakes += 1
        text = "TLS with {client} failed: {reason}"
        self._handshake_failures.warn(log, client, text, reason=reason)

    def log_slow_reader(self, log: Logger, client: Address) -> None:
        """Log that a client has read too slowly; see `HostRefusalLog`."""
        rate = self.minimum_rate.rate
        text = "{client} disconnected: it read fewer than {rate} bytes a second"
        self._slow_readers.warn(log, client, text, rate=rate)

    def log_long_body(self, log: Logger, client: Address) -> None:
        """Log that the body of a reply took too long; see `HostRefusalLog`."""
        text = "{client} disconnected: a body took longer than --body-timeout allows"
        self._long_bodies.warn(log, client, text)

    def accept_tokens(self, tokens: Tokens, plain: bool) -> None:
        """Set which tokens are accepted from now on.

        A client whose token is no longer accepted has lost its identity by its next command.

        :param plain: whether they are accepted from other hosts without TLS.
        """
        self.authenticator.configure(tokens, plain)
        for connection in self.connections:
            connection.tokens_changed()

    def trusts_header_from(self, peer: IAddress) -> bool:
        """Return whether a PROXY header is accepted from a peer; log that it is not."""
        if self.trusted_proxies is None:
            return True
        host = self.address_of(peer).host
        if host in self.trusted_proxies:
            return True
        self.log_header_refusal(self._log, host, "it is in no network of --trusted-proxies")
        return False

    def connection_ended(self, connection: Connection) -> None:
        """Remove a connection that is lost."""
        self.admission.leave(connection)
        self.connections.discard(connection)
        if not self.connections:
            for deadlines in self.deadlines:
                deadlines.cancel_timer()
            emptied, self._emptied = self._emptied, []
            for waiting in emptied:
                waiting.callback(None)

    def start(self) -> None:
        """Begin what the daemon does without clients; by default, nothing."""

    def drain(self) -> Deferred[None]:
        """Finish the current command of every client.

        :return: fires when no client is connected.
        """
        for connection in list(self.connections):
            connection.drain()
        return self.emptied()

    def emptied(self) -> Deferred[None]:
        """Wait for the clients to close their connections.

        :return: fires when no client is connected.
        """
        if not self.connections:
            return succeed(None)
        emptied: Deferred[None] = Deferred()
        self._emptied.append(emptied)
        return emptied

    def abort(self) -> None:
        """Abort the remaining connections."""
        for connection in list(self.connections):
            connection.abort(Outcome.DRAINED)

    def address_of(self, address: object) -> Address:
        """Return the `Address` for an address that Twisted passes.

        A UNIX socket has no port. A number from 65,536 up, which is not used again, replaces it,
        so that one number is one connection in the table and in the log.
        """
        if isinstance(address, (IPv4Address, IPv6Address)):
            return Address(address.host, address.port)
        name: bytes | None = getattr(address, "name", None)
        path = f":{printable(name)}" if name else ""
        return Address("unix" + path, next(self._stand_in_ports))
