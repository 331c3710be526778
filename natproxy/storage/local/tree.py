"""Metadata of files and directories, and the pages of a whole tree.

Names are full paths below the served directory, in the order of their bytes. A page is
made by a walk from the name after which it begins; sub-trees that end before it are not
read.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from natproxy.kernel.openat2 import DIRECTORY as DIRECTORY_FLAGS
from natproxy.kernel.openat2 import Opener
from natproxy.protocol import (
    DIRECTORY,
    FILE,
    MORE,
    UNREAD,
    UNREAD_METADATA,
    Entry,
    Metadata,
    Page,
    format_entry,
)
from natproxy.storage.local.confinement import (
    LOOK,
    MAX_PATH,
    FileNotFound,
    blame,
    not_there,
    out_of_resources,
)
from natproxy.storage.local.scans import Check, Runs, Scans, keys_after, unchecked

LOOKED_AT = 20_000
"""Entries that are looked at for one page of ``LS``, listed or not."""

LONGEST_LOOK = 5.0
"""Seconds after which a page of ``LS`` ends with what it has."""

# Of a page's body, in bytes.
_PAGE = 2**20

OPENED = b"\0"
"""Follows the name of a directory in the position at which a page ends, if the directory was
readable when its line was written. No name has such a byte, so that it sorts before all
that begin with the directory's."""

_ETAG_BYTES = 12

# A link that took a directory's place after the scan is not descended into.
_BELOW = DIRECTORY_FLAGS | os.O_NOFOLLOW

# Errors of a link's resolution after which its target may well be inside and in place.
# Any other one means that the link leads nowhere, or outside.
_LINK_UNREAD = frozenset((errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT))


def metadata_of(result: os.stat_result) -> Metadata:
    """Give the status of a regular file or a directory.

    The ``etag`` outlasts the server: a download may go on after a restart.

    :raises FileNotFound: if it is anything else.
    """
    if stat.S_ISREG(result.st_mode):
        kind, size = FILE, result.st_size
    elif stat.S_ISDIR(result.st_mode):
        kind, size = DIRECTORY, 0
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
    return Metadata(kind, size, result.st_mtime_ns, etag)


class Looked(NamedTuple):
    """One step of a walk.

    :ivar name: the path that was looked at, with a slash at its end for a directory that
        was entered. A walk that begins after it continues with the next step.
    :ivar entry: `None` if there is nothing to list.
    :ivar unread: true for a directory that cannot be entered, and whose line is on an
        earlier page, which may not say so.
    :ivar opened: true for the entry of a directory that will be entered later on. A page
        that ends here must say that it was readable; see `OPENED`.
    """

    name: bytes
    entry: Entry | None
    unread: bool = False
    opened: bool = False


class Paged(NamedTuple):
    """The reply to one ``LS``.

    :ivar body: a line for each entry.
    :ivar page: what the reply's header says of them.
    """

    body: bytes
    page: Page


def page_of(
    steps: Iterable[Looked], limit: int, clock: Callable[[], float], looks: int = LOOKED_AT
) -> Paged:
    """Write a page of entries, of about 1 MiB at most.

    :param limit: of entries. If the page ends before the walk does, its last line is
        ``more``.
    :param clock: monotonic seconds; the page ends after `LONGEST_LOOK`.
    :param looks: steps at most; at least one is made.
    """
    lines: list[bytes] = []
    size = unread = 0
    last = position = b""
    cut = False
    until = clock() + LONGEST_LOOK
    for count, step in enumerate(steps, 1):
        if step.unread:
            # No page ends here: the next one would begin inside of the directory.
            unread += 1
            continue
        if step.entry is not None:
            line = format_entry(step.entry)
            size += len(line)
            cut = len(lines) == limit or size > _PAGE
            if cut:
                break
            lines.append(line)
            unread += step.entry.unread or step.entry.metadata.type == UNREAD
            last = step.entry.name
        position = step.name + OPENED if step.opened else step.name
        cut = count >= looks or clock() >= until
        if cut:
            break
    if cut:
        lines.append(MORE + b"\n")
    after = position if cut and position != last else None
    return Paged(b"".join(lines), Page(unread, after))


