"""The health of an upstream, as checks and commands find it, and the mode that is set for it."""

from __future__ import annotations

from typing import NamedTuple

from natproxy.server.state import Symbol, transition_table


class State(Symbol):
    """The health of an upstream."""

    UP = "up"
    """It gets commands. An upstream begins so."""
    DOWN = "down"
    """Checks, or commands in a row, have failed. It gets commands only if every one is down."""


class Event(Symbol):
    """What changes the `State`."""

    FALL = "fall"
    """As many checks in a row have failed as `Health.fall`, or commands as `Health.failures`."""
    RISE = "rise"
    """As many checks in a row have passed as `Health.rise`."""
    RESET = "reset"
    """Another endpoint has the name, or there are no checks any more: nothing is known."""


TRANSITIONS = transition_table(
    {
        State.UP: {Event.FALL: State.DOWN, Event.RESET: State.UP},
        State.DOWN: {Event.RISE: State.UP, Event.RESET: State.UP},
    }
)
"""The next state, by state and event."""


class Mode(Symbol):
    """Whether an upstream takes commands, as an administrator has set it."""

    READY = "ready"
    """It takes commands, and is checked."""
    DRAIN = "drain"
    """It takes no new commands, and finishes those that it has; it is checked."""
    MAINTENANCE = "maintenance"
    """It takes no new commands, finishes those that it has, and is not checked."""


class Health(NamedTuple):
    """When an upstream is `State.DOWN`, and when it is `State.UP` again.

    :ivar interval: seconds between two checks; 0 for no checks.
    :ivar timeout: seconds that a check may take.
    :ivar rise: checks in a row that must pass.
    :ivar fall: checks in a row that must fail.
    :ivar failures: commands in a row that must fail; 0 if they do not count. It has an effect only
        with checks: they find out that an upstream is up again.
    """

    interval: float = 0.0
    timeout: float = 2.0
    rise: int = 2
    fall: int = 3
    failures: int = 3
