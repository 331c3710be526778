"""A partial download in a directory of its own."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from shutil import rmtree
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.transfer.destination import LocalFile
from natproxy.client.transfer.partial import PartialDownload
from natproxy.protocol import FILE, Metadata

MTIME = 1_600_000_000_123_456_789


def kill(part: PartialDownload) -> None:
    """Close the files as the kernel does for a process that is killed."""
    if part._part.descriptor >= 0:
        for file in (part._record, part._part, part._directory):
            if file is not None:
                file.close()


def full(*_: object) -> int:
    """Fail as a write to a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class PartialCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = os.fsencode(os.path.realpath(tempfile.mkdtemp()))
        self.addCleanup(rmtree, self.directory)
        self.path = os.path.join(self.directory, b"a")
        self.part = os.path.join(self.directory, b".a.part")
        self.record = os.path.join(self.directory, b".a.part.json")

    def open(
        self,
        size: int = 10,
        etag: str = "e",
        segments: int = 1,
        name: bytes = b"d/a",
        **claim: bool,
    ) -> PartialDownload:
        """Open the partial download; it is closed when the test ends."""
        metadata = Metadata(FILE, size, MTIME, etag)
        part = PartialDownload(LocalFile(self.path), name, metadata, segments, **claim)
        self.addCleanup(part.close)
        return part

    def keep(self, content: bytes = b"01234", **options: Any) -> None:
        """Leave a partial download with some received bytes."""
        with self.open(**options) as part:
            part.write(part.segments[0], memoryview(content))

    def put(self, path: bytes, content: bytes) -> None:
        with open(path, "wb") as file:
            file.write(content)

    def content(self, path: bytes) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def files(self) -> list[bytes]:
        return sorted(os.listdir(self.directory))

    @contextmanager
    def boot(self, text: str) -> Iterator[None]:
        with mock.patch("natproxy.client.transfer.partial.boot_id", return_value=text):
            yield
