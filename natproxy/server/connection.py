"""A connection that takes commands and has them answered one at a time, in order.

Both daemons meet their clients through it: here are the bounded line and the bounded
queue, the half-close, the time-outs and the orderly ends that the two have in common.
What a command means is not known here; see `natproxy.fileserver`, `natproxy.proxy`.
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import (
    LINE_TOO_LONG,
    MAX_LINE,
    Command,
    error_line,
    parse_command,
)
from natproxy.relay import Outbound, Transport, outbound_of
from natproxy.server.admission import Refusal
from natproxy.server.factory import CommandFactory
from natproxy.server.rotation import BYTES_PER_UNIT, COMMAND_UNITS, SHARE, line_units

QUEUE_LIMIT = 64
"""Commands of one client that wait; with so many, it is not read from any more."""

NEVER = -1.0
"""When a command was first answered, on a connection that has sent none."""

# LineReceiver copies its buffer for each line in it (twisted#6357), so that the time for
# 64 KiB of line feeds grows with the square of their number. Slices bound the copies, and
# LineReceiver stops between two lines while `paused` is set, which bounds the lines of a turn.
_SLICE = 1024


@implementer(IHalfCloseableProtocol)
class CommandReceiver(LineReceiver):
    """Server side of a connection: lines in, one reply at a time out.

    A subclass answers in `command_received` and says `reply_finished` when all of the
    reply has been written to `outbound`. Until then, further commands wait. The peer's
    turn to act is limited to the factory's idle time: to send its next command, or to
    read on while a reply is held up by it.

    The work of one turn of the reactor is bounded, whatever the client sends: see
    `natproxy.server.rotation`. A connection that has used up its share is paused (neither parsed
    nor read) and waits in the factory's rotation.

    :cvar command_units: of starting a command and receiving its reply.
    :ivar outbound: where replies go.
    :ivar started_at: the clock's time in seconds at which the current command began.
    :ivar command: the command that is being answered, or `None`.
    :cvar refusal_prefix: what an error that refuses the whole connection begins with.
    """

    refusal_prefix: ClassVar[str] = ""

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE
    command_units = COMMAND_UNITS

    log: Logger
    factory: CommandFactory
    transport: Transport
    outbound: Outbound

    def __init__(self) -> None:
        self._client_address: Address | None = None
        self.command: Command | None = None
        self._queue: deque[Command] = deque()
        self._received = b""
        self.started_at = NEVER
        self._starting = False
        self._units = 0
        self._too_long = False
        self._input_over = False
        self._draining = False
        self._closing = False
        self._sent_all = False

    @property
    def client_address(self) -> Address:
        """Who is asking; behind a PROXY header, known when the first command has come."""
        if self._client_address is None:
            self._client_address = self.factory.address_of(self.transport.getPeer())
        return self._client_address

    # What a subclass fills in.

    def command_received(self, command: Command) -> None:
        """Begin to answer; call `reply_finished` at the end of it."""
        raise NotImplementedError

    def cancel_command(self, outcome: Outcome) -> None:
        """Drop the command in `command`: its client can't have the reply."""
        raise NotImplementedError

    # What a subclass calls.

    def reply_finished(self) -> None:
        """All of the reply to the current command has been written."""
        self.command = None
        self._wait()
        self._next()

    def reply_error(self, message: str, code: int | None = None) -> None:
        """Answer the current command with ``ERR``, a code of version 2, and a message."""
        self.outbound.write(error_line(message, code))
        self.reply_finished()

    def refuse(self, message: str) -> None:
        """Send ``ERR`` and a message, and close."""
        self.outbound.write(error_line(message))
        self._close(linger=True)

    def abort(self, outcome: Outcome) -> None:
        """Reset the connection, in the middle of a reply as well."""
        self._closing = True
        try:
            self._drop_answer(outcome)
        finally:
            self.transport.abortConnection()

    def fail(self, failure: Failure) -> None:
        """Log an unexpected exception and abort the connection.

        The client would wait for ever otherwise: no time-out expires while a command is answered.
        """
        self.log.failure("cannot answer {client}", failure, client=self.client_address)
        self.abort(Outcome.ERROR)

    def drain(self) -> None:
        """Finish the command that is being answered, take no other, and close."""
        self._draining = True
        self._queue.clear()
        if self.command is None and not self._closing:
            self._close(linger=self.paused or self.outbound.paused)

    # What Twisted calls.

    def connectionMade(self) -> None:
        """Start to wait for commands, or refuse the connection."""
        self.outbound = outbound_of(self.transport, self._outbound_changed)
        self.factory.connections.add(self)
        self._wait()
        self.factory.await_first_command(self._first_command_overdue)
        admission = self.factory.admission
        known = bool(admission.per_host) and not getattr(self.transport, "peer_pending", False)
        refusal = admission.admit(self, self.client_address if known else None)
        if refusal is not None:
            self._turn_away(refusal)

    def peer_identified(self) -> None:
        """The PROXY header has been received: the client's address is known from now on."""
        if self.factory.admission.per_host and not self._closing:
            refusal = self.factory.admission.identify(self, self.client_address)
            if refusal is not None:
                self._turn_away(refusal)

    def header_refused(self, log: Logger, peer: str, reason: str) -> None:
        """The PROXY header is malformed; the connection is aborted."""
        self.factory.log_header_refusal(log, peer, reason)

    def dataReceived(self, data: bytes) -> None:
        """Parse received bytes, for one share of work; keep them while paused."""
        if self._closing:
            return
        self._received += data
        if not self.paused:
            self._units = SHARE
            self._parse()
            self._continue()
            self.factory.rotation.spend(SHARE - self._units)

    def resumeProducing(self) -> None:
        """Parse what was kept, and read on if that leaves work to do in this turn."""
        self.paused = False
        self._parse()
        if not (self.paused or self._closing):
            self.transport.resumeProducing()

    def lineReceived(self, line: bytes) -> None:
        """Queue a command; pause when the queue is full or the share is used up."""
        command = parse_command(line)
        if command is not None and not (self._closing or self._draining):
            self._queue.append(command)
            self._begin()
        self._units -= line_units(line)
        if (self._units <= 0 or len(self._queue) >= QUEUE_LIMIT) and not self._closing:
            self.pauseProducing()

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answer what came before the line, then say what is wrong, and close."""
        self.pauseProducing()
        self._too_long = True

    def take_turn(self) -> int:
        """Continue after a pause, for one share of work; return the units used."""
        self._units = SHARE
        self._begin()
        if self.paused and self._units > 0 and self._ready() and not self._too_long:
            self.resumeProducing()
        self._continue()
        return SHARE - self._units

    def readConnectionLost(self) -> None:
        """The client has half-closed: what it has asked for is still answered."""
        self._input_over = True
        if self._closing:
            self.transport.loseConnection()
        else:
            self._next()

    def writeConnectionLost(self) -> None:
        """Everything has been sent: now the client may close, for a while."""
        self._sent_all = True
        if self._input_over:
            self.transport.loseConnection()
        else:
            self._linger()

    def time_is_up(self) -> None:
        """Act on the end of the idle time-out or of the linger time-out."""
        if self._closing and self._sent_all:
            self.transport.loseConnection()
        elif self._closing or self.outbound.paused:
            self.abort(Outcome.TIMEOUT)
        elif self.command is not None or self in self.factory.rotation:
            self._wait()
        else:
            self._close(linger=False)
            self._linger()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Drop everything that was under way for this client."""
        self._closing = True
        self.factory.idle.cancel(self.time_is_up)
        self.factory.lingering.cancel(self.time_is_up)
        self.factory.rotation.leave(self)
        self.factory.first_commands.cancel(self._first_command_overdue)
        self._queue.clear()
        try:
            self._drop_answer(Outcome.CLIENT_GONE)
        finally:
            # Whatever has failed, the client's place is free again.
            self.factory.connection_ended(self)

    # The rest is our own.

    def _turn_away(self, refusal: Refusal) -> None:
        self.factory.log_refusal(self.log, self.client_address, refusal.message)
        if refusal.sent:
            self.refuse(self.refusal_prefix + refusal.message)
        else:
            self.abort(Outcome.ERROR)

    def _first_command_overdue(self) -> None:
        """Close the connection if it has not sent a complete command yet."""
        if self.started_at == NEVER and not self._queue and not self._closing:
            self._close(linger=False)
            self._linger()

    def _next(self) -> None:
        # A reply that is finished at once returns here: the loop in `_begin` goes on.
        rotation = self.factory.rotation
        if self._starting or self in rotation or not self._ready():
            return
        if self._queue and rotation.exhausted:
            rotation.join(self)
            return
        self._units = SHARE
        self._begin()
        self._continue()
        rotation.spend(SHARE - self._units)

    def _parse(self) -> None:
        # First what LineReceiver holds already, so that its buffer never grows by slices.
        super().dataReceived(b"")
        while self._received and not (self.paused or self._closing):
            piece, self._received = self._received[:_SLICE], self._received[_SLICE:]
            super().dataReceived(piece)

    def _begin(self) -> None:
        """Begin queued commands until one is not finished at once, or the share is used up."""
        if self._starting:
            return
        self._starting = True
        try:
            while self._queue and self._units > 0 and self._ready():
                self.command = self._queue.popleft()
                # A long name is also decoded, looked up and logged.
                self._units -= self.command_units + len(self.command.line) // BYTES_PER_UNIT
                self.started_at = self.factory.clock.seconds()
                try:
                    self.command_received(self.command)
                except Exception:
                    self.fail(Failure())
        finally:
            self._starting = False

    def _continue(self) -> None:
        """Decide what follows when nothing more is to be done in this event."""
        if not self._ready():
            # The end of the reply, or the peer's reading, calls `_next`.
            return
        if self._queue:
            self.factory.rotation.join(self)
        elif self._too_long:
            self.refuse(LINE_TOO_LONG)
        elif self._draining:
            self._close(linger=not self._input_over)
        elif self.paused:
            self.factory.rotation.join(self)
        elif self._input_over:
            self._close(linger=False)

    def _drop_answer(self, outcome: Outcome) -> None:
        if self.command is not None:
            try:
                self.cancel_command(outcome)
            finally:
                self.command = None

    def _ready(self) -> bool:
        return self.command is None and not self.outbound.paused and not self._closing

    def _wait(self) -> None:
        self.factory.idle.set(self.time_is_up)

    def _linger(self) -> None:
        self.factory.idle.cancel(self.time_is_up)
        self.factory.lingering.set(self.time_is_up)

    def _outbound_changed(self) -> None:
        self._wait()
        if not self.outbound.paused:
            self._next()

    def _close(self, linger: bool) -> None:
        # To close with input unread resets the connection, and what the client has
        # not yet received is lost (RFC 1122, 4.2.2.13). So first half-close and read.
        self._closing = True
        self._received = b""
        self._wait()
        if linger and self.outbound.half_close():
            self.transport.resumeProducing()
        else:
            self.outbound.close()
