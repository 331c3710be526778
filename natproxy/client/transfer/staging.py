"""Small files are staged in a run directory, and get their names in groups.

The bytes of a group are on the disk before the first of its files gets its name. A new directory
is staged with its content and gets its name by one rename; a file of an existing directory gets
its own. Whatever ends the process, every name is that of a whole file.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from contextlib import suppress
from typing import NamedTuple

from natproxy.client.context import Closing
from natproxy.client.errors import LocalError
from natproxy.client.transfer.destination import Existing, LocalFile
from natproxy.client.transfer.directory import LocalDirectory
from natproxy.client.transfer.filesystem import (
    EARLIEST,
    LATEST,
    inheritance,
    set_time,
)
from natproxy.client.transfer.group import GROUP_SIZE, Group, Published, SmallFile, Staged
from natproxy.client.transfer.publication import Publisher
from natproxy.client.transfer.request import DownloadRequest
from natproxy.client.transfer.run_directory import RunDirectory, remove_leftovers
from natproxy.client.transfer.tree import LocalTree
from natproxy.kernel.openat2 import DIRECTORY
from natproxy.protocol import Metadata

GROUP_FILES = 4000
"""Files of a group: the next one begins with another directory, or after half as many more."""

EARLY_FILES = 1000
"""Files of a group that suffice if no other one is being committed."""

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


# Failing to set a time; one object saves a microsecond for each file.
_not_an_error = suppress(OSError)


class Unstageable(Exception):
    """Files of a directory cannot be staged: each is to be downloaded in the directory itself."""


class _Place(NamedTuple):
    """Where the files of one directory are written.

    :ivar directory: the path that they will have below the root.
    :ivar descriptor: of the staged directory, or of the run directory.
    :ivar prefix: of their paths in the run directory; ``None`` if they have no names yet.
    :ivar files: the list of files to add them to.
    """

    directory: bytes
    descriptor: int
    prefix: bytes | None
    files: list[Staged]


class Staging(Closing):
    """Stages small files below one root. While one thread stages, another one may commit.

    :param tree: the root; it is created if it does not exist.
    :param existing: what to do about files that exist.
    :param durable: whether a file is on the disk before it gets its name.
    """

    def __init__(self, tree: LocalTree, existing: Existing, durable: bool = True) -> None:
        self._tree = tree
        self._existing = existing
        self._durable = durable
        self._root: LocalDirectory | None = None
        # ``None`` until the first file is written.
        self._opened_run: RunDirectory | None = None
        self._publisher: Publisher | None = None
        # Whether there can be no run directory.
        self._unstageable = False
        self._inheritance: tuple[int, int | None, bytes] | None = None
        self._names = 0
        self._group = Group()
        self._place: _Place | None = None
        # The existing directory that was looked into last, and its path.
        self._opened: LocalDirectory | None = None
        self._opened_path = b""
        # The new directory that was looked into last.
        self._new_path: bytes | None = None
        self._existing_paths = {b""}
        # Directories of earlier groups: they have their names, or will get them before the files
        # of the current group do.
        self._created: set[bytes] = set()
        self._now = time.time_ns()
        # The path in the run directory of a file that is not complete.
        self._unfinished: bytes | None = None
        self._committing = threading.Lock()

    def fills(self, file: SmallFile, idle: bool = False) -> bool:
        """Return whether the current group is to be committed before a file is written.

        :param idle: whether no other group is being committed.
        """
        group = self._group
        if group.size >= GROUP_SIZE or group.count >= GROUP_FILES * 3 // 2:
            return True
        place = self._place
        if group.count < (min(EARLY_FILES, GROUP_FILES) if idle else GROUP_FILES):
            return False
        return not (place and place.directory == file.directory)

    def find(self, request: DownloadRequest, directory: bytes) -> os.stat_result | None:
        """Return the metadata of the existing file of a request; ``None`` if there is none.

        :param directory: the path of the file's directory below the root.
        :raises LocalError: if it is not a regular file, or its directory cannot be opened.
        :raises Unstageable: if its directory passes on another group or access control list to
            new files than the root does, or is on another file system; or if there can be no run
            directory, as `write` has found out.
        """
        if self._unstageable:
            raise Unstageable
        if directory == self._new_path or not self._tree.exists:
            return None
        if (self._opened is None or self._opened_path != directory) and not self._open(directory):
            self._new_path = directory
            return None
        assert self._opened is not None
        try:
            if self._opened.lstat(os.path.basename(request.path)) is None:
                return None
        except OSError as error:
            raise LocalError(request.path, error) from error
        return LocalFile(request.path, request.tree, request.below).stat()

    def write(self, file: SmallFile, metadata: Metadata, data: bytes | memoryview) -> None:
        """Write a whole file, which gets its name when its group is committed.

        :raises LocalError: if that fails; nothing is left of the file then.
        :raises Unstageable: if there can be no run directory in the root.
        """
        place = self._place
        try:
            if place is None or place.directory != file.directory:
                place = self._enter(file.directory)
            if place.prefix is None:
                self._names += 1
                name = path = b"%d" % self._names
            else:
                name = file.last
                path = place.prefix + name
            # An interrupt may come at any moment, even before the descriptor is known.
            self._unfinished = path
            self._create(place.descriptor, name, metadata.mtime_ns, data)
        except OSError as error:
            self._remove_unfinished()
            raise LocalError(file.request.path, error) from error
        self._unfinished = None
        place.files.append(Staged(file, metadata, path))
        group = self._group
        group.count += 1
        group.size += metadata.size

    def take_group(self) -> Group:
        """Return the current group, and begin another one."""
        # Whatever is in a new directory gets a name with it.
        self._remove_unfinished()
        group, self._group = self._group, Group()
        self._leave()
        self._created.update(group.directories)
        self._now = time.time_ns()
        return group

    def commit(self, group: Group) -> list[Published]:
        """Synchronize the files of a group and rename them; return the result of each."""
        publisher = self._publisher
        if publisher is None or not group.count:
            # No file has been written yet.
            return []
        with self._committing:
            return publisher.publish(group)

    def close(self) -> None:
        """Remove the run directory, with files that have not got their names."""
        self._leave()
        self._close_opened()
        # A directory that is renamed must not be emptied meanwhile.
        with self._committing:
            if self._opened_run is not None:
                self._opened_run.close()
        if self._root is not None:
            self._root.close()

    @property
    def _run(self) -> RunDirectory:
        assert self._opened_run is not None
        return self._opened_run

    def _begin(self) -> None:
        """Create the run directory.

        :raises Unstageable: if that fails, now or before.
        """
        if self._unstageable:
            raise Unstageable
        try:
            self._tree.create()
            self._root = self._tree.directory(b"")
            remove_leftovers(self._root)
            self._opened_run = RunDirectory(self._root)
        except (OSError, LocalError) as error:
            self._unstageable = True
            raise Unstageable from error
        self._publisher = Publisher(self._tree, self._run.descriptor, self._existing, self._durable)

    def _open(self, directory: bytes) -> bool:
        """Open an existing directory of files; return false if it does not exist."""
        self._close_opened()
        above = directory
        opened: LocalDirectory | None = None
        while opened is None:
            if above in self._created or above in self._group.directories:
                return False
            try:
                opened = self._tree.directory(above)
            except LocalError as error:
                if error.errno != errno.ENOENT or not above:
                    raise
                above = os.path.dirname(above)
        try:
            # A new directory inherits from its parent, and passes it on.
            if self._inheritance is None:
                with self._tree.directory(b"") as root:
                    self._inheritance = inheritance(root.fileno())
            if inheritance(opened.fileno()) != self._inheritance:
                raise Unstageable
        except OSError as error:
            opened.close()
            raise Unstageable from error
        except BaseException:
            opened.close()
            raise
        self._existing_paths.add(above)
        if above != directory:
            opened.close()
            return False
        self._opened, self._opened_path = opened, directory
        return True

    def _close_opened(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _enter(self, directory: bytes) -> _Place:
        """Return the place for the files of a directory."""
        self._leave()
        if self._opened_run is None:
            self._begin()
        group = self._group
        if directory in self._existing_paths or directory in self._created:
            place = _Place(directory, self._run.descriptor, None, group.flat)
        else:
            path, top = self._stage(directory)
            descriptor = os.open(path, DIRECTORY | os.O_NOFOLLOW, dir_fd=self._run.descriptor)
            place = _Place(directory, descriptor, path + b"/", group.nested[top])
        self._place = place
        return place

    def _stage(self, directory: bytes) -> tuple[bytes, bytes]:
        """Stage a new directory and its new parents.

        :return: its path in the run directory, and the new directory that contains it and whose
            parent exists.
        """
        group = self._group
        above = os.path.dirname(directory)
        path = group.directories.get(directory)
        if above in self._existing_paths or above in self._created:
            top = directory
            if path is None:
                self._names += 1
                path = group.tops[top] = b"%d" % self._names
                group.nested[top] = []
                os.mkdir(path, dir_fd=self._run.descriptor)
        else:
            parent, top = self._stage(above)
            if path is None:
                path = parent + directory[len(above) :]
                os.mkdir(path, dir_fd=self._run.descriptor)
        group.directories[directory] = path
        return path, top

    def _leave(self) -> None:
        if self._place is not None and self._place.prefix is not None:
            os.close(self._place.descriptor)
        self._place = None

    def _create(self, directory: int, name: bytes, mtime_ns: int, data: bytes | memoryview) -> None:
        descriptor = os.open(name, _CREATE, 0o666, dir_fd=directory)
        try:
            written = os.write(descriptor, data) if data else 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
            if EARLIEST <= mtime_ns <= LATEST:
                with _not_an_error:
                    os.utime(descriptor, ns=(self._now, mtime_ns))
            else:
                set_time(descriptor, mtime_ns)
        finally:
            os.close(descriptor)

    def _remove_unfinished(self) -> None:
        if self._unfinished is not None:
            with suppress(OSError):
                os.unlink(self._unfinished, dir_fd=self._run.descriptor)
            self._unfinished = None
