"""What a transfer tells of itself while it goes on."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from natproxy.protocol import printable


class Phase(enum.Enum):
    """What is being done for a file."""

    RECEIVING = "receiving"
    HASHING = "hashing"
    """Bytes that are on the disk already are read, to be compared with the server's."""
    VERIFYING = "verifying"
    """The server computes its digest: nothing moves, but all is well."""
    SAVING = "saving"
    """All bytes are here, and are being brought to the disk."""
    WAITING = "waiting"
    """A try has failed; the next one begins soon. The event's message says why."""
    RESTARTING = "restarting"
    """What was fetched is no longer good and is fetched afresh; the message says why."""
    COMPLETE = "complete"
    UNCHANGED = "unchanged"
    """It is here already: nothing was fetched."""
    FAILED = "failed"
    """It will not be fetched; the message says why."""


class Event(NamedTuple):
    """One step of one file's transfer.

    :ivar name: of the file on the server.
    :ivar phase: what is being done.
    :ivar done: bytes of the file that have been through this phase.
    :ivar size: of the file, in bytes; `None` as long as it isn't known.
    :ivar message: for people, on one line, without the name; empty when there is nothing to say.
    """

    name: bytes
    phase: Phase
    done: int
    size: int | None
    message: str = ""


Progress = Callable[[Event], object]
"""Is told of each step, in the thread that takes it: several at once with several files."""


def ignore_event(_: Event) -> None:
    """Nobody wants to know."""


def strip_name(message: str, name: bytes) -> str:
    """Return an error's message without the file's name, which the server's errors begin with.

    :param name: of the file on the server, which whoever shows an event adds.
    """
    return message.removeprefix(f"{printable(name)}: ")
