"""A disk that records what is written to it, so that a power cut at any moment can be replayed.

Run as ``recording_disk DIRECTORY LOG BYTES`` by root: a FUSE file system with the one file
``disk`` is mounted on ``DIRECTORY``, for a loop device to be put on it, and each write and flush
is appended to ``LOG`` before it is confirmed. `Recording` reads that log.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

DISK = b"disk"
_ROOT, _FILE = 1, 2
_FORGET, _INIT, _INTERRUPT, _BATCH_FORGET = 2, 26, 36, 42
_LARGEST = 128 * 1024
_HEADER = struct.Struct("=IIQQIIII")
_READ_OR_WRITE = struct.Struct("=QQIIQII")
_ENTRY = struct.Struct("=QI")
_FLUSHED = (1 << 64) - 1


class Write(NamedTuple):
    """A write that the disk has confirmed.

    :ivar end: position in the log behind it.
    :ivar data: that was written; ``None`` for a flush.
    """

    end: int
    offset: int
    data: bytes | None


class Recording:
    """What a recording disk has written to its log.

    :param size: of the disk, in bytes.
    """

    def __init__(self, log: Path, size: int) -> None:
        self.size = size
        self.writes = list(_read(log.read_bytes()))

    def cut(self, path: Path, position: int, chance: random.Random) -> None:
        """Write the disk as a power cut leaves it.

        What was flushed is on it. Of what was written since then, there may be all, nothing or
        any part, as in a cache whose order is not known.

        :param position: in the log.
        """
        done = [write for write in self.writes if write.end <= position]
        flushed = max((i for i, write in enumerate(done) if write.data is None), default=0)
        kept = chance.choice((0.0, 0.5, 1.0))
        with path.open("wb") as image:
            image.truncate(self.size)
            for number, write in enumerate(done):
                if write.data is not None and (number < flushed or chance.random() < kept):
                    image.seek(write.offset)
                    image.write(write.data)


def _read(log: bytes) -> Iterator[Write]:
    position = 0
    while position < len(log):
        offset, size = _ENTRY.unpack_from(log, position)
        begin = position + _ENTRY.size
        position = begin + size
        flushed = offset == _FLUSHED
        yield Write(position, 0 if flushed else offset, None if flushed else log[begin:position])


class RecordingDisk:
    """The file system.

    :param log: file that is appended to.
    :param size: of the disk, in bytes.
    """

    def __init__(self, directory: Path, log: Path, size: int) -> None:
        self._disk = bytearray(size)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._fuse = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._fuse},rootmode=40000,user_id=0,group_id=0,max_read={_LARGEST}"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(DISK, os.fsencode(directory), b"fuse", 0, options.encode()):
            raise OSError(ctypes.get_errno(), "cannot mount")
        self._replies = {
            1: self._look_up,
            3: lambda node, _: struct.pack("=QII", 3600, 0, 0) + self._attributes(node),
            4: lambda node, _: struct.pack("=QII", 3600, 0, 0) + self._attributes(node),
            14: lambda node, _: bytes(16),
            15: self._read,
            16: self._write,
            17: lambda node, _: struct.pack("=5Q4I24x", 0, 0, 0, 0, 0, 4096, 255, 4096, 0),
            18: lambda node, _: b"",
            20: self._flush,
            25: lambda node, _: b"",
            _INIT: lambda node, _: struct.pack(
                "=IIIIHHIIHHI28x", 7, 31, _LARGEST, 1 << 5, 16, 12, _LARGEST, 1, 32, 0, 0
            ),
        }

    def run(self) -> None:
        """Serve until it is unmounted."""
        while True:
            try:
                request = os.read(self._fuse, _LARGEST + 8192)
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                return
            _, code, number, node, *_ = _HEADER.unpack_from(request)
            if code in (_FORGET, _INTERRUPT, _BATCH_FORGET):
                continue
            try:
                reply, failure = self._replies[code](node, request[_HEADER.size :]), 0
            except KeyError:
                reply, failure = b"", errno.ENOSYS
            except OSError as error:
                reply, failure = b"", error.errno or errno.EIO
            os.write(self._fuse, struct.pack("=IiQ", 16 + len(reply), -failure, number) + reply)

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o700 if node == _ROOT else stat.S_IFREG | 0o600
        size = 0 if node == _ROOT else len(self._disk)
        numbers = (node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
        return struct.pack("=6Q10I", *numbers)

    def _look_up(self, node: int, body: bytes) -> bytes:
        if body.rstrip(b"\0") != DISK:
            raise FileNotFoundError(errno.ENOENT, "no such file")
        return struct.pack("=QQQQII", _FILE, 0, 3600, 3600, 0, 0) + self._attributes(_FILE)

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = _READ_OR_WRITE.unpack_from(body)
        return bytes(self._disk[offset : offset + size])

    def _write(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = _READ_OR_WRITE.unpack_from(body)
        data = body[_READ_OR_WRITE.size :][:size]
        self._disk[offset : offset + size] = data
        os.write(self._log, _ENTRY.pack(offset, size) + data)
        return struct.pack("=II", size, 0)

    def _flush(self, node: int, body: bytes) -> bytes:
        os.write(self._log, _ENTRY.pack(_FLUSHED, 0))
        return b""


if __name__ == "__main__":
    RecordingDisk(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])).run()
