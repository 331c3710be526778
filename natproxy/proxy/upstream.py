"""The upstream's side of the proxy: one connection for one command and its reply."""

from __future__ import annotations

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy.address import Address
from natproxy.nat import NATEntry, Outcome, TranslationExists, TranslationKey
from natproxy.protocol import (
    BAD_GATEWAY,
    GATEWAY_TIMEOUT,
    MAX_LINE,
    PROXY_ERROR,
    UNKNOWN_COMMAND,
    VERBS,
    AbilitiesReader,
    Body,
    CountedBody,
    Framing,
    Header,
    ListingBody,
    WireError,
    parse_header,
    printable,
)
from natproxy.proxy.attempted import Attempt, Attempted
from natproxy.proxy.failure import Kind, Loss, explain_loss
from natproxy.proxy.header import NO_HEADER_EXPECTED, is_reply_to_header, with_header
from natproxy.proxy.rewriting import header_of_download, is_unsupported
from natproxy.proxy.state import TRANSITIONS, Event, State
from natproxy.proxy.transport import UpstreamTransport
from natproxy.relay import PeerGone, SocketJob, SocketRelay, SourceShort, Transport, send_at_once
from natproxy.server.minimum_rate import Sending

# Looking up a member of an Enum class is slow before Python 3.12.
_WAITING, _HEADER, _BODY, _CLOSED = State.WAITING, State.HEADER, State.BODY, State.CLOSED
_REGISTERED, _FINISHED = Event.REGISTERED, Event.FINISHED
_LISTING, _NOTHING = Framing.LISTING, Framing.NOTHING
_COMPLETED = Outcome.COMPLETED


