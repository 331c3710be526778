"""A download that isn't complete: its bytes, and a record of which of them are there.

The bytes of ``NAME`` go to ``.NAME.part`` and the record to ``.NAME.part.json``, in the
folder where ``NAME`` will be. A record outlives its process, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
from contextlib import suppress
from itertools import pairwise
from threading import Lock
from types import TracebackType
from typing import Any

from natproxy import wire
from natproxy.client.errors import LocalError

CHECKPOINT = 4 << 20
"""Bytes after which the record is brought up to date."""

LONGEST_NAME = 255
"""Bytes of a file name: the limit of Linux's file systems."""

SUFFIX = b".part"
RECORD_SUFFIX = SUFFIX + b".json"

SMALLEST_SEGMENT = 1 << 20
"""Bytes below which a file isn't divided any further."""

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Segment:
    """A contiguous piece of the file.

    :ivar start: the offset of its first byte.
    :ivar done: the offset of the first byte that is still missing.
    :ivar end: the offset after its last byte.
    """

    __slots__ = ("done", "end", "start")

    def __init__(self, start: int, done: int, end: int) -> None:
        self.start = start
        self.done = done
        self.end = end


class Partial:
    """The incomplete file, open and locked.

    :param path: that the file will have.
    :param name: of the file on the server, for people who read the record.
    :param status: of the file on the server; what was kept of another one is discarded.
    :param segments: to divide a new download into.
    :raises LocalError: if it can't be written, or another process is at it.
    :ivar segments: all of the file, in order.
    :ivar discarded: bytes that were kept of another file, and are gone.
    :ivar trusted: whether what was kept is surely on the disk: the system has not been
        restarted since, or it would have to be looked at.
    """

    def __init__(self, path: bytes, name: bytes, status: wire.Status, segments: int = 1) -> None:
        self.path = path
        self.status = status
        self.segments: list[Segment] = []
        self.discarded = 0
        self.trusted = True
        self._name = name
        # Threads that fill different segments share the record.
        self._lock = Lock()
        self._unrecorded = 0
        folder, last = os.path.split(path)
        stem = _stem(last)
        self._part = os.path.join(folder, stem + SUFFIX)
        self._record_path = os.path.join(folder, stem + RECORD_SUFFIX)
        try:
            self._file = _open_locked(self._part)
            try:
                self._record = os.open(
                    self._record_path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666
                )
            except BaseException:
                os.close(self._file)
                raise
        except OSError as error:
            raise LocalError(path, error) from error
        try:
            if not self._take_up():
                self.begin(segments)
        except OSError as error:
            self.close()
            raise LocalError(path, error) from error

    def __enter__(self) -> Partial:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def kept(self) -> int:
        """Bytes that are there."""
        return sum(segment.done - segment.start for segment in self.segments)

    def begin(self, segments: int) -> None:
        """Begin anew, with nothing.

        :raises OSError: if it can't be written.
        """
        os.ftruncate(self._file, 0)
        size = self.status.size
        count = max(1, min(segments, size // SMALLEST_SEGMENT))
        marks = [size * number // count for number in range(count + 1)]
        self.segments = [Segment(start, start, end) for start, end in pairwise(marks)]
        self.trusted = True
        self.save()

    def write(self, segment: Segment, data: memoryview) -> None:
        """Add bytes to a segment.

        :raises LocalError: if they can't be written; those before them are kept.
        """
        written = 0
        try:
            while written < len(data):
                size = os.pwrite(self._file, data[written:], segment.done)
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
            return os.preadv(self._file, [buffer], offset)
        except OSError as error:
            raise LocalError(self.path, error) from error

    def save(self) -> None:
        """Bring the record up to date.

        :raises OSError: if it can't be written.
        """
        with self._lock:
            self._unrecorded = 0
            record = {
                "natproxy": 2,
                "name": os.fsdecode(self._name),
                "etag": self.status.etag,
                "size": self.status.size,
                "boot": boot_id(),
                "segments": [[each.start, each.done, each.end] for each in self.segments],
            }
            # One write within a page: a process that is killed leaves the old or the new.
            line = json.dumps(record).encode("ascii") + b"\n"
            os.pwrite(self._record, line, 0)
            os.ftruncate(self._record, len(line))

    def finish(self) -> None:
        """Give the file its name: all of its bytes are there, and now on the disk.

        :raises LocalError: if that can't be done.
        """
        try:
            os.fsync(self._file)
            times = (os.fstat(self._file).st_atime_ns, self.status.mtime_ns)
            os.utime(self._file, ns=times)
            os.replace(self._part, self.path)
            os.unlink(self._record_path)
            _sync_folder(os.path.dirname(self.path) or b".")
        except OSError as error:
            raise LocalError(self.path, error) from error

    def discard(self) -> None:
        """Keep nothing."""
        for path in (self._record_path, self._part):
            with suppress(FileNotFoundError):
                os.unlink(path)

    def close(self) -> None:
        """Let go of the files; what has been received is on record."""
        if self._file < 0:
            return
        with suppress(OSError):
            if self.segments:
                self.save()
        os.close(self._record)
        os.close(self._file)
        self._file = self._record = -1

    def _take_up(self) -> bool:
        size = os.fstat(self._file).st_size
        record = _read_record(self._record)
        if record is None:
            self.discarded = size
            return False
        segments = [Segment(*each) for each in record["segments"]]
        kept = sum(each.done - each.start for each in segments)
        there = max((each.done for each in segments if each.done > each.start), default=0)
        of_this_file = (record["etag"], record["size"]) == (self.status.etag, self.status.size)
        if not of_this_file or size < there:
            self.discarded = kept
            return False
        self.segments = segments
        # After a power failure the record may be on the disk and the bytes not.
        self.trusted = not kept or (bool(boot_id()) and record["boot"] == boot_id())
        return True


def boot_id() -> str:
    """Tell this run of the system from all others; empty where it can't be told."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def is_partial(name: bytes) -> bool:
    """Tell whether a file name is that of an incomplete download, or of its record."""
    return name.startswith(b".") and name.endswith((SUFFIX, RECORD_SUFFIX))


def _stem(name: bytes) -> bytes:
    if len(name) + 1 + len(RECORD_SUFFIX) > LONGEST_NAME:
        digest = hashlib.blake2b(name, digest_size=8).hexdigest().encode("ascii")
        name = name[:200] + b"~" + digest
    return b"." + name


def _open_locked(path: bytes) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):
                # Whoever had it locked may have given it its name meanwhile.
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file
        except BlockingIOError as error:
            os.close(file)
            raise OSError(errno.EBUSY, "another process is fetching it") from error
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _read_record(file: int) -> dict[str, Any] | None:
    """Give a record that holds together, or none."""
    try:
        record = json.loads(os.pread(file, 1 << 20, 0).split(b"\n", 1)[0])
        expected = 0
        for start, done, end in record["segments"]:
            if not (start == expected and start <= done <= end and isinstance(done, int)):
                return None
            expected = end
        if expected != record["size"] or not isinstance(record["etag"], str):
            return None
        record["boot"] = str(record.get("boot", ""))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return record if isinstance(record, dict) else None


def _sync_folder(path: bytes) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
