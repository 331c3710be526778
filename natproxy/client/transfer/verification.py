"""Compare bytes on the disk with the server's by their SHA-256 digests.

If a digest differs, the range is halved until the damaged ranges are found: only those are
downloaded again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from natproxy.client.blocking.session import Session
from natproxy.client.errors import Changed, LocalError
from natproxy.client.events import Phase
from natproxy.client.retry import Cancellation, Retrier
from natproxy.client.transfer.damage import Range, find_damage, join
from natproxy.client.transfer.destination import LocalFile
from natproxy.client.transfer.parallel import run_parallel
from natproxy.client.transfer.partial import PartialDownload
from natproxy.client.transfer.record import Segment
from natproxy.protocol import Metadata, printable

if TYPE_CHECKING:
    import hashlib

CHUNK_SIZE = 1 << 20
"""Bytes that are read from the disk at once."""


class Verification:
    """Compares the local bytes of one file with the server's.

    :param name: of the file on the server.
    :param retry: retries the commands.
    :param cancellation: cancels the comparison from another thread.
    :param report: called with the phase and the current offset.
    """

    def __init__(
        self,
        session: Session,
        name: bytes,
        retry: Retrier,
        cancellation: Cancellation,
        report: Callable[[Phase, int], object],
    ) -> None:
        self._session = session
        self._name = name
        self._retry = retry
        self._cancellation = cancellation
        self._report = report

    def is_same(self, file: LocalFile, metadata: Metadata) -> bool:
        """Return whether a complete local file has the same digest as the server's.

        :raises Changed: if the server's file no longer has this metadata.
        :raises LocalError: if the local file cannot be read.
        """
        # Loading it takes longer than a small file.
        import hashlib

        digest = hashlib.sha256()
        done = 0
        try:
            with file.open() as opened:
                while chunk := opened.read(CHUNK_SIZE):
                    self._cancellation.check()
                    digest.update(chunk)
                    done += len(chunk)
                    self._report(Phase.HASHING, done)
        except OSError as error:
            raise LocalError(file.path, error) from error
        return self._remote_digest(metadata, (0, metadata.size)) == digest.hexdigest()

    def digest_of(self, part: PartialDownload, start: int, end: int) -> hashlib._Hash:
        """Return the digest of a range of a partial download, read back from the disk.

        :raises LocalError: if it cannot be read.
        """
        import hashlib

        digest = hashlib.sha256()
        if start == end:
            return digest
        buffer = memoryview(bytearray(min(CHUNK_SIZE, end - start)))
        offset = start
        while offset < end:
            self._cancellation.check()
            size = part.read(offset, buffer[: end - offset])
            if not size:
                break
            digest.update(buffer[:size])
            offset += size
            self._report(Phase.HASHING, offset)
        return digest

    def damage_kept(self, part: PartialDownload) -> list[Range]:
        """Return the received ranges that differ from the server's bytes.

        :raises Changed: if the file has changed on the server.
        """
        damage: list[Range] = []
        for segment in part.segments:
            span = (segment.start, segment.done)
            if segment.done > segment.start and not self._same(part, *span):
                damage += self._damage_within(part, span)
        return join(damage)

    def damage_received(
        self,
        part: PartialDownload,
        segments: Sequence[Segment],
        digests: Sequence[str],
        connections: int,
    ) -> list[Range]:
        """Return the ranges of complete segments that differ from the server's bytes.

        :param digests: of the received bytes of each segment.
        :param connections: digests that are requested at the same time.
        :raises Changed: if the file has changed on the server.
        """

        def remote_digest(segment: Segment) -> str:
            self._report(Phase.VERIFYING, segment.start)
            return self._remote_digest(part.metadata, (segment.start, segment.end))

        steps = [partial(remote_digest, segment) for segment in segments]
        remote = run_parallel(steps, connections, self._cancellation, self._session.interrupt)
        damage: list[Range] = []
        for segment, ours, theirs in zip(segments, digests, remote, strict=True):
            if ours != theirs:
                damage += self._damage_within(part, (segment.start, segment.end))
        return join(damage)

    def _damage_within(self, part: PartialDownload, span: Range) -> list[Range]:
        """Return the ranges that differ within a span that is known to differ."""
        return find_damage(span, part.metadata.size, partial(self._same, part))

    def _same(self, part: PartialDownload, start: int, end: int) -> bool:
        remote = self._remote_digest(part.metadata, (start, end))
        return remote == self.digest_of(part, start, end).hexdigest()

    def _remote_digest(self, metadata: Metadata, span: Range) -> str:
        start, end = span
        digest = self._retry(partial(self._session.hash, self._name, start, end - start))
        if digest.etag != metadata.etag:
            raise changed_error(self._name)
        return digest.sha256


def changed_error(name: bytes) -> Changed:
    """Return the error for a file that has changed during its download."""
    return Changed(f"{printable(name)}: changed on the server during the download")