@implementer(IHandshakeListener)
class UpstreamProtocol(Protocol):
    """An upstream connection: sends one command and passes on one reply, or the rest of it.

    :param attempt: that has led to it.
    :param exchange: the command.
    :param upstream: the address of the other end.
    """

    transport: Transport
    _entry: NATEntry
    """The entry; there is none in the state ``NEW``."""
    _relay: SocketRelay
    """The relay of the body; there is none before the state ``BODY``."""
    _sending: Sending | None = None
    """The rate of the body, if there is a minimum."""
    _verified = False
    """Whether the handshake of TLS is complete, if there is TLS."""
    _body: Body
    """What is counted of the body; there is none before the state ``BODY``."""
    _features: AbilitiesReader
    """Reads the body in the state ``FEATURES``."""

    def __init__(self, attempt: Attempt, exchange: Attempted, upstream: Address) -> None:
        self.factory: Attempt = attempt
        self._exchange = exchange
        self._client = exchange.client
        self._resources = exchange.resources
        self._upstream = upstream
        self._state = State.NEW
        # Of a header of which the end has not been received.
        self._begun = b""

    # What Twisted calls.

    def connectionMade(self) -> None:
        """Register the translation and send the command.

        A host name with two addresses can lead to two connections at once (RFC 8305): the
        second one is reset. A subscriber of the table may cancel an entry that it is notified of.
        """
        factory = self.factory
        if factory.connected:
            self._advance(Event.SUPERSEDED)
            self.transport.abortConnection()
            return
        factory.connected = True
        exchange, resources = self._exchange, self._resources
        client, transport = self._client, self.transport
        if isinstance(transport, UpstreamTransport):
            local = transport.local_address()
        else:
            local = resources.address_of(transport.getHost())
        try:
            self._entry = resources.table.register(
                TranslationKey(local, self._upstream),
                client.outbound,
                client.client_address,
                exchange.command,
                client.started_at,
                self.cancel,
                client.identity,
                exchange.earlier,
            )
        except TranslationExists:
            # The system has reused the port of a connection whose loss is not reported yet.
            self._advance(Event.SUPERSEDED)
            self.transport.abortConnection()
            factory.clientConnectionFailed(None, Failure())
            return
        if self._state is _CLOSED:
            return
        self._state = TRANSITIONS[self._state][_REGISTERED]
        exchange.connected(self)
        resources.replies.set(self.reply_expired)
        line = exchange.sent.line + b"\n"
        if exchange.upstream.header:
            translation = f"{resources.upstreams.boot}:{self._entry.serial}"
            line = with_header(transport, client, translation, line)
        if isinstance(transport, UpstreamTransport):
            transport.write(line)
        else:
            send_at_once(transport, line)

    def handshakeCompleted(self) -> None:
        """Note that TLS has verified the server; only now is the command sent to it."""
        self._verified = True

    def dataReceived(self, data: bytes) -> None:
        """Receive bytes of the reply; ignore what follows it."""
        state = self._state
        if state is _WAITING or state is _HEADER:
            if self._begun:
                data = self._begun + data
            end = data.find(b"\n")
            if end >= 0:
                self._header_received(data, end)
            elif len(data) > MAX_LINE:
                self._fail_malformed("reply header too long")
            else:
                self._begun = data
                self._advance(Event.HEADER_BEGUN)
        elif state is _BODY:
            self._relay.deliver(data)
            if self._state is _BODY:
                self._body_received()
        elif state is State.FEATURES:
            self._features_received(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Report an incomplete reply."""
        state = self._state
        if state is _BODY:
            self._relay.source_lost()
        elif state is State.NEW:
            # `connectionMade` has raised an exception, and the command would wait for ever.
            self.factory.clientConnectionFailed(None, reason)
        elif state is not _CLOSED:
            detail = "" if reason.check(ConnectionDone) else reason.getErrorMessage()
            unverified = not self._verified and ISSLTransport.providedBy(self.transport)
            text = explain_loss(reason, unverified, begun=state is not State.WAITING)
            gone = Outcome.UPSTREAM_GONE
            self.fail(Loss(Kind.LOST, gone, text, BAD_GATEWAY, text, counts=True, detail=detail))

    # What the table, the deadlines and the relay call.

    def cancel(self) -> None:
        """End the relay, and reset both connections: the entry has been removed."""
        if self._state is _BODY:
            self._relay.cancel()
        self._close(Event.CANCELLED)
        self._exchange.cancelled()
        self._client.reply_broken_off(Outcome.CLIENT_GONE)

    def reply_expired(self) -> None:
        """Report that the header, or the ``FEAT`` reply, was not complete in time."""
        text = f"{PROXY_ERROR}the server was silent for {self._resources.replies.seconds:g} s"
        self.fail(Loss(Kind.LOST, Outcome.TIMEOUT, text, GATEWAY_TIMEOUT, text, counts=True))

    def body_expired(self) -> None:
        """Abort the reply if the upstream was silent, and not paused by the client."""
        outbound = self._client.outbound
        if outbound.paused or outbound.held:
            self._body_received()
            return
        self._interrupt("the upstream {upstream} timed out inside a reply to {client}")

    @property
    def relayed(self) -> int:
        """Bytes of the reply that have been passed on."""
        return self._entry.relayed

    def sends_too_slowly(self) -> None:
        """Abort the reply: the upstream has sent fewer bytes than the minimum rate."""
        text = "the upstream {upstream} sent fewer than {rate} bytes a second to {client}"
        self._interrupt(text, rate=self._resources.minimum_rate.rate)

    def relay_ended(self, error: Exception | None) -> None:
        """Finish the command, or continue or abort the reply.

        :param error: ``None`` if the whole body has been passed on.
        """
        if error is None:
            self._finish()
        elif isinstance(error, PeerGone):
            self._break_off(Loss(Kind.FINAL, Outcome.CLIENT_GONE))
        else:
            self._log_error(
                "the upstream {upstream} failed inside a reply to {client}: {reason}", reason=error
            )
            # Of another error it is not known whether all received bytes have been passed on.
            short = isinstance(error, SourceShort)
            kind = Kind.LOST if short else Kind.FINAL
            self._break_off(Loss(kind, Outcome.UPSTREAM_GONE, str(error), counts=short))

    # The parts of a reply.

    def _header_received(self, data: bytes, end: int) -> None:
        """Pass on the reply, or what has been received of it, or an error in its place.

        Two replies are exceptions: a ``FEAT`` reply is passed on when it is complete, and an
        ``OK`` to an unknown verb is not passed on, since it may have a body of which only the
        client knows the end.

        :param end: position of the header's line feed.
        """
        exchange = self._exchange
        command = exchange.command
        verb = VERBS.get(command.verb)
        framing = _NOTHING if verb is None else verb.framing
        try:
            header = parse_header(data[:end], framing)
        except WireError as malformed:
            self._fail_malformed(str(malformed))
            return
        if exchange.upstream.failures:
            exchange.upstream.succeeded()
        if exchange.resumption is not None:
            loss = exchange.resumption.check(header)
            if loss is not None:
                self.fail(loss)
                return
            # The header is not passed on.
            data, end = data[end + 1 :], -1
        elif exchange.sent is not command:
            if is_unsupported(header):
                text = UNKNOWN_COMMAND
                self.fail(Loss(Kind.UNSUPPORTED, Outcome.ERROR, text, None, text))
                return
            line = header_of_download(header)
            data, end = line + data[end:], len(line)
        error = header.error
        if error and exchange.upstream.header and is_reply_to_header(command, error):
            self._fail_malformed(NO_HEADER_EXPECTED)
            return
        listing = header.framing is _LISTING
        self._resources.table.relaying(self._entry, None if listing else header.size)
        if self._state is _CLOSED:
            return
        if exchange.resumption is not None:
            exchange.resumed()
        if listing:
            self._listing_received(data, end, header)
        elif verb is None and header.error is None and data[:end].split()[:1] == [b"OK"]:
            self._log_malformed(f"no framing is known for {printable(command.shown.verb, 80)}")
            self.fail(Loss(Kind.FINAL, Outcome.ERROR, UNKNOWN_COMMAND, None, UNKNOWN_COMMAND))
        elif len(data) > end + header.size:
            # Most replies are short: they are complete, and need no relay.
            self._entry.write(data[: end + 1 + header.size])
            self._finish()
        else:
            body = CountedBody(header.size)
            body.advance(len(data) - end - 1)
            self._relay_body(data, header, body)

    def _listing_received(self, data: bytes, end: int, header: Header) -> None:
        if self._exchange.command.verb == b"FEAT":
            self._advance(Event.FEATURES_BEGUN)
            self._features = AbilitiesReader(
                self._client.may_authenticate, self._resources.upstreams.common
            )
            self._features_received(data[end + 1 :])
            return
        body = ListingBody()
        begun, _ = body.take(data[end + 1 :])
        if body.complete:
            self._entry.write(data[: end + 1] + begun)
            self._finish()
        else:
            self._relay_body(data, header, body)

    def _relay_body(self, received: bytes, header: Header, body: Body) -> None:
        """Relay a reply of which a part has been received, which ``body`` has counted."""
        self._advance(Event.BODY_BEGUN)
        resources, exchange = self._resources, self._exchange
        resources.replies.cancel(self.reply_expired)
        self._body_received()
        if exchange.resumption is None:
            self._client.body_begun()
        exchange.body_begun(header)
        self._body = body
        if resources.minimum_rate.rate:
            silence = resources.replies.seconds
            self._sending = Sending(resources.minimum_rate, self._client.outbound, self, silence)
        self._relay = resources.relays.relay(
            SocketJob(
                header=received,
                body=body,
                size=header.size,
                source=self.transport,
                transport=self.transport,
                outbound=self._client.outbound,
                account=self._entry,
                progress=self._body_received,
                ended=self.relay_ended,
            )
        )
        self._relay.start()

    def _body_received(self) -> None:
        """Restart the time-out of the body; that of the header is never extended."""
        self._resources.replies.set(self.body_expired)

    def _features_received(self, data: bytes) -> None:
        try:
            body = self._features.feed(data)
        except WireError as malformed:
            self._fail_malformed(str(malformed))
            return
        if body is not None:
            self._exchange.features_received(body)
            self._entry.write(b"OK\n" + body)
            self._finish()

    # The ends of a reply.

    def _finish(self) -> None:
        self._close(_FINISHED)
        self._exchange.finished()
        self._resources.table.remove(self._entry, _COMPLETED)
        self._client.reply_finished()

    def fail(self, loss: Loss) -> None:
        """End the attempt: the command has another one, or gets an error in the reply's place."""
        self._close(Event.FAILED)
        self._exchange.failed(loss, self._entry)

    def _fail_malformed(self, reason: str) -> None:
        self._log_malformed(reason)
        text = PROXY_ERROR + reason
        self.fail(Loss(Kind.FINAL, Outcome.ERROR, text, BAD_GATEWAY, text, counts=True))

    def _log_malformed(self, reason: str) -> None:
        text = "the upstream {upstream} is not understood: {reason} (command of {client})"
        self._log_error(text, reason=reason)

    def _log_error(self, text: str, **fields: object) -> None:
        self._client.log.error(
            text, upstream=self._upstream, client=self._client.client_address, **fields
        )

    def _interrupt(self, text: str, **fields: object) -> None:
        """End the relay when it has handed on what was received; continue or abort the reply."""
        self._log_error(text, **fields)
        self._relay.stop()
        if self._state is _BODY:
            text = "the server was silent or too slow"
            self._break_off(Loss(Kind.LOST, Outcome.TIMEOUT, text, counts=True))

    def _break_off(self, loss: Loss) -> None:
        """End the attempt inside the body: it is continued by another one, or aborted."""
        self._close(Event.BROKEN_OFF)
        remaining = self._body.remaining if isinstance(self._body, CountedBody) else 0
        self._exchange.interrupted(loss, self._entry, remaining)

    def _close(self, event: Event) -> None:
        state = self._state
        self._state = TRANSITIONS[state][event]
        expired = self.body_expired if state is _BODY else self.reply_expired
        self._resources.replies.cancel(expired)
        if self._sending is not None:
            self._sending.stop()
            self._sending = None
        # A reset, not a close: the port is free at once instead of after 60 s in
        # TIME_WAIT, and a proxy that translates every command needs them all.
        self.transport.abortConnection()

    def _advance(self, event: Event) -> None:
        self._state = TRANSITIONS[self._state][event]
