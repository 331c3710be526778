"""A group of small files in a run directory: they get their names together."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from natproxy.client.errors import LocalError
from natproxy.client.transfer.request import DownloadRequest
from natproxy.protocol import Metadata

GROUP_SIZE = 64 << 20
"""Bytes of a group."""


class SmallFile(NamedTuple):
    """A small file to download.

    :ivar number: of the request in its batch.
    :ivar request: the request; its tree and path may be those of the directory to save it in.
    :ivar directory: path of its directory below the tree's root.
    :ivar last: its name in the directory.
    :ivar replaces: whether a file with its name exists already.
    """

    number: int
    request: DownloadRequest
    directory: bytes
    last: bytes
    replaces: bool = False


class Staged(NamedTuple):
    """A whole file in the run directory.

    :ivar path: its path in the run directory.
    """

    file: SmallFile
    metadata: Metadata
    path: bytes


class Published(NamedTuple):
    """The result of a file of a group.

    :ivar error: why it is not certainly on the disk with its name; ``None`` if it is.
    :ivar unchanged: whether the existing file has been kept instead.
    """

    file: SmallFile
    size: int
    error: LocalError | None = None
    unchanged: bool = False


class Group:
    """Files and new directories that get their names together.

    :ivar count: number of files.
    :ivar size: bytes of the files.
    :ivar flat: files of existing directories.
    :ivar tops: new directories whose parent exists, each with its name in the run directory.
    :ivar nested: the files at any depth of each of these directories.
    :ivar directories: all new directories, each with its path in the run directory.
    """

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self.flat: list[Staged] = []
        self.tops: dict[bytes, bytes] = {}
        self.nested: dict[bytes, list[Staged]] = {}
        self.directories: dict[bytes, bytes] = {}

    def files(self) -> Iterator[Staged]:
        """Yield all files."""
        return chain(self.flat, *self.nested.values())
