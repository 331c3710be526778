"""A partial download: its bytes, and a record of which of them are there.

The bytes of ``NAME`` go to ``.NAME.part`` and the record to ``.NAME.part.json``, in the
directory where ``NAME`` will be. A record outlives its process, however that ends.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from threading import Lock

from natproxy.client.context import Closing
from natproxy.client.errors import LocalError
from natproxy.client.transfer.destination import LocalFile
from natproxy.client.transfer.filesystem import lock
from natproxy.client.transfer.part_file import (
    RECORD_SUFFIX,
    SUFFIX,
    PartFile,
    StaleFile,
    random_name,
    stem_of,
)
from natproxy.client.transfer.record import Record, Segment, boot_id, divide, without
from natproxy.protocol import Metadata, printable

CHECKPOINT = 1 << 20
"""Bytes after which the record is brought up to date: what a kill costs at most."""

LONGEST_SHOWN = 128
"""Characters of a file's name on the server that its record holds."""

# Times that a partial file is looked for anew when another process changes it meanwhile.
_CLAIMS = 100

# Error numbers of opening what is no record: a link, a socket, another user's file.
_NO_RECORD = frozenset((errno.ENOENT, errno.ELOOP, errno.EMLINK, errno.ENXIO, errno.EACCES))


class ClaimLost(LocalError):
    """Another process has taken the partial file over, or it was removed."""

    def __init__(self, path: bytes) -> None:
        reason = "another process took over or removed the partial download"
        super().__init__(path, OSError(errno.ESTALE, reason))


