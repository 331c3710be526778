"""The states of a worker, as its master sees them."""

from __future__ import annotations

from natproxy.server.state import Symbol, transition_table


class State(Symbol):
    """What a worker does."""

    STARTING = "starting"
    """Its process starts; it does not accept yet."""
    SERVING = "serving"
    """It accepts connections."""
    DRAINING = "draining"
    """It accepts none any more, and ends when its connections have."""
    LOST = "lost"
    """It was killed, or its channel is closed; the kernel has not reported its end yet."""
    ENDED = "ended"
    """Its process has ended."""


class Event(Symbol):
    """What changes the state of a worker."""

    READY = "ready"
    """It accepts connections from now on."""
    DRAIN = "drain"
    """The master has sent it the message to drain, or it drains since it received a signal."""
    LOSE = "lose"
    """It sent no heartbeat for too long and was killed, or its channel was closed."""
    END = "end"
    """Its process has ended."""


TRANSITIONS = transition_table(
    {
        State.STARTING: {
            Event.READY: State.SERVING,
            Event.DRAIN: State.DRAINING,
            Event.LOSE: State.LOST,
            Event.END: State.ENDED,
        },
        State.SERVING: {
            Event.DRAIN: State.DRAINING,
            Event.LOSE: State.LOST,
            Event.END: State.ENDED,
        },
        State.DRAINING: {
            # It was ready before the message to drain arrived.
            Event.READY: State.DRAINING,
            Event.DRAIN: State.DRAINING,
            Event.LOSE: State.LOST,
            Event.END: State.ENDED,
        },
        State.LOST: {
            # What it has sent before.
            Event.READY: State.LOST,
            Event.DRAIN: State.LOST,
            Event.LOSE: State.LOST,
            Event.END: State.ENDED,
        },
        State.ENDED: {},
    }
)
"""The transitions; see `natproxy.server.state.transition_table`."""
