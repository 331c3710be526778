"""The served directory: its boundary, its listing, its files.

A name from a client is resolved below the served directory or not at all, and the
kernel decides which: ``openat2`` where there is one (Linux 5.6), otherwise a walk of
one component at a time. Path strings are never compared. Sizes are taken from the
descriptor that the bytes are read from.

No reactor in here: `Directory.listing` takes long and is called in a thread.
"""

from __future__ import annotations

import ctypes
import errno
import heapq
import os
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from itertools import islice
from typing import NamedTuple

from natproxy import wire

# <linux/openat2.h>; the system call has this number on every architecture but Alpha.
_SYS_OPENAT2 = 437
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_OPENAT2_TRIES = 8

# O_NONBLOCK: whatever else takes the file's place after the check, a FIFO in
# particular, must not be waited for.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LOOK = getattr(os, "O_PATH", _READ) | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# What the server lacks is not the file's absence.
_OUR_OWN_LACK = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.EAGAIN))

# Names sorted or joined in one call: about a millisecond, for which the thread that
# scans holds the interpreter and the reactor waits.
_RUN = 4096

Opener = Callable[[int, bytes, int], int]
"""Opens a name below a directory's descriptor, with ``open(2)``'s flags."""


class FileNotFound(Exception):
    """There is nothing to serve under this name; why is not for the client to know."""


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class Served(NamedTuple):
    """An open file and its size in bytes, taken from the same descriptor."""

    file: FileIO
    size: int


@dataclass(frozen=True)
class Listing:
    """The files of a directory at one time.

    :ivar body: a line for each, sorted by bytes.
    :ivar omitted: names that no line can carry, sorted.
    """

    body: bytes
    omitted: tuple[bytes, ...]


def open_beneath(folder: int, name: bytes, flags: int) -> int:
    """Open by ``openat2``: the kernel refuses whatever would lead outside.

    Links that stay inside are followed.

    :raises OSError: as ``openat2(2)`` does; ``ENOSYS`` where there is none.
    """
    how = _OpenHow(flags, 0, _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS)
    for _ in range(_OPENAT2_TRIES):
        opened: int = _syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(folder),
            ctypes.c_char_p(name),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if opened >= 0:
            return opened
        code = ctypes.get_errno()
        # A rename elsewhere in the tree can make the kernel unsure of a "..".
        if code not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(code, os.strerror(code))


def open_by_walk(folder: int, name: bytes, flags: int) -> int:
    """Open one component at a time, following no link at all.

    :raises OSError: as ``open(2)`` does; ``ELOOP`` or ``ENOTDIR`` for a link.
    """
    *folders, last = name.split(b"/")
    above = folder
    try:
        for component in folders:
            below = os.open(component, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
            if above != folder:
                os.close(above)
            above = below
        return os.open(last, flags | os.O_NOFOLLOW, dir_fd=above)
    finally:
        if above != folder:
            os.close(above)


def choose_opener() -> Opener:
    """Give `open_beneath` if this kernel, and its sandbox, let it work; else the walk."""
    if sys.platform != "linux":
        return open_by_walk
    folder = os.open("/", _FOLDER)
    try:
        os.close(open_beneath(folder, b".", _FOLDER))
    except OSError:
        return open_by_walk
    finally:
        os.close(folder)
    return open_beneath


class Directory:
    """The directory that is served.

    Its path is resolved anew for each command, so that a folder which is replaced, or
    a link that is turned to the next release, is served from then on.

    :param path: of the directory.
    :param opener: how names below it are opened; see `choose_opener`.
    """

    def __init__(self, path: str | bytes, opener: Opener | None = None) -> None:
        self.path = os.fsencode(path)
        self._open_below = opener or choose_opener()

    def check(self) -> None:
        """See that the directory is there and can be listed.

        :raises OSError: when it can't.
        """
        folder = os.open(self.path, _FOLDER)
        try:
            with os.scandir(folder) as entries:
                next(entries, None)
        finally:
            os.close(folder)

    def open(self, name: bytes) -> Served:
        """Open a regular file for reading.

        :param name: its path below the directory: components between single slashes,
            none of them ``.`` or ``..``.
        :raises FileNotFound: for anything that is not to be served: absent, not a
            regular file, outside, unreadable.
        :raises OSError: when the server lacks descriptors or memory, or the disk fails.
        """
        if b"\0" in name or not {b"", b".", b".."}.isdisjoint(name.split(b"/")):
            raise FileNotFound
        with _blame():
            folder = os.open(self.path, _FOLDER)
        try:
            return self._open_regular(folder, name)
        finally:
            os.close(folder)

    def listing(self) -> Listing:
        """Scan the directory for regular files, and links inside it that lead to some.

        :raises OSError: if the directory cannot be read.
        """
        names: list[bytes] = []
        omitted: list[bytes] = []
        folder = os.open(self.path, _FOLDER)
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    if entry.is_file(follow_symlinks=False) or (
                        entry.is_symlink() and self._leads_to_file(folder, name)
                    ):
                        (names if wire.listable(name) else omitted).append(name)
        finally:
            os.close(folder)
        return Listing(_sorted_lines(names), tuple(sorted(omitted)))

    def _leads_to_file(self, folder: int, name: bytes) -> bool:
        try:
            self._open_regular(folder, name).file.close()
        except FileNotFound:
            return False
        return True

    def _open_regular(self, folder: int, name: bytes) -> Served:
        with _blame():
            # Opening a FIFO or a device, even without waiting, is felt at its other end:
            # look first, and look again at what was really opened.
            looked, _ = self._regular(folder, name, _LOOK)
            os.close(looked)
            descriptor, size = self._regular(folder, name, _READ)
        return Served(FileIO(descriptor), size)

    def _regular(self, folder: int, name: bytes, flags: int) -> tuple[int, int]:
        descriptor = self._open_below(folder, name, flags)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FileNotFound
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, status.st_size


@contextmanager
def _blame() -> Iterator[None]:
    """Tell what the server lacks, an `OSError`, from what is not there: `FileNotFound`."""
    try:
        yield
    except OSError as error:
        if error.errno in _OUR_OWN_LACK:
            raise
        raise FileNotFound from error


def _sorted_lines(names: list[bytes]) -> bytes:
    ordered = heapq.merge(*(sorted(run) for run in _runs(names)))
    return b"".join([b"".join([name + b"\n" for name in run]) for run in _runs(ordered)])


def _runs(names: Iterable[bytes]) -> Iterable[list[bytes]]:
    source = iter(names)
    return iter(lambda: list(islice(source, _RUN)), [])


_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
