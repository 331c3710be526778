"""A client's connection: it receives commands and replies to them one at a time, in order.

It bounds lines, the queue and the work of a reactor turn, and handles half-close and time-outs.
Its states are in `natproxy.server.state`; its subclasses execute commands or proxy them.
"""

from __future__ import annotations

from collections import deque

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from natproxy.access import PROCEED, Action, Caller, Gate, admit, ended
from natproxy.nat import Outcome
from natproxy.protocol import AUTH, Command, error_line, parse_command
from natproxy.relay import outbound_of
from natproxy.server.delays import Place
from natproxy.server.identity import IdentifiedReceiver
from natproxy.server.lines import SLICE
from natproxy.server.rotation import BYTES_PER_UNIT, COMMAND_UNITS, QUEUE_LIMIT, SHARE
from natproxy.server.state import (
    ENDING,
    INPUT_TRANSITIONS,
    OPEN,
    TRANSITIONS,
    Event,
    Input,
    InputEvent,
    State,
)
from natproxy.server.teardown import NEVER

# Before Python 3.12, looking up a member of an Enum class calls Python code.
_IDLE, _DISPATCHING, _DRAINING = State.IDLE, State.DISPATCHING, State.DRAINING
_DISPATCH, _DISPATCHED = Event.DISPATCH, Event.DISPATCHED
_UNFINISHED, _REPLIED = Event.UNFINISHED, Event.REPLIED
_INPUT_OPEN, _TOO_LONG = Input.OPEN, Input.TOO_LONG


