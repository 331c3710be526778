"""Claim a partial file and its record, so that only one process at a time writes to it.

A claim has two parts. The partial file is locked, on file systems with locks. And the record is
always a new file that is renamed to its name: the process whose record has the name owns the
partial file. Without locks, an earlier owner detects the new record before its next write.

A partial file that belongs to another user, or is not a regular file, is neither written to nor
removed. Neither is one that has bytes but no record: another program may use its name. A partial
file with a second name is replaced, and the record of another user is ignored.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from natproxy.client.errors import LocalError
from natproxy.client.transfer.destination import LocalFile
from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.filesystem import lock
from natproxy.client.transfer.part_file import (
    RECORD_SUFFIX,
    SUFFIX,
    PartFile,
    stem_of,
)
from natproxy.client.transfer.record import Record

# Attempts to open a partial file that other processes replace at the same time.
_ATTEMPTS = 100

# Errors of opening a name under which there is no record: a link, a socket, another user's file.
_NO_RECORD = frozenset((errno.ENOENT, errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EACCES))


class Claim:
    """The claim of this process to a partial file.

    Received bytes are used only if all of them belong to the same version of the same file.
    Otherwise the partial file is removed and a new one is created; it is never truncated.

    :param directory: of the complete file.
    :param file: the complete file.
    :param fresh: the record of a download of which nothing has been received.
    :ivar part: the partial file, after `acquire` or `create_private`.
    :ivar record: the file of its record; ``None`` for a private partial file.
    :ivar segments: of the whole file, in order.
    :ivar discard_reason: why received bytes are not used; empty if none are lost.
    :ivar trusted: whether all received bytes are certainly on the disk.
    """

    part: PartFile

    def __init__(self, directory: LocalDirectory, file: LocalFile, fresh: Record) -> None:
        self._directory = directory
        self._path = file.path
        self._final = file.name
        self._fresh = fresh
        self.record: PartFile | None = None
        self.segments = fresh.segments
        self.discard_reason = ""
        self.trusted = True

    def create_private(self) -> None:
        """Create a partial file that no other process opens, without a record.

        :raises OSError: if that fails.
        """
        self.part = PartFile.create_private(self._directory, self._final)
        self.segments = self._fresh.segments

    def acquire(self, concurrent: bool) -> bool:
        """Claim the usual partial file with its received bytes, or create it.

        :param concurrent: whether false is returned if another process has locked the file.
        :return: whether the file is claimed; otherwise only a private one can be used.
        :raises LocalError: if another process or thread has locked it.
        :raises OSError: if that fails.
        """
        stem = stem_of(self._final)
        for _ in range(_ATTEMPTS):
            try:
                part = self._open_part(stem + SUFFIX)
            except BlockingIOError as error:
                if not concurrent:
                    busy = "another process is downloading it"
                    raise LocalError(self._path, OSError(errno.EBUSY, busy)) from error
                self.discard_reason = "another process or thread is downloading it"
                return False
            if part is None:
                self.discard_reason = "something else has the name of the partial file"
                return False
            try:
                if not part.created and self._is_unrecorded(part, stem + RECORD_SUFFIX):
                    part.close()
                    self.discard_reason = "a file with the name of the partial file has no record"
                    return False
                if not self._resume(part, stem + RECORD_SUFFIX):
                    if not part.created:
                        # An earlier owner that still runs writes to the removed file. The record
                        # stays until it is replaced: a partial file without a record is
                        # taken for another program's.
                        part.remove()
                        part.close()
                        continue
                    self.segments = self._fresh.segments
                record = self._create_record(stem + RECORD_SUFFIX)
            except BaseException:
                part.close()
                raise
            if record is None:
                if part.created:
                    part.remove()
                part.close()
                self.discard_reason = "something else has the name of the record"
                return False
            self.part, self.record = part, record
            return True
        raise OSError(errno.EBUSY, "other processes keep replacing it")

    def _open_part(self, name: bytes) -> PartFile | None:
        """Open and lock the usual partial file, or create it.

        :return: ``None`` if the name belongs to another user, or not to a regular file.
        :raises BlockingIOError: if another process or thread has locked it.
        """
        for _ in range(_ATTEMPTS):
            found = self._directory.lstat(name)
            if found is not None and not self._is_ours(found):
                return None
            try:
                if found is None:
                    part = PartFile.create(self._directory, name, self._final)
                else:
                    file = self._directory.open(name, os.O_RDWR | os.O_NONBLOCK)
                    part = PartFile(self._directory, name, file)
            except (FileExistsError, FileNotFoundError):
                continue
            try:
                lock(part.descriptor)
                now = os.fstat(part.descriptor)
                # The process that held the lock may have renamed the file to its final name.
                if part.in_place() and self._is_ours(now):
                    if now.st_nlink <= 1:
                        return part
                    # Writing to it would change the file with the second name.
                    self.discard_reason = "the partial file has a second name"
                    part.remove()
            except BaseException:
                part.close()
                raise
            part.close()
        raise OSError(errno.EBUSY, "other processes keep replacing it")

    def _is_ours(self, found: os.stat_result) -> bool:
        """Return whether a file is regular and has the owner of files that are created here."""
        if not stat.S_ISREG(found.st_mode):
            return False
        if found.st_uid == os.geteuid():
            return True
        # Some file systems assign an owner of their own to all files.
        probe = PartFile.create_private(self._directory, self._final)
        try:
            return os.fstat(probe.descriptor).st_uid == found.st_uid
        finally:
            probe.remove()
            probe.close()

    def _is_unrecorded(self, part: PartFile, record_name: bytes) -> bool:
        """Return whether a partial file has bytes but no record, as another program's file has.

        A killed process leaves a record, or an empty partial file.
        """
        size = os.fstat(part.descriptor).st_size
        return size > 0 and self._directory.lstat(record_name) is None and part.in_place()

    def _resume(self, part: PartFile, record_name: bytes) -> bool:
        """Read the record; return whether its bytes belong to this version of the file."""
        size = os.fstat(part.descriptor).st_size
        record = self._read_record(record_name)
        fresh = self._fresh
        if record is None:
            lost = "the record of the received bytes is missing or damaged" if size else ""
            self.discard_reason = self.discard_reason or lost
            return False
        kept = record.kept
        if (record.name, record.etag, record.size) != (fresh.name, fresh.etag, fresh.size):
            if kept:
                self.discard_reason = "changed on the server"
            return False
        if part.created:
            if kept:
                self.discard_reason = self.discard_reason or "the partial file is missing"
            return False
        self.segments = record.segments
        # After a power failure the record may be on the disk although the bytes are not.
        self.trusted = not kept or (bool(fresh.boot) and record.boot == fresh.boot)
        for each in self.segments:
            if each.done > max(size, each.start):
                each.done = max(size, each.start)
                self.trusted = False
        return True

    def _read_record(self, name: bytes) -> Record | None:
        try:
            file = self._directory.open(name, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in _NO_RECORD:
                return None
            raise
        try:
            if not self._is_ours(os.fstat(file)):
                return None
            return Record.parse(os.pread(file, 1 << 20, 0))
        finally:
            os.close(file)

    def _create_record(self, name: bytes) -> PartFile | None:
        """Create a record and rename it to its name; ``None`` if that name is not permitted."""
        record = PartFile.create_private(self._directory, self._final, RECORD_SUFFIX)
        random = record.name
        try:
            write_record(record, self._fresh.with_segments(self.segments, self.trusted))
            self._directory.rename(random, name)
        except BaseException as error:
            record.close()
            with suppress(OSError):
                self._directory.unlink(random)
            if isinstance(error, (PermissionError, IsADirectoryError)):
                return None
            raise
        record.name = name
        return record


def write_record(file: PartFile, record: Record) -> None:
    """Write a record to its file.

    :raises OSError: if it cannot be written; then the file has no valid record.
    """
    line = record.line()
    # One write within a page: after a kill, the file has either the old record or the new one.
    written = file.write(memoryview(line), 0)
    # On a full disk, a mixture of the new and the old record must not be valid.
    os.ftruncate(file.descriptor, len(line) if written == len(line) else 0)
    if written < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
