"""How a client's connection ends: refused, after a time-out, or after all has been received.

Each phase of a connection has a time-out: docs/limits.md has a table of them.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import LINE_TOO_LONG, Command, error_line
from natproxy.relay import Outbound, Transport
from natproxy.server.admission import Refusal
from natproxy.server.deadlines import Expiry
from natproxy.server.lines import SlicedLineReceiver
from natproxy.server.minimum_rate import Reading
from natproxy.server.state import ENDING, TRANSITIONS, Event, Input, State

if TYPE_CHECKING:
    from natproxy.server.factory import CommandFactory


NEVER = -1.0
"""`ClosingReceiver.started_at` of a connection on which no command has begun."""


LEAST_EXTENSION = 1.0
"""Seconds by which the body's time-out is extended at least while the clocks stand still."""


class ClosingReceiver(SlicedLineReceiver):
    """A connection with its states, which may be refused, times out, half-closes and closes.

    :cvar refusal_prefix: text that precedes the message when the connection is refused.
    :ivar outbound: where replies are written.
    :ivar state: what the connection is doing.
    :ivar input: what can still arrive from the client.
    :ivar command: the command that is being replied to, or ``None``.
    :ivar started_at: the clock's time in seconds at which the current command began.
    :ivar suspended: whether the client's clocks stand still: it waits for a body to continue.
    """

    refusal_prefix: ClassVar[str] = ""

    log: Logger
    factory: CommandFactory
    transport: Transport
    outbound: Outbound

    _reading: Reading | None = None
    # `started_at`, when the idle time-out expired last and the connection was kept.
    _expired_after: float | None = None
    # `started_at` of the last command whose reply has a body that is not sent at once.
    _body_of = NEVER
    suspended = False
    # Seconds for which the clocks have stood still and which the body's time-out does not have yet.
    _suspended_for = 0.0
    _suspended_at = 0.0
    _body_timer: IDelayedCall | None = None

    def __init__(self) -> None:
        super().__init__()
        self.state, self.input = State.IDLE, Input.OPEN
        self.command: Command | None = None
        self.started_at = NEVER

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

    @property
    def queued(self) -> bool:
        """Whether a command waits to begin."""
        raise NotImplementedError

    @property
    def replying(self) -> bool:
        """Whether a command is under way."""
        return self.command is not None

    # Called by the subclass, and by what sends a body.

    def limit_first_command(self) -> None:
        """Limit the time until the first command, and with it of PROXY header and handshake."""
        if self.factory.first_commands.seconds:
            self.factory.first_commands.set(self.first_command_expired)

    def line_begun(self) -> None:
        """Limit the time until the end of a line of which a part has been received."""
        if self.factory.lines.seconds:
            self.factory.lines.set(self.line_expired)

    def body_begun(self) -> None:
        """Limit the time of the current reply's body, which is not sent at once."""
        if self.factory.bodies.seconds:
            # The deadline is not cancelled at the end of the body: most replies have none.
            self._body_of = self.started_at
            self._suspended_for = 0.0
            self.factory.bodies.set(self.body_took_too_long)

    def reply_suspended(self) -> None:
        """Stop the client's clocks: its body waits for another upstream connection."""
        self.suspended = True
        self._suspended_at = self.factory.clock.seconds()

    def reply_resumed(self) -> None:
        """Let the client's clocks continue."""
        self._suspended_for += self.factory.clock.seconds() - self._suspended_at
        self.suspended = False

    def measure_reading(self) -> None:
        """Measure how fast the client reads, from now on: it holds a reply up."""
        minimum = self.factory.minimum_rate
        if minimum.rate and (self._reading is None or self._reading.ended):
            self._reading = minimum.watch(self)

    def cancel_timeouts(self) -> None:
        """Cancel all time-outs: the connection is lost."""
        factory = self.factory
        factory.idle.cancel(self.idle_expired)
        factory.lingering.cancel(self.linger_expired)
        factory.first_commands.cancel(self.first_command_expired)
        factory.lines.cancel(self.line_expired)
        factory.bodies.cancel(self.body_took_too_long)
        if self._body_timer is not None and self._body_timer.active():
            self._body_timer.cancel()
        if self._reading is not None:
            self._reading.stop()

    # Called by the receiver of the PROXY header.

    def peer_identified(self) -> None:
        """Count the client to its host: the PROXY header with its address has arrived."""
        if self.state in ENDING:
            return
        if self.factory.too_fast(self.client_address):
            self.abort(Outcome.ERROR)
        elif self.factory.admission.per_host:
            self._refuse_client(self.factory.admission.identify(self, self.client_address))

    def header_refused(self, log: Logger, peer: str, reason: str) -> None:
        """Log that the PROXY header is malformed; the caller aborts the connection."""
        self.factory.log_header_refusal(log, peer, reason)

    def handshake_failed(self, reason: str) -> None:
        """Log that the client's TLS handshake has failed: the connection ends."""
        self.factory.log_handshake_failure(self.log, self.client_address, reason)

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

    def idle_expired(self) -> None:
        """Close an idle connection; abort one whose client does not read or that does not end."""
        if (self.outbound.paused and not self.suspended) or self.state in ENDING:
            if self.state not in ENDING:
                self.factory.disconnected[Expiry.IDLE] += 1
            self.abort(Outcome.TIMEOUT)
        elif self.state is State.IDLE or (
            self.state is State.WAITING and self._expired_after == self.started_at
        ):
            self._close_expired(Expiry.IDLE)
        else:
            # What waits in the rotation may be a command; if there is none by the next time, the
            # client sends blank lines only.
            self._expired_after = self.started_at
            self._restart_idle_timer()

    def first_command_expired(self) -> None:
        """Close the connection if it has not sent a complete command yet."""
        if self.started_at == NEVER and not self.queued and self.state not in ENDING:
            self._close_expired(Expiry.FIRST_COMMAND)

    def line_expired(self) -> None:
        """Close the connection if its client has not sent the end of a line yet."""
        ended = self.at_line_start or self.input is not Input.OPEN or self.state in ENDING
        if ended:
            return
        if self.state is State.IDLE and not self.paused:
            self._close_expired(Expiry.LINE)
        else:
            # The daemon does not read, or another command has to end first.
            self.line_begun()

    def body_took_too_long(self) -> None:
        """Abort the connection if the body is still being sent."""
        if self.command is not None and self._body_of == self.started_at:
            if self.suspended or self._suspended_for:
                self._extend_body()
                return
            self.factory.disconnected[Expiry.BODY] += 1
            self.factory.log_long_body(self.log, self.client_address)
            self.abort(Outcome.TIMEOUT)

    def _extend_body(self) -> None:
        """Extend the body's time-out by the time for which the client's clocks stood still."""
        clock = self.factory.clock
        if self.suspended:
            self.reply_resumed()
            self.reply_suspended()
        extended = max(self._suspended_for, LEAST_EXTENSION if self.suspended else 0.0)
        self._suspended_for = 0.0
        self._body_timer = clock.callLater(extended, self.body_took_too_long)

    def reads_too_slowly(self) -> None:
        """Abort the connection: its client has taken fewer bytes than the minimum rate."""
        self.factory.disconnected[Expiry.MIN_RATE] += 1
        self.factory.log_slow_reader(self.log, self.client_address)
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

    def _close_expired(self, expiry: Expiry) -> None:
        """Close the connection, whose client has sent no command in time."""
        self.factory.disconnected[expiry] += 1
        self._close(linger=False)
        self._start_linger_timer()

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
