"""Whether a command may begin: gates, and what they decide by.

This package decides; it does no I/O and has no timer. `natproxy.server` calls the gates of its
factory before each command, and delays or refuses the command by their verdict.
"""

from natproxy.access.caller import Caller, host_of
from natproxy.access.counts import Counts, Stopped
from natproxy.access.verdict import (
    PROCEED,
    Action,
    Gate,
    Verdict,
    admit,
    delay,
    ended,
    refuse,
)

__all__ = [
    "PROCEED",
    "Action",
    "Caller",
    "Counts",
    "Gate",
    "Stopped",
    "Verdict",
    "admit",
    "delay",
    "ended",
    "host_of",
    "refuse",
]
