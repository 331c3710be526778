"""What is said of files and folders: their status, and the pages of a whole tree.

Names are full paths below the served directory, in the order of their bytes. A page is
made by a walk from the name after which it begins, which leaves out, unread, the
sub-trees that end before.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from natproxy import wire
from natproxy.storage.confinement import (
    FOLDER,
    LOOK,
    MAX_PATH,
    FileNotFound,
    Opener,
    blame,
    own_lack,
)
from natproxy.storage.scans import Scans, keys_after

# Of a page's body, in bytes.
_PAGE = 2**20

_ETAG_BYTES = 12

# A link that took a folder's place after the scan is not descended into.
_BELOW = FOLDER | os.O_NOFOLLOW


def status_of(result: os.stat_result) -> wire.Status:
    """Give the status of a regular file or a folder.

    The ``etag`` outlasts the server: a download may go on after a restart.

    :raises FileNotFound: if it is anything else.
    """
    if stat.S_ISREG(result.st_mode):
        kind, size = wire.FILE, result.st_size
    elif stat.S_ISDIR(result.st_mode):
        kind, size = wire.DIRECTORY, 0
    else:
        raise FileNotFound
    seen = b"%d %d %d %d %d" % (
        result.st_dev,
        result.st_ino,
        result.st_size,
        result.st_mtime_ns,
        result.st_ctime_ns,
    )
    etag = hashlib.blake2b(seen, digest_size=_ETAG_BYTES).hexdigest()
    return wire.Status(kind, size, result.st_mtime_ns, etag)


def page_of(entries: Iterator[wire.Entry], limit: int) -> bytes:
    """Write a page of entries, of about 1 MiB at most.

    :param limit: of entries. If there is a further one, the last line is ``more``.
    """
    lines: list[bytes] = []
    size = 0
    for entry in entries:
        line = wire.format_entry(entry)
        size += len(line)
        if len(lines) == limit or size > _PAGE:
            lines.append(wire.MORE + b"\n")
            break
        lines.append(line)
    return b"".join(lines)


class _Level(NamedTuple):
    """A folder on the way from the top of a walk to where it is.

    :ivar path: with a slash at its end; empty for the served directory.
    :ivar rest: the path, below this one, after which entries are wanted.
    :ivar keys: of the folder, those still ahead.
    """

    path: bytes
    rest: bytes
    keys: Iterator[bytes]


class Tree:
    """The served directory as one page, or one question, finds it.

    One folder is open at a time, besides the top: a tree may be deeper than there are
    descriptors. To be closed.

    :param root: descriptor of the served directory; stays the caller's.
    :param opener: how names below it are opened.
    """

    def __init__(self, root: int, opener: Opener, scans: Scans) -> None:
        self._root = root
        self._opener = opener
        self._scans = scans
        self._top = b""
        self._path = b""
        self._folder = root

    def close(self) -> None:
        """Close the folder that is open."""
        self._move(b"", self._root)

    def status(self, name: bytes) -> wire.Status:
        """Look at a file or a folder.

        :raises FileNotFound: if there is neither under this name.
        :raises OSError: when the server lacks descriptors or memory, or the disk fails.
        """
        if not name:
            return status_of(os.fstat(self._root))
        with blame():
            looked = self._opener(self._root, name, LOOK)
            try:
                return status_of(os.fstat(looked))
            finally:
                os.close(looked)

    def entries(self, name: bytes, depth: float, after: bytes) -> Iterator[wire.Entry]:
        """Walk through a folder.

        :param name: of the folder; empty for the served directory.
        :param depth: levels of folders, 1 or more, or `math.inf`.
        :param after: entries up to this name are left out; empty for none.
        :raises FileNotFound: if it cannot be read.
        :raises OSError: as `status` does.
        """
        top = name + b"/" if name else b""
        if after.startswith(top):
            rest = after.removeprefix(top)
        elif after < top:
            rest = b""
        else:
            return
        self._top = top
        with blame():
            levels = [self._enter(top, rest)]
        while levels:
            path, rest, keys = levels[-1]
            key = next(keys, None)
            if key is None:
                levels.pop()
            elif key.endswith(b"/"):
                if len(levels) < depth and len(path) + len(key) < MAX_PATH:
                    below = rest[len(key) :] if rest.startswith(key) else b""
                    try:
                        levels.append(self._enter(path + key, below))
                    except OSError as error:
                        _vanished(error)
            else:
                try:
                    folder = self._open(path)
                except OSError as error:
                    _vanished(error)
                    levels.pop()
                else:
                    entry = self._entry(folder, path, key)
                    if entry is not None:
                        yield entry

    def _entry(self, folder: int, path: bytes, key: bytes) -> wire.Entry | None:
        name = path + key
        if len(name) > MAX_PATH:
            return None
        try:
            result = os.stat(key, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISLNK(result.st_mode):
                # From the served directory, not from this folder: a link may lead
                # upwards as long as it stays inside.
                return wire.Entry(name, self.status(name))
            return wire.Entry(name, status_of(result))
        except FileNotFound:
            return None
        except OSError as error:
            _vanished(error)
            return None

    def _enter(self, path: bytes, rest: bytes) -> _Level:
        return _Level(path, rest, keys_after(self._scans.of(self._open(path)), rest))

    def _open(self, path: bytes) -> int:
        if path != self._path:
            above, slash, component = path[:-1].rpartition(b"/")
            if not path:
                self._move(path, self._root)
            elif path == self._top:
                self._move(path, self._opener(self._root, path[:-1], FOLDER))
            elif above + slash == self._path:
                # A single component that is no link can't lead outside.
                self._move(path, os.open(component, _BELOW, dir_fd=self._folder))
            else:
                self._move(path, self._opener(self._root, path[:-1], _BELOW))
        return self._folder

    def _move(self, path: bytes, folder: int) -> None:
        if self._folder != self._root:
            os.close(self._folder)
        self._path, self._folder = path, folder


def _vanished(error: OSError) -> None:
    """Pass over what is gone, or not for us to read; raise what the server lacks."""
    if own_lack(error):
        raise error
