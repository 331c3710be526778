"""How a client's connection is refused, and closes after everything that was sent is received."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from twisted.logger import Logger
from twisted.python.failure import Failure

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import LINE_TOO_LONG, error_line
from natproxy.relay import Outbound, Transport
from natproxy.server.admission import Refusal
from natproxy.server.lines import SlicedLineReceiver
from natproxy.server.state import ENDING, TRANSITIONS, Event, Input, State

if TYPE_CHECKING:
    from natproxy.server.factory import CommandFactory


class ClosingReceiver(SlicedLineReceiver):
    """A connection with its states, which may be refused, half-closes, lingers and closes.

    :cvar refusal_prefix: text that precedes the message when the connection is refused.
    :ivar outbound: where replies are written.
    :ivar state: what the connection is doing.
    :ivar input: what can still arrive from the client.
    """

    refusal_prefix: ClassVar[str] = ""

    log: Logger
    factory: CommandFactory
    transport: Transport
    outbound: Outbound

    def __init__(self) -> None:
        super().__init__()
        self.state, self.input = State.IDLE, Input.OPEN

    @cached_property
    def client_address(self) -> Address:
        """The client's address. Behind a PROXY header it is valid once the header has arrived."""
        return self.factory.address_of(self.transport.getPeer())

    # Implemented by the subclass.

    def take_turn(self) -> int:
        """Continue after a wait in the rotation; return the units used."""
        raise NotImplementedError

    def retry(self) -> None:
        """Call the gates again for the delayed command."""
        raise NotImplementedError

    def fail(self, failure: Failure) -> None:
        """Log an unexpected exception and abort the connection."""
        raise NotImplementedError

    def abort(self, outcome: Outcome) -> None:
        """Cancel the current command, if there is one, and reset the connection."""
        raise NotImplementedError

    def idle_expired(self) -> None:
        """Close or abort a connection whose client was idle for too long."""
        raise NotImplementedError

    # Called by the receiver of the PROXY header.

    def peer_identified(self) -> None:
        """Count the client to its host: the PROXY header with its address has arrived."""
        if self.factory.admission.per_host and self.state not in ENDING:
            self._refuse_client(self.factory.admission.identify(self, self.client_address))

    def header_refused(self, log: Logger, peer: str, reason: str) -> None:
        """Log that the PROXY header is malformed; the caller aborts the connection."""
        self.factory.log_header_refusal(log, peer, reason)

    # Called by Twisted and the factory's deadlines.

    def writeConnectionLost(self) -> None:
        """Wait a short time for the client to close: everything has been sent."""
        self.state = TRANSITIONS[self.state][Event.FLUSHED]
        if self.input is Input.ENDED:
            self._close_transport()
        else:
            self._start_linger_timer()

    def linger_expired(self) -> None:
        """Close a connection whose client has not closed; abort one that does not end."""
        if self.state is State.LINGERING:
            self._close_transport()
        else:
            self.abort(Outcome.TIMEOUT)

    # Called by the subclass.

    def _refuse_client(self, refusal: Refusal | None) -> None:
        if refusal is None:
            return
        self.factory.log_refusal(self.log, self.client_address, refusal.message)
        if refusal.sent:
            self.refuse(self.refusal_prefix + refusal.message)
        else:
            self.abort(Outcome.ERROR)

    def refuse(self, message: str) -> None:
        """Send ``ERR`` and a message, and close the connection. No command may be under way."""
        self.outbound.write(error_line(message))
        self._close(linger=True)

    def _finish(self) -> None:
        """Close after the last reply."""
        if self.input is Input.TOO_LONG:
            self.refuse(LINE_TOO_LONG)
        else:
            self._close(linger=self.input is Input.OPEN)

    def _close(self, linger: bool) -> None:
        # A close with input unread resets the connection, and the client loses what it has not
        # received yet (RFC 1122, 4.2.2.13). So half-close first, and read.
        self._end(Event.HALF_CLOSE if linger else Event.CLOSE)
        self._restart_idle_timer()
        if linger and self.outbound.half_close():
            self.transport.resumeProducing()
            return
        if linger:
            self.state = TRANSITIONS[self.state][Event.CLOSE]
        self.outbound.close()

    def _close_transport(self) -> None:
        if self.state is not State.CLOSED:
            self.state = TRANSITIONS[self.state][Event.CLOSE]
            self.transport.loseConnection()

    def _end(self, event: Event) -> None:
        """Change to a state in which no command begins."""
        if self.state is State.WAITING:
            self.factory.rotation.leave(self)
        elif self.state is State.DELAYED:
            self.factory.delays.leave(self)
        if self.paused or self.input is not Input.OPEN:
            self.factory.resets.unwatch(self)
        self.discard_kept()
        self.state = TRANSITIONS[self.state][event]

    def _restart_idle_timer(self) -> None:
        self.factory.idle.set(self.idle_expired)

    def _start_linger_timer(self) -> None:
        self.factory.idle.cancel(self.idle_expired)
        self.factory.lingering.set(self.linger_expired)
