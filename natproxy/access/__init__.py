"""Whether a command may begin: gates, and what they decide by.

This package decides; it does no I/O. `natproxy.server` calls the gates of its
factory before each command, and delays or refuses the command by their verdict.
"""

from natproxy.access.bandwidth import Bandwidth
from natproxy.access.caller import Caller, host_of
from natproxy.access.counts import Counts, Stopped
from natproxy.access.limits import NO_LIMITS, Limits, ScopeLimits, limit_of
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
    "NO_LIMITS",
    "PROCEED",
    "Action",
    "Bandwidth",
    "Caller",
    "Counts",
    "Gate",
    "Limits",
    "ScopeLimits",
    "Stopped",
    "Verdict",
    "admit",
    "delay",
    "ended",
    "host_of",
    "limit_of",
    "refuse",
]
