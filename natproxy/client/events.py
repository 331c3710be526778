"""Events that report the progress of a download."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple

from natproxy.protocol import printable


class Phase(enum.Enum):
    """The phase that a file's download is in."""

    RECEIVING = "receiving"
    HASHING = "hashing"
    """Bytes on the local disk are being read and hashed, to be compared with the server's."""
    VERIFYING = "verifying"
    """The server is computing its digest; no bytes are received meanwhile."""
    SAVING = "saving"
    """All bytes are received and are being synchronized to the disk."""
    WAITING = "waiting"
    """An attempt has failed; the next one begins soon. The message is the reason."""
    RESTARTING = "restarting"
    """Received bytes are unusable and are downloaded again; the message is the reason."""
    COMPLETE = "complete"
    UNCHANGED = "unchanged"
    """The local file was already the same: nothing was downloaded."""
    FAILED = "failed"
    """The download has failed; the message is the reason."""


class Event(NamedTuple):
    """One step of one file's download.

    A small file that is received together with others has one event, at its end. Before that, an
    event of the phase `RECEIVING` without a name has the bytes and the number of such files that
    have been received since the last such event.

    :ivar name: of the file on the server; empty for files that are received together.
    :ivar phase: the current one.
    :ivar done: bytes of the file that this phase has processed.
    :ivar size: of the file, in bytes; ``None`` until it is known.
    :ivar message: for people, on one line, without the name; empty if there is none.
    :ivar files: number of files that have been received together; 0 in events with a name.
    """

    name: bytes
    phase: Phase
    done: int
    size: int | None
    message: str = ""
    files: int = 0


Progress = Callable[[Event], object]
"""Called with each event in the thread that causes it: with several files, in several threads."""


def ignore_event(_: Event) -> None:
    """Ignore an event: the default `Progress`."""


def strip_name(message: str, name: bytes) -> str:
    """Return an error message without the file's name that it begins with.

    :param name: of the file on the server; an `Event` has it in a field of its own.
    """
    return message.removeprefix(f"{printable(name)}: ")
