"""What is on the disk, compared with the server's bytes by their SHA-256 digests.

Where a digest differs, the span is halved until the damaged ranges are found: only those are
downloaded again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial

from natproxy.client.blocking.session import Session
from natproxy.client.errors import Changed, LocalError
from natproxy.client.events import Phase
from natproxy.client.retry import Cancellation, Retrier
from natproxy.client.transfer.damage import Range, find_damage, join
from natproxy.client.transfer.destination import LocalFile
from natproxy.client.transfer.partial import PartialDownload
from natproxy.client.transfer.record import Segment
from natproxy.protocol import Metadata, printable

PIECE = 1 << 20
"""Bytes that are read from the disk at once."""


class Verification:
    """Compares bytes of one file on the disk with those on the server.

    :param name: of the file on the server.
    :param retry: retries the commands.
    :param stop: ends it from another thread.
    :param tell: is called with the phase and the offset that has been reached.
    """

    def __init__(
        self,
        session: Session,
        name: bytes,
        retry: Retrier,
        stop: Cancellation,
        tell: Callable[[Phase, int], object],
    ) -> None:
        self._session = session
        self._name = name
        self._retry = retry
        self._stop = stop
        self._tell = tell

    def is_same(self, file: LocalFile, metadata: Metadata) -> bool:
        """Compare a complete file with the server's.

        :raises Changed: if the server's is not the one with this status any more.
        :raises LocalError: if the file here cannot be read.
        """
        digest = hashlib.sha256()
        done = 0
        try:
            with file.open() as opened:
                while piece := opened.read(PIECE):
                    self._stop.check()
                    digest.update(piece)
                    done += len(piece)
                    self._tell(Phase.HASHING, done)
        except OSError as error:
            raise LocalError(file.path, error) from error
        return self._digest_there(metadata, (0, metadata.size)) == digest.hexdigest()

    def digest_of(self, part: PartialDownload, start: int, end: int) -> hashlib._Hash:
        """Compute the digest of a range of a partial download, read back from the disk.

        :raises LocalError: if it cannot be read.
        """
        digest = hashlib.sha256()
        if start == end:
            return digest
        buffer = memoryview(bytearray(min(PIECE, end - start)))
        offset = start
        while offset < end:
            self._stop.check()
            size = part.read(offset, buffer[: end - offset])
            if not size:
                break
            digest.update(buffer[:size])
            offset += size
            self._tell(Phase.HASHING, offset)
        return digest

    def damage_kept(self, part: PartialDownload) -> list[Range]:
        """Return the ranges of what is kept that differ from the server's bytes.

        :raises Changed: if the server's file is another one by now.
        """
        damage: list[Range] = []
        for segment in part.segments:
            span = (segment.start, segment.done)
            if segment.done > segment.start and not self._same(part, *span):
                damage += self._damage_within(part, span)
        return join(damage)

    def damage_received(
        self, part: PartialDownload, segments: Sequence[Segment], digests: Sequence[str]
    ) -> list[Range]:
        """Return the ranges of complete segments that differ from the server's bytes.

        :param digests: of the segments, of the bytes as they were received.
        :raises Changed: if the server's file is another one by now.
        """
        damage: list[Range] = []
        for segment, digest in zip(segments, digests, strict=True):
            self._tell(Phase.VERIFYING, segment.start)
            span = (segment.start, segment.end)
            if self._digest_there(part.metadata, span) != digest:
                damage += self._damage_within(part, span)
        return join(damage)

    def _damage_within(self, part: PartialDownload, span: Range) -> list[Range]:
        """Return the ranges of a span that differ from the server's bytes; some of it does."""
        return find_damage(span, part.metadata.size, partial(self._same, part))

    def _same(self, part: PartialDownload, start: int, end: int) -> bool:
        there = self._digest_there(part.metadata, (start, end))
        return there == self.digest_of(part, start, end).hexdigest()

    def _digest_there(self, metadata: Metadata, span: Range) -> str:
        start, end = span
        digest = self._retry(partial(self._session.hash, self._name, start, end - start))
        if digest.etag != metadata.etag:
            raise changed(self._name)
        return digest.sha256


def changed(name: bytes) -> Changed:
    """Return the error for a file that is not the one which the download began with."""
    return Changed(f"{printable(name)}: changed on the server while it was fetched")
