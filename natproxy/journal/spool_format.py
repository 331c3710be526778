"""The format of a spool: its name, states, header, and records. See `natproxy.journal.spool`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final, NamedTuple

from natproxy.journal.files import ALL, Share
from natproxy.records.record import Origin
from natproxy.server.state import Symbol, transition_table

VERSION = 1
"""Version of the records. A reader uses a file of its own version only."""

MAGIC = b"natspool"

HEADER = 4096
"""Bytes before the first region."""

REGION = 2 << 20
"""Bytes of a region: for 8,000 commands or more."""

LARGEST = HEADER + 2 * REGION
"""Bytes of a spool at most."""

NEW = ".new"
"""Added to the name of a spool that is being made."""

NAME = re.compile(r"w(\d{1,6})-([0-9A-Za-z]{1,64})\.spool(?:\.new)?")
"""Matches the name of a spool: the worker's number, and its boot."""

KERNEL_BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Differs after a loss of power, when the pages of a file may be of different moments."""

PREFIX = Struct("<8sBBHI")
"""The beginning of the header: magic, version, whether the record is complete, and the length of
the description."""

COMPLETE_AT = 9
"""Place of the byte that is 1 while every event is in the spool, or in a segment."""


# The kinds of records. Each begins with its size and its kind, and ends with its number (``seq``),
# which is followed by its texts.
REGISTERED: Final = 1
"""A `REGISTRATION` with the line of the command."""
NAMED: Final = 2
"""A `REGISTRATION` with verb and name in place of the line."""
RELAYING: Final = 3
REMOVED: Final = 4
OTHER: Final = 5
"""Any other event: its row as JSON."""

REGISTRATION = Struct("<IBQddIIIIQ")
"""Size, kind, serial, time, seconds since the start of the command, the client's port, the proxy's,
the upstream's, bytes of the first texts, number.

The first texts are the three hosts and the identity, with a NUL between; of an attempt that is not
the first one, also the three numbers of its ``Earlier``. Then there is the line, or verb and name
with a NUL between.
"""

RELAY = Struct("<IBQdqdQ")
"""Size, kind, serial, time, bytes promised or -1, seconds since the start, number."""

REMOVAL = Struct("<IBQdqQd16sBQ")
"""Size, kind, serial, time, bytes promised or -1, bytes, seconds since the start, outcome, whether
there is a reason, number. The reason follows."""

ROW = Struct("<IBQ")
"""Size, kind, number. The row follows."""

RECORDS = {
    REGISTERED: REGISTRATION,
    NAMED: REGISTRATION,
    RELAYING: RELAY,
    REMOVED: REMOVAL,
    OTHER: ROW,
}
"""The fixed part of each kind."""


class State(Symbol):
    """Whether the spool has every event that no segment has."""

    RECORDING = "recording"
    FULL = "full"  # events are missing, and none are added
    RESUMED = "resumed"  # events are added; some that no segment has are missing before them
    CLOSED = "closed"


class Input(Symbol):
    """What changes the state."""

    NO_SPACE = "no space"  # for an event
    EMPTY_REGION = "empty region"  # a batch was taken, and there is a region for what follows it
    WRITTEN = "written"  # a segment has that batch
    CLOSE = "close"


TRANSITIONS = transition_table(
    {
        State.RECORDING: {
            Input.NO_SPACE: State.FULL,
            Input.EMPTY_REGION: State.RECORDING,
            Input.WRITTEN: State.RECORDING,
            Input.CLOSE: State.CLOSED,
        },
        State.FULL: {
            Input.NO_SPACE: State.FULL,
            Input.EMPTY_REGION: State.RESUMED,
            Input.WRITTEN: State.FULL,
            Input.CLOSE: State.CLOSED,
        },
        State.RESUMED: {
            Input.NO_SPACE: State.FULL,
            Input.EMPTY_REGION: State.RESUMED,
            Input.WRITTEN: State.RECORDING,
            Input.CLOSE: State.CLOSED,
        },
        State.CLOSED: {Input.CLOSE: State.CLOSED},
    }
)


class Description(NamedTuple):
    """Whose events a spool has, and how.

    :ivar origin: the process.
    :ivar boot_started: when it started, in microseconds since the epoch.
    :ivar every_name: whether names are those of all files of a command.
    :ivar region: bytes of a region.
    :ivar kernel: identifies the run of the kernel; empty if that is not known.
    """

    origin: Origin
    boot_started: int
    every_name: bool = False
    region: int = REGION
    kernel: str = ""

    @classmethod
    def parse(cls, text: bytes) -> Description:
        """Return what `format` has formatted.

        :raises ValueError: if it is malformed.
        """
        values = json.loads(text)
        if not isinstance(values, list):
            raise ValueError("it has no list")
        proxy, worker, boot, started, every_name, region, kernel = values
        types = (str, int, str, int, bool, int, str)
        if tuple(map(type, values)) != types or region <= 0:
            raise ValueError("a value is malformed")
        return cls(Origin(proxy, worker, boot), started, every_name, region, kernel)

    def format(self) -> bytes:
        """Return it as bytes."""
        return json.dumps([*self.origin, *self[1:]]).encode("ascii")


def spool_path(directory: str, worker: int, boot: str) -> str:
    """Return the path of the spool of a process."""
    return os.path.join(directory, f"w{worker}-{boot}.spool")


def spools(directory: str, share: Share = ALL) -> Iterator[tuple[str, int, str]]:
    """Yield path, worker and boot of each spool of a share, also of one that is being made."""
    for name in sorted(os.listdir(directory)):
        match = NAME.fullmatch(name)
        if match is not None and share.owns(int(match[1])):
            yield os.path.join(directory, name), int(match[1]), match[2]


def kernel_boot() -> str:
    """Return what identifies the run of the kernel; empty if that is not known."""
    try:
        return KERNEL_BOOT.read_bytes().decode("ascii").strip()
    except (OSError, ValueError):
        return ""
