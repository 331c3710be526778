"""The states of a worker, as its master sees them, and of all workers of a generation."""

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


class PoolState(Symbol):
    """What the workers of one generation do."""

    NEW = "new"
    """None is started yet."""
    STARTING = "starting"
    """They start for the first time; if one cannot, none serves."""
    SERVING = "serving"
    """They serve; one that ends is replaced."""
    LEAVING = "leaving"
    """They finish, and none is replaced."""
    ENDED = "ended"
    """None is left."""


class PoolEvent(Symbol):
    """What changes the state of the workers of a generation."""

    START = "start"
    """Their processes are started."""
    RESUME = "resume"
    """They run already, and served the program that this one has replaced."""
    STARTED = "started"
    """All of them serve for the first time."""
    FAIL = "fail"
    """One of them cannot start."""
    LEAVE = "leave"
    """They drain, are retired, or are killed."""
    EMPTY = "empty"
    """The last process has ended."""


POOL_TRANSITIONS = transition_table(
    {
        PoolState.NEW: {
            PoolEvent.START: PoolState.STARTING,
            PoolEvent.RESUME: PoolState.SERVING,
            # Those of an older generation, which drained already.
            PoolEvent.LEAVE: PoolState.LEAVING,
        },
        PoolState.STARTING: {
            PoolEvent.STARTED: PoolState.SERVING,
            PoolEvent.FAIL: PoolState.LEAVING,
            PoolEvent.LEAVE: PoolState.LEAVING,
        },
        PoolState.SERVING: {PoolEvent.LEAVE: PoolState.LEAVING},
        PoolState.LEAVING: {
            PoolEvent.LEAVE: PoolState.LEAVING,
            PoolEvent.EMPTY: PoolState.ENDED,
        },
        PoolState.ENDED: {PoolEvent.LEAVE: PoolState.ENDED},
    }
)
"""The transitions of the workers of a generation; likewise."""
