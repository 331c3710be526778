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
from typing import Any

from natproxy import wire
from natproxy.client.closing import Closing
from natproxy.client.errors import LocalError

CHECKPOINT = 1 << 20
"""Bytes after which the record is brought up to date: what a kill costs at most."""

LONGEST_NAME = 255
"""Bytes of a file name: the limit of Linux's file systems."""

SUFFIX = b".part"
RECORD_SUFFIX = SUFFIX + b".json"

LONGEST_SHOWN = 128
"""Characters of a file's name on the server that its record holds."""

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


class Partial(Closing):
    """The incomplete file, open and locked.

    :param path: that the file will have.
    :param name: of the file on the server, for people who read the record.
    :param status: of the file on the server; what was kept of another one is discarded.
    :param segments: to divide a new download into.
    :raises LocalError: if it can't be written, or another process is at it.
    :ivar segments: all of the file, in order.
    :ivar discarded: why what was kept is gone; empty if nothing was lost.
    :ivar trusted: whether what was kept is surely on the disk. If the system has been
        restarted since, it isn't; who has compared it with the server's bytes may set it.
    """

    def __init__(self, path: bytes, name: bytes, status: wire.Status, segments: int = 1) -> None:
        self.path = path
        self.status = status
        self.segments: list[Segment] = []
        self.discarded = ""
        self.trusted = True
        # Enough to tell whose it is, and short enough for the record to fit into a page.
        self._name = wire.printable(name, LONGEST_SHOWN)
        # Threads that fill different segments share the record.
        self._lock = Lock()
        self._unrecorded = 0
        self._boot = boot_id()
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
            blamed = os.fsencode(error.filename) if error.filename else path
            raise LocalError(blamed, error) from error
        try:
            taken_up = self._take_up()
        except OSError as error:
            self.close()
            raise LocalError(path, error) from error
        if not taken_up:
            self.begin(segments)

    @property
    def kept(self) -> int:
        """Bytes that are there."""
        return sum(segment.done - segment.start for segment in self.segments)

    def begin(self, segments: int) -> None:
        """Begin anew, with nothing.

        :raises LocalError: if it can't be written; then it is closed.
        """
        size = self.status.size
        count = max(1, min(segments, size // SMALLEST_SEGMENT))
        marks = [size * number // count for number in range(count + 1)]
        self.segments = [Segment(start, start, end) for start, end in pairwise(marks)]
        self.trusted = True
        try:
            os.ftruncate(self._file, 0)
            self.save()
        except OSError as error:
            self.close()
            raise LocalError(self.path, error) from error

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
                "name": self._name,
                "etag": self.status.etag,
                "size": self.status.size,
                # Of this run, if all that is kept is surely there; else of none.
                "boot": self._boot if self.trusted else "",
                "segments": [[each.start, each.done, each.end] for each in self.segments],
            }
            # One write within a page: a process that is killed leaves the old or the new.
            line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
            os.pwrite(self._record, line, 0)
            os.ftruncate(self._record, len(line))

    def finish(self) -> None:
        """Give the file its name: all of its bytes are there, and now on the disk.

        :raises LocalError: if that can't be done. When they can't be brought to the disk,
            nothing is kept: the system doesn't say which of them are lost.
        """
        try:
            # What was there of a longer file may have outlived a power failure.
            os.ftruncate(self._file, self.status.size)
            # A time that can't be set, such as one far in the future, is no reason to fail.
            with suppress(OSError, OverflowError):
                times = (os.fstat(self._file).st_atime_ns, self.status.mtime_ns)
                os.utime(self._file, ns=times)
            try:
                os.fsync(self._file)
            except OSError:
                self.discard()
                raise
            if not os.path.samestat(os.fstat(self._file), os.lstat(self._part)):
                raise OSError(errno.ESTALE, "another file took the place of what was received")
            os.replace(self._part, self.path)
        except OSError as error:
            raise LocalError(self.path, error) from error
        # It is there; what else fails takes nothing of that away.
        with suppress(OSError):
            os.unlink(self._record_path)
            _sync_folder(os.path.dirname(self.path) or b".")

    def discard(self) -> None:
        """Keep nothing."""
        for path in (self._record_path, self._part):
            with suppress(OSError):
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
            self.discarded = "nothing tells what was kept" if size else ""
            return False
        segments = [Segment(*each) for each in record["segments"]]
        kept = sum(each.done - each.start for each in segments)
        there = max((each.done for each in segments if each.done > each.start), default=0)
        of_this_file = (record["name"], record["etag"], record["size"]) == (
            self._name,
            self.status.etag,
            self.status.size,
        )
        if not of_this_file or size < there:
            if kept:
                self.discarded = (
                    "what was kept is damaged" if of_this_file else "changed on the server"
                )
            return False
        self.segments = segments
        # After a power failure the record may be on the disk and the bytes not.
        self.trusted = not kept or (bool(self._boot) and record["boot"] == self._boot)
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
                if os.path.samestat(os.fstat(file), os.lstat(path)):
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
            # Whatever JSON calls a number: neither True nor 1.0 is an offset.
            if {type(start), type(done), type(end)} != {int}:
                return None
            if not (start == expected and start <= done <= end):
                return None
            expected = end
        whole = expected == record["size"] and record["segments"]
        texts = (record["name"], record["etag"], record["boot"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return record if whole and all(isinstance(text, str) for text in texts) else None


def _sync_folder(path: bytes) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
