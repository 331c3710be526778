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

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IPushProducer, IReactorTime
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy.address import Address
from natproxy.nat import NATEntry, NATTable, Outcome, TranslationKey
from natproxy.protocol import (
    EMPTY_RESPONSE,
    MAX_LINE,
    UNKNOWN_COMMAND,
    AbilitiesReader,
    Command,
    WireError,
    body_of,
    error_line,
    name_of,
    parse_header,
    printable,
)
from natproxy.proxy.connector import Connector, in_plain_words, timed_out
from natproxy.relay import Relay, Relays, SinkGone, Transport, send_at_once
from natproxy.server.admission import Admission
from natproxy.server.command_log import log_command
from natproxy.server.connection import CommandReceiver
from natproxy.server.deadlines import Deadlines
from natproxy.server.factory import CommandFactory
from natproxy.server.rotation import COMMAND_UNITS

_BROKEN_OFF = "proxy error: the server closed the connection inside its reply"


class ProxyProtocol(CommandReceiver):
    """The client's side: each command becomes a translation."""

    log = Logger()
    factory: ProxyFactory
    # A command with an upstream connection costs about three times as much as one without.
    command_units = 3 * COMMAND_UNITS
    refusal_prefix = "proxy error: "

    def __init__(self) -> None:
        super().__init__()
        self._translation: Translation | None = None

    def command_received(self, command: Command) -> None:
        """Open an upstream connection for the command."""
        self._translation = Translation(self, command)
        self._translation.connect()

    def cancel_command(self, outcome: Outcome) -> None:
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
            self.command = None
            self.abort(outcome)

    def log_translation(
        self, entry: NATEntry | None, outcome: Outcome, reply: str | None = None
    ) -> None:
        """Log the command in `command`: one event, with the client and its NAT port.

        :param reply: the error that is sent in the reply's place.
        """
        assert self.command is not None
        sent = 0 if reply is None else len(error_line(reply))
        duration = self.factory.clock.seconds() - self.started_at
        log, client, command = self.log, self.client_address, self.command
        if entry is None:
            log_command(log, client, command, outcome, sent, duration, nat_port=None, upstream=None)
        else:
            local, upstream = entry.key
            log_command(
                log,
                client,
                command,
                outcome,
                entry.relayed + sent,
                duration,
                f", from port {local.port} to {upstream}",
                nat_port=local.port,
                upstream=str(upstream),
            )


class Translation(ClientFactory):
    """One command on its way: opens one upstream connection and says how it ended.

    :ivar entry: the table's entry while there is an upstream connection.
    """

    noisy = False

    def __init__(self, client: ProxyProtocol, command: Command) -> None:
        self.client = client
        self.command = command
        self.entry: NATEntry | None = None
        self._taken = False
        self._give_up: Callable[[], object] | None = None

    def connect(self) -> None:
        """Open the connection; `end` is called if it can't be."""
        self._give_up = self.client.factory.connector.connect(self)

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
            self.client.outbound,
            self.client.client_address,
            self.command.shown.verb,
            name_of(self.command),
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
        entry, self.entry = self.entry, None
        if not self._taken and self._give_up is not None:
            self._give_up()
        self._taken = True
        self.client.factory.table.remove_client(self.client.outbound, outcome)
        self.client.log_translation(entry, outcome)

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        """Tell the client in plain words, and the log what the system said."""
        words = in_plain_words(reason, self.client.factory.connector.timeout)
        self.client.log.error(
            "cannot connect to the upstream for {client}: {reason} ({error})",
            client=self.client.client_address,
            reason=words,
            error=reason.getErrorMessage(),
        )
        outcome = Outcome.TIMEOUT if timed_out(reason) else Outcome.ERROR
        self.end(outcome, f"proxy error: {words}")


