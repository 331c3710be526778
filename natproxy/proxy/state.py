"""The states of an upstream connection and their transitions."""

from __future__ import annotations

from natproxy.server.state import Symbol, transition_table


class State(Symbol):
    """The state of an upstream connection."""

    NEW = "new"
    """The connection has not been made."""
    WAITING = "waiting"
    """The command has been sent; nothing has been received."""
    HEADER = "header"
    """A part of the reply's header has been received."""
    FEATURES = "features"
    """The body of a ``FEAT`` reply is received, to be passed on when it is complete."""
    BODY = "body"
    """A relay moves the body."""
    CLOSED = "closed"
    """The entry is removed and the connection reset."""


class Event(Symbol):
    """What changes the state."""

    REGISTERED = "registered"
    """The connection is made, and its entry is in the table."""
    SUPERSEDED = "superseded"
    """The connection is made, but the command has another one, or none is needed any more."""
    HEADER_BEGUN = "header begun"
    """A part of the header has been received."""
    FEATURES_BEGUN = "features begun"
    """The header of a ``FEAT`` reply has been received."""
    BODY_BEGUN = "body begun"
    """The header has been received, and not yet the whole body that it promises."""
    FINISHED = "finished"
    """The whole reply has been passed to the client's connection."""
    FAILED = "failed"
    """The client's connection gets an error in the reply's place."""
    BROKEN_OFF = "broken off"
    """The header has been passed on, and the rest of the reply is missing."""
    CANCELLED = "cancelled"
    """The client's connection has ended, the daemon stops, or the entry was cancelled."""


_AFTER_HEADER = {
    Event.FEATURES_BEGUN: State.FEATURES,
    Event.BODY_BEGUN: State.BODY,
}
# An error can replace the reply only while nothing of it has been passed on.
_BEFORE_BODY = {
    Event.FINISHED: State.CLOSED,
    Event.FAILED: State.CLOSED,
    Event.CANCELLED: State.CLOSED,
}

TRANSITIONS = transition_table(
    {
        State.NEW: {
            Event.REGISTERED: State.WAITING,
            Event.SUPERSEDED: State.CLOSED,
            # By a subscriber of the event `Registered`.
            Event.CANCELLED: State.CLOSED,
        },
        State.WAITING: {Event.HEADER_BEGUN: State.HEADER, **_AFTER_HEADER, **_BEFORE_BODY},
        State.HEADER: {Event.HEADER_BEGUN: State.HEADER, **_AFTER_HEADER, **_BEFORE_BODY},
        State.FEATURES: _BEFORE_BODY,
        State.BODY: {
            Event.FINISHED: State.CLOSED,
            Event.BROKEN_OFF: State.CLOSED,
            Event.CANCELLED: State.CLOSED,
        },
        State.CLOSED: {},
    }
)
"""What follows an event in a state."""
