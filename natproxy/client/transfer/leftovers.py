"""What killed downloads have left beside the files, and no later download would find.

These are partial files and records with random names, records whose partial file has got its
final name, and partial files of which no byte is kept, or of which the whole file has been saved
since, in a pack for example.
Whatever a running process uses is locked.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from natproxy.client.errors import LocalError
from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.filesystem import lock
from natproxy.client.transfer.part_file import RECORD_SUFFIX, SUFFIX
from natproxy.client.transfer.record import Record
from natproxy.client.transfer.tree import LocalTree

# As `random_name` returns them.
_RANDOM = re.compile(rb"\..+\.[0-9a-f]{12}\.part(?:\.json)?", re.DOTALL)

_LARGEST_RECORD = 1 << 16


def may_be_leftover(name: bytes) -> bool:
    """Return whether the name of a partial file or of a record may be that of a leftover."""
    return name.endswith(RECORD_SUFFIX) or _RANDOM.fullmatch(name) is not None


def remove_leftover_files(tree: LocalTree, paths: Iterable[bytes]) -> None:
    """Remove those of some files that no running process uses and no download would resume.

    A file of another user stays, and so does one on a file system without locks. A failure is
    not an error.

    :param paths: below the tree's root, for which `may_be_leftover` is true.
    """
    for path in paths:
        with suppress(OSError, LocalError), tree.parent(path) as directory:
            _remove(directory, os.path.basename(path))


def _remove(directory: LocalDirectory, name: bytes) -> None:
    record = name.endswith(RECORD_SUFFIX)
    random = _RANDOM.fullmatch(name) is not None
    stem = name[: -len(RECORD_SUFFIX)]
    if not random and directory.lstat(stem + SUFFIX) is not None:
        # A partial download that can be resumed, or of no use.
        _remove_useless(directory, stem)
        return
    with _opened(directory, name) as (file, found):
        if (not record or _is_record(file, found.st_size, random)) and lock(file):
            _unlink_same(directory, name, found)


def _remove_useless(directory: LocalDirectory, stem: bytes) -> None:
    """Remove a partial file and its record if no byte is kept, or the file has been saved since."""
    with (
        _opened(directory, stem + RECORD_SUFFIX) as (record, found_record),
        _opened(directory, stem + SUFFIX) as (part, found),
    ):
        content = _read_record(record, found_record.st_size)
        if content is None:
            return
        saved = directory.lstat(stem[1:])
        superseded = (
            saved is not None
            and stat.S_ISREG(saved.st_mode)
            # A file gets its name after its last change.
            and saved.st_ctime_ns > max(found.st_mtime_ns, found_record.st_mtime_ns)
        )
        if (superseded or not content.kept) and lock(part):
            # The record last, as `PartialDownload.discard` does.
            _unlink_same(directory, stem + SUFFIX, found)
            _unlink_same(directory, stem + RECORD_SUFFIX, found_record)


@contextmanager
def _opened(directory: LocalDirectory, name: bytes) -> Iterator[tuple[int, os.stat_result]]:
    """Open a regular file of this user for reading.

    :raises OSError: if it is none.
    """
    file = directory.open(name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = os.fstat(file)
        if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        yield file, found
    finally:
        os.close(file)


def _unlink_same(directory: LocalDirectory, name: bytes, found: os.stat_result) -> None:
    now = directory.lstat(name)
    if now is not None and os.path.samestat(now, found):
        directory.unlink(name)


def _is_record(file: int, size: int, random: bool) -> bool:
    """Return whether a file is a record, or one that a killed process had not written yet."""
    if not size:
        return random
    return _read_record(file, size) is not None


def _read_record(file: int, size: int) -> Record | None:
    return Record.parse(os.pread(file, size, 0)) if size <= _LARGEST_RECORD else None
