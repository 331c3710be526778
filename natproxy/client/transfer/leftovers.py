"""What killed downloads have left beside the files, and no later download would find.

These are partial files and records with random names, and records whose partial file has got its
final name. Whatever a running process uses is locked.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress

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
    if not random and directory.lstat(name[: -len(RECORD_SUFFIX)] + SUFFIX) is not None:
        # A partial download that can be resumed.
        return
    file = directory.open(name, os.O_RDONLY | os.O_NONBLOCK)
    try:
        found = os.fstat(file)
        if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
            return
        if record and not _is_record(file, found.st_size, random):
            return
        if lock(file):
            now = directory.lstat(name)
            if now is not None and os.path.samestat(now, found):
                directory.unlink(name)
    finally:
        os.close(file)


def _is_record(file: int, size: int, random: bool) -> bool:
    """Return whether a file is a record, or one that a killed process had not written yet."""
    if not size:
        return random
    return size <= _LARGEST_RECORD and Record.parse(os.pread(file, size, 0)) is not None