@implementer(IPushProducer)
class UpstreamProtocol(LineReceiver):
    """The upstream's side: one command, one reply.

    :param translation: whose connection this is.
    :param upstream: the address that it leads to.
    """

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE

    transport: Transport

    def __init__(self, translation: Translation, upstream: Address) -> None:
        self._translation = translation
        self._proxy = translation.client.factory
        self._upstream = upstream
        self._entry: NATEntry | None = None
        self._relay: Relay | None = None
        self._relay_started = False
        self._begun = False
        self._abilities: AbilitiesReader | None = None

    def connectionMade(self) -> None:
        """Register the translation, then send the command."""
        local = self._proxy.address_of(self.transport.getHost())
        self._entry = self._translation.register(self, TranslationKey(local, self._upstream))
        if self._entry is None:
            self.transport.abortConnection()
            return
        self._wait()
        send_at_once(self.transport, self._translation.command.line + b"\n")

    def dataReceived(self, data: bytes) -> None:
        """Receive bytes of the reply, unless it has ended."""
        if self._entry is None:
            return
        self._begun = True
        super().dataReceived(data)
        # The time for the header is limited as a whole; only a body's progress extends it.
        if self._relay is not None and self._entry is not None:
            self._wait()
        if self._relay is not None and not self._relay_started:
            self._relay_started = True
            self._relay.start()

    def lineReceived(self, line: bytes) -> None:
        """Route the header to the client, and begin to relay what it promises.

        Two replies are not relayed as they come: a ``FEAT`` reply is passed on when it is
        complete; and an ``OK`` to a verb that is not in the table, which may have a body of
        which only its client knows.
        """
        # There is but one header: what follows it is never cut into lines.
        self.setRawMode()
        if self._entry is None:
            return
        command = self._translation.command
        try:
            header = parse_header(line, command.framing)
        except WireError as malformed:
            self._misunderstood(str(malformed))
            return
        self._proxy.table.relaying(self._entry)
        body = body_of(header)
        if not command.known and line.split()[:1] == [b"OK"]:
            verb = printable(command.shown.verb, 80)
            self._misunderstood(f"no framing is known for {verb}", UNKNOWN_COMMAND)
        elif body is not None and command.verb == b"FEAT":
            self._abilities = AbilitiesReader()
        elif body is None:
            self._entry.write(line + b"\n")
            self._translation.end(Outcome.COMPLETED)
        else:
            self._relay = self._proxy.relays.between(
                line + b"\n",
                body,
                header.size,
                self,
                self.transport,
                self._translation.client.outbound,
                self._entry,
                self._wait,
            )
            self._relay.finished.addCallbacks(self._relayed, self._broken_off)

    def rawDataReceived(self, data: bytes) -> None:
        """Relay bytes of the body."""
        if self._relay is not None:
            self._relay.deliver(data)
        elif self._abilities is not None and self._entry is not None:
            try:
                body = self._abilities.feed(data)
            except WireError as malformed:
                self._misunderstood(str(malformed))
                return
            if body is not None:
                self._entry.write(b"OK\n" + body)
                self._translation.end(Outcome.COMPLETED)

    def lineLengthExceeded(self, line: bytes) -> None:
        """The header has no end."""
        self._misunderstood("reply header too long")

    def time_is_up(self) -> None:
        """The upstream has been silent; unless it was us who did not listen."""
        if self._relay is None:
            reply = f"proxy error: the server was silent for {self._proxy.replies.seconds:g} s"
            self._translation.end(Outcome.TIMEOUT, reply)
        elif self._translation.client.outbound.paused:
            self._wait()
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
            if not reason.check(ConnectionDone):
                self._translation.client.log.error(
                    "the upstream {upstream} was lost before its reply to {client}: {reason}",
                    upstream=self._upstream,
                    client=self._translation.client.client_address,
                    reason=reason.getErrorMessage(),
                )
            # An empty response can mean a server of version 1; a part of a reply cannot.
            reply = _BROKEN_OFF if self._begun else EMPTY_RESPONSE
            self._translation.end(Outcome.UPSTREAM_GONE, reply)

    def drop(self) -> None:
        """Stop the relay and let go of the connection: its entry has been removed."""
        self._entry = None
        self._proxy.replies.cancel(self.time_is_up)
        if self._relay is not None:
            self._relay.stop()
        # A reset, not a close: the port is free at once instead of after 60 s in
        # TIME_WAIT, and a proxy that translates every command needs them all.
        self.transport.abortConnection()

    def _wait(self) -> None:
        self._proxy.replies.set(self.time_is_up)

    def _relayed(self, _: None) -> None:
        self._translation.end(Outcome.COMPLETED)

    def _broken_off(self, failure: Failure) -> None:
        if failure.check(SinkGone):
            self._translation.end(Outcome.CLIENT_GONE)
            return
        self._translation.client.log.error(
            "the upstream {upstream} died inside a reply to {client}: {reason}",
            upstream=self._upstream,
            client=self._translation.client.client_address,
            reason=failure.value,
        )
        self._translation.end(Outcome.UPSTREAM_GONE)

    def _misunderstood(self, reason: str, reply: str = "") -> None:
        self._translation.client.log.error(
            "the upstream {upstream} is not understood: {reason} (asked by {client})",
            upstream=self._upstream,
            client=self._translation.client.client_address,
            reason=reason,
        )
        self._translation.end(Outcome.ERROR, reply or f"proxy error: {reason}")


class ProxyFactory(CommandFactory):
    """The proxy's clients, and what they share.

    :param clock: for every time-out.
    :param connector: makes the upstream connections.
    :param reply_timeout: seconds that the upstream may be silent.
    :param idle_timeout: seconds that a client may take for its next step.
    :param admission: limits the number of clients.
    :param relays: move the bodies of replies.
    :param first_command_timeout: seconds that a client may take for its first command; 0
        for no limit but `idle_timeout`.
    :ivar replies: the deadlines of upstreams.
    :ivar table: the translations that exist now.
    """

    def __init__(
        self,
        clock: IReactorTime,
        connector: Connector,
        reply_timeout: float = 60.0,
        idle_timeout: float = 600.0,
        admission: Admission | None = None,
        relays: Relays | None = None,
        first_command_timeout: float = 0.0,
    ) -> None:
        super().__init__(clock, idle_timeout, admission, first_command_timeout)
        self.connector = connector
        self.replies = Deadlines(clock, reply_timeout)
        self.deadlines.append(self.replies)
        self.relays = relays or Relays()
        self.table = NATTable(clock.seconds)

    def drain(self) -> Deferred[None]:
        """Let every client finish; then there is nothing to relay any more."""
        return super().drain().addCallback(lambda _: self.relays.close())

    def buildProtocol(  # type: ignore[override]  # our factory attribute is narrower
        self, addr: IAddress | None
    ) -> ProxyProtocol | None:
        """Make the protocol of a new client; `None` if there are too many."""
        if self.overloaded(addr):
            return None
        protocol = ProxyProtocol()
        protocol.factory = self
        return protocol