@implementer(IHalfCloseableProtocol)
class CommandReceiver(IdentifiedReceiver):
    """Server side of a client's connection.

    A subclass replies in `command_received` and calls `reply_finished` when it has written
    the whole reply to `outbound`. Further commands wait until then. The factory's idle time-out
    limits the time for the client's next command, and for reading on when a reply waits for it.

    The work of one reactor turn is bounded: see `natproxy.server.rotation`. A connection that has
    used up its share of work waits in the factory's rotation, usually with reading paused.

    :cvar command_units: units of work of beginning a command and receiving its reply.
    """

    command_units = COMMAND_UNITS

    # The gates that have let the current command proceed, and as whose.
    _passed: tuple[Gate, ...] = ()
    _passed_as: Caller
    _delayed_at = NEVER
    _metered_as: Caller | None = None

    def __init__(self) -> None:
        super().__init__()
        self._queue: deque[Command] = deque()
        self._units = 0

    # Implemented by subclasses.

    def command_received(self, command: Command) -> None:
        """Begin to reply to a command; `reply_finished` must be called at the end of the reply."""
        raise NotImplementedError

    def cancel_command(self, outcome: Outcome) -> None:
        """Cancel the command in `command`: its reply cannot be delivered."""
        raise NotImplementedError

    @property
    def queued(self) -> bool:
        """Whether a command waits to begin."""
        return bool(self._queue)

    # Called by subclasses.

    def reply_finished(self) -> None:
        """Continue after the reply to the current command has been written."""
        self.state = state = TRANSITIONS[self.state][_REPLIED]
        if self._passed:
            self.end_command()
        self.command = None
        self.factory.idle.set(self.idle_expired)
        if state is _IDLE:
            # Usually the client waits for the reply, and there is nothing to continue with.
            if self._queue or self.paused or self.input is not _INPUT_OPEN:
                self._next()
        elif state is not _DISPATCHING:
            # A reply that is finished at once returns to the loop in `_dispatch`.
            self._next()

    def end_command(self) -> None:
        """Clear the current command, and note its end at the gates that it has passed."""
        command, passed = self.command, self._passed
        self.command, self._passed = None, ()
        if command is not None and passed:
            ended(passed, command, self._passed_as)
            self.factory.delays.wake()

    def reply_error(self, message: str, code: int | None = None) -> None:
        """Reply to the current command with ``ERR``, a code of version 2, and a message."""
        self.outbound.write(error_line(message, code))
        self.reply_finished()

    def abort(self, outcome: Outcome) -> None:
        """Cancel the current command, if there is one, and reset the connection."""
        self._end(Event.ABORT)
        try:
            self._cancel_command(outcome)
        finally:
            self.transport.abortConnection()

    def fail(self, failure: Failure) -> None:
        """Log an unexpected exception and abort the connection."""
        # No time-out applies while a command is under way: the client would wait for ever.
        self.log.failure("cannot reply to {client}", failure, client=self.client_address)
        self.abort(Outcome.ERROR)

    # Called by the factory, its rotation, and the receiver of the PROXY header.

    def drain(self) -> None:
        """Finish the current command, begin no other, and close."""
        self._queue.clear()
        if self.state in ENDING:
            return
        if self.command is None:
            self._close(linger=self.paused or self.outbound.paused)
        else:
            self.state = TRANSITIONS[self.state][Event.DRAIN]

    def take_turn(self) -> int:
        """Continue after a wait in the rotation, for one share of work; return the units used."""
        self.state = TRANSITIONS[self.state][Event.TURN]
        self._units = SHARE
        self._dispatch()
        ready = self.state is _IDLE and not self.outbound.paused
        if ready and self.paused and self._units > 0 and self.input is not _TOO_LONG:
            self.resumeProducing()
        self._continue()
        return SHARE - self._units

    def retry(self) -> None:
        """Call the gates again for the delayed command: its turn in the line has come."""
        self.state = TRANSITIONS[self.state][Event.RETRY]
        # One command: the others that the client has sent wait in the rotation.
        self._units = self.command_units
        self._dispatch()
        self._continue()

    # Called by Twisted.

    def pauseProducing(self) -> None:
        """Pause reading; until it is resumed, the reactor does not report a reset."""
        super().pauseProducing()
        if self.state not in ENDING:
            self.factory.resets.watch(self)

    def connectionMade(self) -> None:
        """Wait for commands, or refuse the client."""
        self.outbound = outbound_of(self.transport, self._outbound_changed)
        self.factory.connections.add(self)
        self._restart_idle_timer()
        self.limit_first_command()
        admission = self.factory.admission
        known = bool(admission.per_host) and not getattr(self.transport, "peer_pending", False)
        self._refuse_client(admission.enter(self, self.client_address if known else None))

    def dataReceived(self, data: bytes) -> None:
        """Parse received bytes for one share of work; keep them while paused."""
        if self.state in ENDING:
            return
        if self.paused:
            self.keep(data)
            return
        self._units = SHARE
        end = len(data) - 1
        if self.at_line_start and end < SLICE and data.find(b"\n") == end:
            # One whole command, as nearly always: `LineReceiver` would do no more.
            self.lineReceived(data[:end])
        else:
            super().dataReceived(data)
        if self.state is _IDLE:
            self._continue()
        self.factory.rotation.left -= SHARE - self._units

    def resumeProducing(self) -> None:
        """Parse the bytes that were kept; resume reading if work is left in this share."""
        self.factory.resets.unwatch(self)
        self.parse_kept()
        if not self.paused and self.state not in ENDING:
            # After a half-close, the transport reports the end again.
            self.transport.resumeProducing()

    def lineReceived(self, line: bytes) -> None:
        """Queue a command; pause when the queue is full or the share is used up."""
        command = parse_command(line)
        if command is not None and self.state in OPEN:
            self._queue.append(command)
            self._dispatch()
        self._units -= 1 + len(line) // BYTES_PER_UNIT
        if (self._units <= 0 or len(self._queue) >= QUEUE_LIMIT) and self.state not in ENDING:
            self.pauseProducing()

    def lineLengthExceeded(self, line: bytes) -> None:
        """Stop parsing. An error follows the replies to the commands before the line."""
        self.pauseProducing()
        self.input = INPUT_TRANSITIONS[self.input][InputEvent.LINE_TOO_LONG]

    def readConnectionLost(self) -> None:
        """Reply to what was received, and then close: the client has half-closed."""
        self.input = INPUT_TRANSITIONS[self.input][InputEvent.END]
        if self.state in ENDING:
            self._close_transport()
            return
        self._next()
        if self.state not in ENDING:
            self.factory.resets.watch(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel everything that was under way for this client."""
        self._end(Event.LOST)
        self.cancel_timeouts()
        if self.attempts is not None:
            self.factory.authenticator.forget(self)
        self._queue.clear()
        try:
            self._cancel_command(Outcome.CLIENT_GONE)
        finally:
            # Whatever has failed, the client's place is free again.
            self.factory.connection_ended(self)

    # Beginning commands.

    def _next(self) -> None:
        """Continue after an event other than received bytes."""
        if self.outbound.paused:
            return
        if self.state is _IDLE:
            if not self._queue:
                self._continue()
            elif self.factory.rotation.exhausted:
                self._wait_for_turn()
            else:
                self._units = SHARE
                self._dispatch()
                self._continue()
                self.factory.rotation.left -= SHARE - self._units
        elif self.state is _DRAINING and self.command is None:
            self._finish()

    def _dispatch(self) -> None:
        """Begin queued commands until a reply is not finished at once or the share is used up."""
        if self.state is not _IDLE:
            return
        self.state = TRANSITIONS[_IDLE][_DISPATCH]
        queue, factory, outbound = self._queue, self.factory, self.outbound
        gates = factory.gates
        while queue and self._units > 0 and not outbound.paused:
            command = queue.popleft()
            # A long name is also decoded, looked up and logged.
            self._units -= self.command_units + len(command.line) // BYTES_PER_UNIT
            if self.started_at == NEVER and hasattr(self.transport, "getPeerCertificate"):
                # The first command: the handshake of TLS has ended.
                self.find_certificate()
            self.started_at = factory.clock.seconds()
            try:
                if AUTH in command.verb:
                    # No subclass and no gate receives it, and nothing keeps its token.
                    self.command = command.shown
                    self._units -= factory.authenticator.units
                    factory.authenticator.begin(self, command)
                elif (not gates and self._delayed_at == NEVER) or self._admit(command, gates):
                    self.command = command
                    self.command_received(command)
            except Exception:
                self.fail(Failure())
            if self.command is not None or self.state is not _DISPATCHING:
                break
        if self.state is _DISPATCHING:
            self.state = TRANSITIONS[_DISPATCHING][_UNFINISHED if self.command else _DISPATCHED]

    def _admit(self, command: Command, gates: tuple[Gate, ...]) -> bool:
        """Return whether a command may begin; otherwise, delay it or reply with an error."""
        client, delays = self.caller, self.factory.delays
        verdict = admit(gates, command, client)
        delayed = self._delayed_at != NEVER
        if delayed:
            # The time of the delay is a part of the command's.
            self.started_at, self._delayed_at = self._delayed_at, NEVER
        if verdict is PROCEED:
            self._passed, self._passed_as = gates, client
            bandwidth = self.factory.bandwidth
            if bandwidth is not None and self._metered_as is not client:
                self.outbound.meter = bandwidth.meter(client)
                self._metered_as = client
            return True
        last, now = self.started_at + delays.longest, self.factory.clock.seconds()
        due = now + verdict.seconds
        if verdict.action is Action.DELAY and now < last and (verdict.at_end or due <= last):
            if not delayed:
                self.factory.counts.delay(verdict, client)
            self._queue.appendleft(command)
            self._delayed_at = self.started_at
            self.state = TRANSITIONS[self.state][Event.DELAY]
            place = Place(verdict.reason, client.host)
            delays.join(self, place, due, last, verdict.at_end)
        else:
            self.factory.counts.refuse(verdict, client)
            self.refuse_command(command, verdict)
        return False

    def _continue(self) -> None:
        """Decide what follows when no further work is done for this event."""
        if self.state is not _IDLE or self.outbound.paused:
            # `_next` is called at the end of the reply, or when the client reads.
            return
        if self._queue or (self.paused and self.input is not _TOO_LONG):
            self._wait_for_turn()
        elif self.input is not _INPUT_OPEN:
            self._finish()

    def _wait_for_turn(self) -> None:
        self.state = TRANSITIONS[self.state][Event.SHARE_USED]
        self.factory.rotation.join(self)

    def _outbound_changed(self) -> None:
        self._restart_idle_timer()
        if not self.outbound.paused:
            self._next()
        else:
            self.measure_reading()

    def _cancel_command(self, outcome: Outcome) -> None:
        if self.command is not None:
            try:
                if self.command.secret:
                    self.factory.authenticator.cancel(self)
                else:
                    self.cancel_command(outcome)
            finally:
                self.end_command()
