"""Metadata of files and directories: what a storage yields, and ``STAT`` and ``LS`` show.

How it is written on the wire is in `natproxy.protocol.metadata`.
"""

from __future__ import annotations

from typing import NamedTuple

FILE = "file"
"""The type of a regular file."""

DIRECTORY = "dir"
"""The type of a directory."""

UNREAD = "unread"
"""The type of an entry that exists and whose metadata cannot be read."""


class Metadata(NamedTuple):
    """The metadata of a file or a directory at one moment.

    :ivar type: `FILE`, `DIRECTORY`, `UNREAD`, or a type that a newer server adds.
    :ivar size: in bytes; 0 for a directory.
    :ivar mtime_ns: time of the last modification, in nanoseconds since the epoch.
    :ivar etag: 1 to 128 visible ASCII characters; changes whenever the content may have
        changed.
    """

    type: str
    size: int
    mtime_ns: int
    etag: str


UNREAD_METADATA = Metadata(UNREAD, 0, 0, "-")
"""The metadata of an entry of type `UNREAD`."""


class Entry(NamedTuple):
    """A file or a directory with its name.

    :ivar name: full path below the served directory; bytes, without a leading slash.
    :ivar metadata: its metadata.
    :ivar unread: true for a directory whose entries cannot be listed.
    """

    name: bytes
    metadata: Metadata
    unread: bool = False
