"""A translation's key, its state and its outcome."""

from __future__ import annotations

import enum
from typing import NamedTuple

from natproxy.address import Address


class TranslationKey(NamedTuple):
    """The two ends of an upstream connection, which together are unique.

    The local port alone is not unique: with two upstreams, the kernel can use one local port
    for a connection to each.
    """

    local: Address
    upstream: Address


class Earlier(NamedTuple):
    """The earlier attempts of a command.

    :ivar command: serial number of the first one, which is the number of the command.
    :ivar attempts: how many they are.
    :ivar bytes: that they have passed to the client.
    """

    command: int
    attempts: int
    bytes: int

    def plain(self) -> tuple[int, int, int]:
        """Return a plain tuple, which the garbage collector need not track."""
        return self.command, self.attempts, self.bytes


class EntryState(enum.Enum):
    """The states of an entry, in their order."""

    REGISTERED = "registered"
    """The command has been sent; no header of a reply has been received."""
    RELAYING = "relaying"
    """The reply is being relayed."""
    GONE = "gone"
    """The entry has been removed, with an outcome."""


class Outcome(enum.Enum):
    """How a command ended."""

    COMPLETED = "completed"
    """The whole reply, also if it is an ``ERR``, was passed to the client's connection."""
    ERROR = "error"
    """The upstream could not be reached, or its reply was malformed."""
    CLIENT_GONE = "client-gone"
    UPSTREAM_GONE = "upstream-gone"
    TIMEOUT = "timeout"
    DRAINED = "drained"
    """The daemon stopped, and the time to drain was over."""
    KILLED = "killed"
    """An administrator ended it."""
    DENIED = "denied"
    """A rule forbids it: it has not begun."""
    LIMITED = "limited"
    """The client is over a limit: it has not begun."""
    RETRIED = "retried"
    """This attempt has failed, and another one follows: the command has not ended."""
