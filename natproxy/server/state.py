"""The states of a client's connection, and the table of their transitions.

A connection has two states, each with its own table of transitions:

- its `State`: whether a command is under way, and how far the connection is closed;
- its `Input`: whether further commands can arrive from the client.

A state changes only by ``state = TRANSITIONS[state][event]``. A pair that the table does not
contain is a bug of the caller and raises `IllegalTransition`. This module does no I/O: the caller
writes, closes and sets deadlines.

The attributes of other objects are not repeated as states: whether the client reads is
``outbound.paused``, and whether received bytes are parsed is ``LineReceiver.paused``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar


class Symbol(Enum):
    """An enumeration whose members are hashed by identity.

    ``Enum.__hash__`` is a Python function, which is too slow for several look-ups per command.
    """

    __hash__ = object.__hash__


S = TypeVar("S", bound=Symbol)
E = TypeVar("E", bound=Symbol)


class IllegalTransition(Exception):
    """An event that cannot occur in a state: a bug of the caller."""


class Row(dict[E, S]):
    """The events that are legal in one state, each with the next state.

    Any other event raises `IllegalTransition`.

    :param state: the state, for the message of the exception.
    :param events: the next state by event.
    """

    def __init__(self, state: S, events: Mapping[E, S]) -> None:
        super().__init__(events)
        self._state = state

    def __missing__(self, event: E) -> S:
        raise IllegalTransition(f"{event.name} in state {self._state.name}")


def transition_table(table: Mapping[S, Mapping[E, S]]) -> dict[S, Row[E, S]]:
    """Return a table that raises `IllegalTransition` for a pair that it does not contain."""
    return {state: Row(state, events) for state, events in table.items()}


class State(Symbol):
    """What a connection is doing."""

    IDLE = "idle"
    """No command is under way; the next one begins when it arrives and the client reads."""
    DISPATCHING = "dispatching"
    """Queued commands are being started; a reply that finishes at once does not end this state."""
    REPLYING = "replying"
    """One command is under way; others wait in the queue."""
    WAITING = "waiting"
    """The connection's share of work is used up; it waits for a turn in the rotation."""
    DELAYED = "delayed"
    """The next command waits, by the verdict of a gate, and is tried again."""
    DRAINING = "draining"
    """The current reply is the last one; the connection closes after it."""
    FLUSHING = "flushing"
    """Half-closed after the last reply: buffered bytes are sent, input is read and discarded."""
    LINGERING = "lingering"
    """Everything has been sent; the client has a short time to close first."""
    CLOSING = "closing"
    """The transport sends its buffered bytes and closes."""
    CLOSED = "closed"
    """Aborted or lost."""


class Event(Symbol):
    """An event that can change the `State`."""

    DISPATCH = "dispatch"
    """Start queued commands."""
    DISPATCHED = "dispatched"
    """No further command is started now, and none is under way."""
    UNFINISHED = "unfinished"
    """The command that was started last has no complete reply yet."""
    REPLIED = "replied"
    """The reply to the current command has been written."""
    SHARE_USED = "share used"
    """The connection's share of work is used up, and there is more work."""
    TURN = "turn"
    """The connection's turn in the rotation has come."""
    DELAY = "delay"
    """A gate delays the next command."""
    RETRY = "retry"
    """The delay is over: the next command is tried again."""
    DRAIN = "drain"
    """The daemon stops while a command is under way."""
    HALF_CLOSE = "half-close"
    """Close the sending direction, so that unread input does not reset the connection."""
    CLOSE = "close"
    """Close both directions."""
    FLUSHED = "flushed"
    """The transport has sent everything."""
    ABORT = "abort"
    """Reset the connection."""
    LOST = "lost"
    """The transport reports the end of the connection."""


_END = {Event.ABORT: State.CLOSED, Event.LOST: State.CLOSED}
_CLOSE = {Event.HALF_CLOSE: State.FLUSHING, Event.CLOSE: State.CLOSING}

TRANSITIONS = transition_table(
    {
        State.IDLE: {
            Event.DISPATCH: State.DISPATCHING,
            Event.SHARE_USED: State.WAITING,
            **_CLOSE,
            **_END,
        },
        State.DISPATCHING: {
            Event.REPLIED: State.DISPATCHING,
            Event.DISPATCHED: State.IDLE,
            Event.UNFINISHED: State.REPLYING,
            Event.DELAY: State.DELAYED,
            Event.DRAIN: State.DRAINING,
            **_CLOSE,
            **_END,
        },
        State.REPLYING: {
            Event.REPLIED: State.IDLE,
            Event.DRAIN: State.DRAINING,
            **_END,
        },
        State.WAITING: {
            Event.TURN: State.IDLE,
            **_CLOSE,
            **_END,
        },
        State.DELAYED: {
            Event.RETRY: State.IDLE,
            **_CLOSE,
            **_END,
        },
        State.DRAINING: {
            # The connection closes once the client has read; until then it stays here.
            Event.REPLIED: State.DRAINING,
            Event.DRAIN: State.DRAINING,
            **_CLOSE,
            **_END,
        },
        State.FLUSHING: {
            Event.FLUSHED: State.LINGERING,
            Event.CLOSE: State.CLOSING,
            **_END,
        },
        State.LINGERING: {
            Event.CLOSE: State.CLOSING,
            **_END,
        },
        State.CLOSING: {
            Event.CLOSE: State.CLOSING,
            **_END,
        },
        # A subscriber to the end of a command may abort the connection, before ``REPLIED``.
        State.CLOSED: {Event.REPLIED: State.CLOSED, **_END},
    }
)
"""The next state, by state and event."""

OPEN = frozenset({State.IDLE, State.DISPATCHING, State.REPLYING, State.WAITING, State.DELAYED})
"""The states in which received commands are queued."""

ENDING = frozenset({State.FLUSHING, State.LINGERING, State.CLOSING, State.CLOSED})
"""The states in which input is discarded: no reply will follow."""


class Input(Symbol):
    """What can still arrive from the client."""

    OPEN = "open"
    """Further commands."""
    ENDED = "ended"
    """Nothing: the client has half-closed. Commands that were received before are replied to."""
    TOO_LONG = "too long"
    """Nothing that is parsed: a line exceeds the limit. An error follows the replies to the
    commands before it."""


class InputEvent(Symbol):
    """An event that can change the `Input`."""

    END = "end"
    """The client has half-closed. The transport may report it again when reading resumes."""
    LINE_TOO_LONG = "line too long"


INPUT_TRANSITIONS = transition_table(
    {
        Input.OPEN: {InputEvent.END: Input.ENDED, InputEvent.LINE_TOO_LONG: Input.TOO_LONG},
        # Bytes that were received before the end may be parsed after it.
        Input.ENDED: {InputEvent.END: Input.ENDED, InputEvent.LINE_TOO_LONG: Input.TOO_LONG},
        Input.TOO_LONG: {
            InputEvent.END: Input.TOO_LONG,
            InputEvent.LINE_TOO_LONG: Input.TOO_LONG,
        },
    }
)
"""The next `Input`, by `Input` and event."""
