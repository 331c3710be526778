"""A partial download: its received bytes, and a record of which bytes these are.

The bytes of ``NAME`` are written to ``.NAME.part`` and the record to ``.NAME.part.json``, in the
directory of ``NAME``. The record remains valid however the process ends.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from threading import Lock

from natproxy.client.context import Closing
from natproxy.client.errors import LocalError
from natproxy.client.transfer.claim import Claim, write_record
from natproxy.client.transfer.destination import LocalFile
from natproxy.client.transfer.part_file import RECORD_SUFFIX, SUFFIX, StaleFile, stem_of
from natproxy.client.transfer.record import Record, Segment, boot_id, divide, mark_missing
from natproxy.client.transfer.space import require_space
from natproxy.protocol import Metadata, printable

CHECKPOINT = 1 << 20
"""Received bytes after which the record is updated: a killed process loses at most so many."""

LONGEST_SHOWN = 128
"""Characters of the file's name on the server that the record contains at most."""


class ClaimLost(LocalError):
    """Another process has claimed or removed the partial file."""

    def __init__(self, path: bytes) -> None:
        reason = "another process took over or removed the partial download"
        super().__init__(path, OSError(errno.ESTALE, reason))


class PartialDownload(Closing):
    """A partial file and its record, open and claimed by this process: see `Claim`.

    If the usual partial file cannot be claimed, a private one is used, which has no record and
    is removed by `close`.

    :param file: the complete file; missing directories are created.
    :param name: of the file on the server, for people who read the record.
    :param metadata: of the file on the server; bytes of another version are discarded.
    :param segments: number of segments of a new download.
    :param concurrent: whether a private partial file is used if another process or thread uses
        the usual one; otherwise that is an error.
    :param private: whether a private partial file is used in any case.
    :param durable: whether the file is on the disk before it gets its name.
    :raises LocalError: if the file cannot be written, or another process is downloading it.
    :ivar segments: of the whole file, in order.
    :ivar discard_reason: why bytes received earlier are not used; empty if none are lost.
    :ivar trusted: whether all received bytes are certainly on the disk. They are not if the
        system has been restarted since. A caller that has compared them with the server's may
        set it.
    """

    def __init__(
        self,
        file: LocalFile,
        name: bytes,
        metadata: Metadata,
        segments: int = 1,
        *,
        concurrent: bool = False,
        private: bool = False,
        durable: bool = True,
    ) -> None:
        self._durable = durable
        self.path = file.path
        self.metadata = metadata
        # The threads of several segments share the record.
        self._lock = Lock()
        self._unrecorded = 0
        self._final = file.name
        # The name is cut off so that the record fits into a page.
        shown = printable(name, LONGEST_SHOWN)
        size = metadata.size
        self._fresh = Record(shown, metadata.etag, size, boot_id(), divide(size, segments))
        self._directory = file.open_directory(create=True)
        claim = Claim(self._directory, file, self._fresh)
        try:
            if private or not claim.acquire(concurrent):
                claim.create_private()
        except OSError as error:
            self._directory.close()
            named = os.fsencode(error.filename) if error.filename else self._final
            raise LocalError(self._directory.path_of(named), error) from error
        except BaseException:
            self._directory.close()
            raise
        self._part = claim.part
        self._record = claim.record
        self.segments = claim.segments
        self.discard_reason = claim.discard_reason
        self.trusted = claim.trusted

    @property
    def kept(self) -> int:
        """Received bytes."""
        return sum(segment.done - segment.start for segment in self.segments)

    @property
    def missing(self) -> list[Segment]:
        """The incomplete segments."""
        return [each for each in self.segments if each.done < each.end]

    def mark_damaged(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Mark ranges as missing because their received bytes are damaged.

        `segments` becomes a new list.

        :param ranges: pairs of the offset of the first byte and the offset after the last one.
        """
        with self._lock:
            for start, end in ranges:
                self.segments = mark_missing(self.segments, start, end)

    def require_space(self) -> None:
        """Check that the file system has space for the bytes that are missing.

        :raises LocalError: if it has not.
        """
        allocated = os.fstat(self._part.descriptor).st_blocks * 512
        # Bytes that are to be replaced have their space; those of a hole have none.
        present = max(self.kept, allocated)
        require_space(self.path, self.metadata.size - present, self._part.descriptor)

    def write(self, segment: Segment, data: memoryview) -> None:
        """Append bytes to a segment.

        :raises ClaimLost: if another process has claimed the partial file; nothing is written.
        :raises LocalError: if they cannot be written; earlier bytes are kept.
        """
        written = 0
        try:
            self._check_claim()
            while written < len(data):
                size = self._part.write(data[written:], segment.done)
                written += size
                segment.done += size
        except OSError as error:
            raise LocalError(self.path, error) from error
        with self._lock:
            self._unrecorded += written
            due = self._unrecorded >= CHECKPOINT
        if due:
            with suppress(OSError):
                self.save()

    def read(self, offset: int, buffer: memoryview) -> int:
        """Read received bytes into a buffer and return their number.

        :raises LocalError: if they cannot be read.
        """
        try:
            return os.preadv(self._part.descriptor, [buffer], offset)
        except OSError as error:
            raise LocalError(self.path, error) from error

    def save(self) -> None:
        """Update the record.

        :raises OSError: if it cannot be written.
        """
        if self._record is None:
            return
        with self._lock:
            self._unrecorded = 0
            write_record(self._record, self._fresh.with_segments(self.segments, self.trusted))

    def finish(self, replace: bool = True) -> bool:
        """Synchronize the complete file to the disk and rename it to its final name.

        :param replace: whether an existing file is replaced.
        :return: whether it has been renamed; false if a file exists and is not replaced.
        :raises ClaimLost: if another process has claimed the partial file.
        :raises LocalError: if that fails. If the synchronization fails, all bytes are discarded:
            the system does not report which of them are lost.
        """
        try:
            self._check_claim()
            # After a power failure the partial file may have bytes of a longer one at its end.
            os.ftruncate(self._part.descriptor, self.metadata.size)
            self._part.complete(self._final, self.metadata.mtime_ns)
            try:
                if self._durable:
                    self._part.sync()
            except OSError:
                self.discard()
                raise
            self._check_claim()
            try:
                self._part.publish(self._final, replace)
            except FileExistsError:
                if replace:
                    raise
                return False
            except StaleFile as error:
                if self._record is None:
                    raise
                raise ClaimLost(self.path) from error
        except OSError as error:
            raise LocalError(self.path, error) from error
        # A record without a partial file is harmless.
        with suppress(OSError):
            if self._record is not None:
                self._record.remove()
        try:
            if self._durable:
                self._directory.sync()
        except OSError as error:
            raise LocalError(self._directory.path or b".", error) from error
        return True

    def discard(self) -> None:
        """Remove the partial file and its record."""
        # The record last: a process that is killed in between leaves no partial file without one.
        for each in (self._part, self._record):
            with suppress(OSError):
                if each is not None:
                    each.remove()

    def close(self) -> None:
        """Update the record and close the files."""
        if self._part.descriptor < 0:
            return
        with suppress(OSError):
            if self._record is None:
                # No later download would find a private partial file.
                self._part.remove()
            elif self.segments:
                self.save()
        if self._record is not None:
            self._record.close()
        self._part.close()
        self._directory.close()

    def _check_claim(self) -> None:
        """Check that no other process has claimed the partial file.

        :raises ClaimLost: if one has.
        """
        record = self._record
        if record is not None and not (record.in_place() and self._part.in_place()):
            raise ClaimLost(self.path)


def is_partial(name: bytes) -> bool:
    """Return whether a file name is that of a partial file or its record."""
    return name.startswith(b".") and name.endswith((SUFFIX, RECORD_SUFFIX))


def has_partial(file: LocalFile) -> bool:
    """Return whether a file has a partial file or a record of one, usable or not."""
    stem = stem_of(file.name)
    try:
        with file.open_directory() as directory:
            names = (stem + SUFFIX, stem + RECORD_SUFFIX)
            return any(directory.lstat(name) is not None for name in names)
    except (LocalError, OSError):
        return False