class PartialDownload(Closing):
    """The partial file and its record, open and claimed by this process.

    Two things make a claim. The partial file is locked, where there are locks. And the record is
    always a new file, renamed to its name: whose record has the name, owns the partial file.
    The earlier owner, where a lock did not stop the later one, notices before its next write.
    What is kept is written to only if all of it is of the same version of the same file;
    otherwise the partial file is removed and a new one created, never truncated.

    A partial file that this user does not own, or that is not a regular file, is neither written
    to nor removed: a private one is used instead, which is not kept. So is one that has bytes,
    and no record: some file of that name that is no partial download. A partial file with a
    second name is replaced, and the record of another user is not believed.

    :param file: the complete one; missing directories are created.
    :param name: of the file on the server, for people who read the record.
    :param status: of the file on the server; what was kept of another one is discarded.
    :param segments: to divide a new download into.
    :param concurrent: whether a private partial file is used if another process, or thread, is
        at the usual one; otherwise that is an error.
    :param private: whether a private partial file is used in any case.
    :raises LocalError: if it cannot be written, or another process is at it.
    :ivar segments: all of the file, in order.
    :ivar discarded: why what was kept is not used; empty if nothing was lost.
    :ivar trusted: whether what was kept is surely on the disk. If the system has been
        restarted since, it is not; who has compared it with the server's bytes may set it.
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
    ) -> None:
        self.path = file.path
        self.metadata = metadata
        self.segments: list[Segment] = []
        self.discarded = ""
        self.trusted = True
        # Enough to tell whose it is, and short enough for the record to fit into a page.
        self._name = printable(name, LONGEST_SHOWN)
        # Threads that fill different segments share the record.
        self._lock = Lock()
        self._unrecorded = 0
        self._boot = boot_id()
        self._final = file.name
        self._record: PartFile | None = None
        self._directory = file.directory(create=True)
        try:
            if private or not self._claim(segments, concurrent):
                self._part = PartFile.create_private(self._directory, self._final)
                self.segments = divide(metadata.size, segments)
        except OSError as error:
            self._directory.close()
            named = os.fsencode(error.filename) if error.filename else self._final
            raise LocalError(self._directory.path_of(named), error) from error
        except BaseException:
            self._directory.close()
            raise

    @property
    def kept(self) -> int:
        """Bytes that are there."""
        return sum(segment.done - segment.start for segment in self.segments)

    @property
    def missing(self) -> list[Segment]:
        """The segments of which something is missing."""
        return [each for each in self.segments if each.done < each.end]

    def lose(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Have ranges downloaded again: what is there of them is damaged.

        :param ranges: offsets of first bytes, and offsets after last ones. The segments are
            others from now on.
        """
        with self._lock:
            for start, end in ranges:
                self.segments = without(self.segments, start, end)

    def write(self, segment: Segment, data: memoryview) -> None:
        """Add bytes to a segment.

        :raises ClaimLost: if another process has claimed the partial file; nothing is written.
        :raises LocalError: if they can't be written; those before them are kept.
        """
        written = 0
        try:
            self._check()
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
        """Read bytes back.

        :raises LocalError: if they can't be read.
        """
        try:
            return os.preadv(self._part.descriptor, [buffer], offset)
        except OSError as error:
            raise LocalError(self.path, error) from error

    def save(self) -> None:
        """Bring the record up to date.

        :raises OSError: if it can't be written.
        """
        if self._record is None:
            return
        with self._lock:
            self._unrecorded = 0
            self._write_record(self._record)

    def finish(self, replace: bool = True) -> bool:
        """Give the file its name: all of its bytes are there, and now on the disk.

        :param replace: whether a file that has the name is replaced.
        :return: whether it has the name; false if another file has it and is not replaced.
        :raises ClaimLost: if another process has claimed the partial file.
        :raises LocalError: if that can't be done. When they can't be brought to the disk,
            nothing is kept: the system doesn't say which of them are lost.
        """
        try:
            self._check()
            # What was there of a longer file may have outlived a power failure.
            os.ftruncate(self._part.descriptor, self.metadata.size)
            self._part.complete(self._final, self.metadata.mtime_ns)
            try:
                self._part.sync()
            except OSError:
                self.discard()
                raise
            self._check()
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
        # A record without its partial file does no harm.
        with suppress(OSError):
            if self._record is not None:
                self._record.remove()
        try:
            self._directory.sync()
        except OSError as error:
            raise LocalError(self._directory.path or b".", error) from error
        return True

    def discard(self) -> None:
        """Keep nothing."""
        # In this order: a process that is killed leaves no partial file without a record.
        for each in (self._part, self._record):
            with suppress(OSError):
                if each is not None:
                    each.remove()

    def close(self) -> None:
        """Let go of the files; what has been received is on record."""
        if self._part.descriptor < 0:
            return
        with suppress(OSError):
            if self._record is None:
                # Nobody would find it.
                self._part.remove()
            elif self.segments:
                self.save()
        if self._record is not None:
            self._record.close()
        self._part.close()
        self._directory.close()

    def _check(self) -> None:
        """See that no other process has claimed the partial file.

        :raises ClaimLost: if one has.
        """
        record = self._record
        if record is not None and not (record.in_place() and self._part.in_place()):
            raise ClaimLost(self.path)

    def _claim(self, segments: int, concurrent: bool) -> bool:
        """Claim the usual partial file, with what is kept in it, or create it.

        :return: whether that has been possible.
        """
        stem = stem_of(self._final)
        for _ in range(_CLAIMS):
            try:
                part = self._open_part(stem + SUFFIX)
            except BlockingIOError as error:
                if not concurrent:
                    busy = "another process is downloading it"
                    raise LocalError(self.path, OSError(errno.EBUSY, busy)) from error
                self.discarded = "another process or thread is downloading it"
                return False
            if part is None:
                self.discarded = "what has the name of the partial file is not ours"
                return False
            try:
                if not part.created and self._is_unrecorded(part, stem + RECORD_SUFFIX):
                    part.close()
                    self.discarded = "what has the name of the partial file has no record"
                    return False
                if not self._take_up(part, stem + RECORD_SUFFIX):
                    if not part.created:
                        # An earlier owner, if it lives, keeps the file that it writes to. The
                        # record stays until it is replaced: without one, a partial file is
                        # another program's.
                        part.remove()
                        part.close()
                        continue
                    self.segments = divide(self.metadata.size, segments)
                record = self._create_record(stem + RECORD_SUFFIX)
            except BaseException:
                part.close()
                raise
            if record is None:
                if part.created:
                    part.remove()
                part.close()
                self.discarded = "what has the name of the record is not ours"
                return False
            self._part, self._record = part, record
            return True
        raise OSError(errno.EBUSY, "other processes keep replacing it")

    def _open_part(self, name: bytes) -> PartFile | None:
        """Open and lock the usual partial file, or create it; `None` if it is not ours.

        :raises BlockingIOError: if another process, or thread, has locked it.
        """
        for _ in range(_CLAIMS):
            found = self._directory.look(name)
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
                # Whoever had it locked may have given it its name meanwhile.
                if part.in_place() and self._is_ours(now):
                    if now.st_nlink <= 1:
                        return part
                    # To write to it would change the file that has the other name.
                    self.discarded = "what was kept has a second name"
                    part.remove()
            except BaseException:
                part.close()
                raise
            part.close()
        raise OSError(errno.EBUSY, "other processes keep replacing it")

    def _is_ours(self, found: os.stat_result) -> bool:
        """Return whether a file is regular, and of the owner that files created here have."""
        if not stat.S_ISREG(found.st_mode):
            return False
        if found.st_uid == os.geteuid():
            return True
        # Some file systems have owners of their own for all files.
        probe = PartFile.create_private(self._directory, self._final)
        try:
            return os.fstat(probe.descriptor).st_uid == found.st_uid
        finally:
            probe.remove()
            probe.close()

    def _is_unrecorded(self, part: PartFile, record_name: bytes) -> bool:
        """Return whether a partial file has bytes, and no record: it may be a file like others.

        A process that is killed leaves a record, or a partial file that is empty.
        """
        size = os.fstat(part.descriptor).st_size
        return size > 0 and self._directory.look(record_name) is None and part.in_place()

    def _take_up(self, part: PartFile, record_name: bytes) -> bool:
        """Go on with what is kept, if that is of the same version of the file."""
        size = os.fstat(part.descriptor).st_size
        record = self._read_record(record_name)
        if record is None:
            self.discarded = self.discarded or ("nothing tells what was kept" if size else "")
            return False
        kept = record.kept
        if (record.name, record.etag, record.size) != (
            self._name,
            self.metadata.etag,
            self.metadata.size,
        ):
            if kept:
                self.discarded = "changed on the server"
            return False
        if part.created:
            if kept:
                self.discarded = self.discarded or "what was kept is gone"
            return False
        self.segments = record.segments
        # After a power failure the record may be on the disk and the bytes not.
        self.trusted = not kept or (bool(self._boot) and record.boot == self._boot)
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
        """Create a record and give it its name; `None` if that is another user's to give."""
        random = random_name(self._final, RECORD_SUFFIX)
        record = PartFile.create(self._directory, random, self._final)
        try:
            self._write_record(record)
            self._directory.rename(random, name)
        except BaseException as error:
            record.close()
            self._unlink(random)
            if isinstance(error, (PermissionError, IsADirectoryError)):
                return None
            raise
        record.name = name
        return record

    def _write_record(self, record: PartFile) -> None:
        # Of this run of the system, if all that is kept is surely there; else of none.
        boot = self._boot if self.trusted else ""
        metadata = self.metadata
        line = Record(self._name, metadata.etag, metadata.size, boot, self.segments).line()
        # One write within a page: a process that is killed leaves the old or the new.
        written = record.write(memoryview(line), 0)
        # On a full disk, half a new record and half an old one must not be believed.
        os.ftruncate(record.descriptor, len(line) if written == len(line) else 0)
        if written < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _unlink(self, name: bytes) -> None:
        with suppress(OSError):
            self._directory.unlink(name)


def is_partial(name: bytes) -> bool:
    """Tell whether a file name is that of an incomplete download, or of its record."""
    return name.startswith(b".") and name.endswith((SUFFIX, RECORD_SUFFIX))