class _Level(NamedTuple):
    """A directory on the way from the top of a walk to where it is.

    :ivar path: with a slash at its end; empty for the served directory.
    :ivar rest: the path, below this one, after which entries are wanted.
    :ivar keys: of the directory, those still ahead.
    """

    path: bytes
    rest: bytes
    keys: Iterator[bytes]


_UNREADABLE = _Level(b"", b"", iter(()))
"""In the place of the level of a directory that cannot be read."""


class Tree:
    """The served directory during one command.

    One directory is open at a time, besides the top: a tree may be deeper than there are
    descriptors. To be closed.

    :param root: descriptor of the served directory; stays the caller's.
    :param opener: how names below it are opened.
    :param check: called at each step of a walk; what it raises ends the walk.
    """

    def __init__(self, root: int, opener: Opener, scans: Scans, check: Check = unchecked) -> None:
        self._root = root
        self._opener = opener
        self._scans = scans
        self._check = check
        self._top = b""
        self._path = b""
        self._directory = root
        # What this page says cannot be read, each with a slash at its end.
        self._unread: set[bytes] = set()
        # The directory that was scanned last when its line was written.
        self._probed: tuple[bytes, Runs] | None = None

    def close(self) -> None:
        """Close the directory that is open."""
        self._move(b"", self._root)

    def metadata(self, name: bytes) -> Metadata:
        """Look at a file or a directory.

        :raises FileNotFound: if there is neither under this name.
        :raises OSError: when the server lacks descriptors or memory, or the disk fails.
        """
        if not name:
            return metadata_of(os.fstat(self._root))
        with blame():
            return self._look(name)

    def entries(self, name: bytes, depth: float, after: bytes) -> Iterator[Looked]:
        """Walk through a directory.

        An entry that exists and whose metadata cannot be read is of type `UNREAD`.
        A directory that would be descended into, and cannot be listed, is marked as
        unread.

        :param name: of the directory; empty for the served directory.
        :param depth: levels of directories, 1 or more, or `math.inf`.
        :param after: entries up to this name are left out; empty for none.
        :raises FileNotFound: if it cannot be read.
        :raises OSError: as `status` does, or if a directory that was listed as readable
            cannot be read any more.
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
            levels = [_Level(top, rest, keys_after(self._scan(self._open(top)), rest))]
        while levels:
            self._check()
            path, rest, keys = levels[-1]
            key = next(keys, None)
            descends = len(levels) < depth
            if key is None:
                levels.pop()
            elif key.endswith(b"/"):
                below = path + key
                if descends and len(below) < MAX_PATH and below not in self._unread:
                    resumed = rest.startswith(key)
                    level = self._enter(below, rest.removeprefix(key) if resumed else b"", after)
                    if level is _UNREADABLE:
                        yield Looked(below, None, unread=True)
                    elif level is not None:
                        levels.append(level)
                        if not resumed:
                            yield Looked(below, None)
            else:
                try:
                    directory = self._open(path)
                except OSError as error:
                    if not not_there(error):
                        raise _named(error, path) from error
                    if path == top:
                        raise FileNotFound from error
                    levels.pop()
                else:
                    name = path + key
                    if len(name) <= MAX_PATH:
                        entry = self._entry(directory, path, key, descends)
                        yield Looked(name, entry, opened=self._is_ahead(name, entry, descends))

    def _is_ahead(self, name: bytes, entry: Entry | None, descends: bool) -> bool:
        """Return whether an entry is a directory that will be entered."""
        return (
            descends
            and entry is not None
            and entry.metadata.type == DIRECTORY
            and not entry.unread
            and self._probed is not None
            and self._probed[0] == name + b"/"
        )

    def _entry(self, directory: int, path: bytes, key: bytes, descends: bool) -> Entry | None:
        name = path + key
        is_link = False
        try:
            result = os.stat(key, dir_fd=directory, follow_symlinks=False)
            is_link = stat.S_ISLNK(result.st_mode)
            if is_link:
                # From the served directory, not from this one: a link may lead upwards
                # as long as it stays inside.
                return Entry(name, self._look(name))
            metadata = metadata_of(result)
        except FileNotFound:
            return None
        except OSError as error:
            if out_of_resources(error):
                raise
            if error.errno not in _LINK_UNREAD if is_link else not_there(error):
                return None
            self._unread.add(name + b"/")
            return Entry(name, UNREAD_METADATA)
        if not descends or metadata.type != DIRECTORY or len(name) + 1 >= MAX_PATH:
            return Entry(name, metadata)
        return Entry(name, metadata, not self._listable(directory, path, key))

    def _listable(self, directory: int, path: bytes, key: bytes) -> bool:
        """Tell whether a directory can be listed; mark it if it cannot."""
        below = path + key + b"/"
        try:
            probed = os.open(key, _BELOW, dir_fd=directory)
            try:
                _search(probed)
                self._probed = (below, self._scan(probed))
            finally:
                os.close(probed)
        except OSError as error:
            if out_of_resources(error):
                raise
            if not not_there(error):
                self._unread.add(below)
                return False
            # It has vanished since. That is noticed again when it is entered.
        return True

    def _enter(self, path: bytes, rest: bytes, after: bytes) -> _Level | None:
        """Return the level of a sub-directory.

        :return: `None` if it has vanished, or an earlier page says that it cannot be read;
            `_UNREADABLE` if it cannot, and an earlier page may say so or not.
        :raises OSError: if it cannot be read, and the client cannot have been told so.
        """
        try:
            directory = self._open(path)
            _search(directory)
            if self._probed is not None and self._probed[0] == path:
                runs = self._probed[1]
            else:
                runs = self._scan(directory)
        except OSError as error:
            if out_of_resources(error):
                raise
            if not_there(error):
                return None
            # The client takes what is not listed for removed. If the directory's line is on
            # this page, unmarked, or the page before ended inside of it, or after a line
            # that was unmarked, the listing has to begin anew.
            name = path[:-1]
            if name > after or after.startswith((path, name + OPENED)):
                raise _named(error, path) from error
            # Its line is the last one of the page before, with a mark; or there are other
            # names between, and it is not known whether it had one.
            return None if after == name else _UNREADABLE
        finally:
            self._probed = None
        return _Level(path, rest, keys_after(runs, rest))

    def _scan(self, directory: int) -> Runs:
        return self._scans.of(directory, self._check)

    def _look(self, name: bytes) -> Metadata:
        looked = self._opener(self._root, name, LOOK)
        try:
            return metadata_of(os.fstat(looked))
        finally:
            os.close(looked)

    def _open(self, path: bytes) -> int:
        if path != self._path:
            above, slash, component = path[:-1].rpartition(b"/")
            if not path:
                self._move(path, self._root)
            elif path == self._top:
                self._move(path, self._opener(self._root, path[:-1], DIRECTORY_FLAGS))
            elif above + slash == self._path:
                # A single component that is no link can't lead outside.
                self._move(path, os.open(component, _BELOW, dir_fd=self._directory))
            else:
                self._move(path, self._opener(self._root, path[:-1], _BELOW))
        return self._directory

    def _move(self, path: bytes, directory: int) -> None:
        if self._directory != self._root:
            os.close(self._directory)
        self._path, self._directory = path, directory


def _search(directory: int) -> None:
    """Look up a name in a directory, which needs the permission to search it."""
    os.stat(b".", dir_fd=directory)


def _named(error: OSError, path: bytes) -> OSError:
    return OSError(error.errno, error.strerror, os.fsdecode(path))
