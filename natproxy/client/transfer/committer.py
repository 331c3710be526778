"""Commit groups of staged files in a thread, while the next group is received."""

from __future__ import annotations

import os
import threading

from natproxy.client.context import Closing
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.request import DownloadRequest
from natproxy.client.transfer.staging import Group, Published, SmallFile, Staging
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import Metadata


class Committer(Closing):
    """Stages the small files of one root, and commits each group in a thread of its own.

    At most one group is committed at a time. All methods are called by one thread.

    :param tree: the root.
    :param owned: whether `close` closes the tree.
    """

    def __init__(
        self, tree: LocalTree, existing: Existing, durable: bool = True, owned: bool = False
    ) -> None:
        self._tree = tree
        self._owned = owned
        self._staging = Staging(tree, existing, durable)
        self._commit: _Commit | None = None

    def find(self, request: DownloadRequest, directory: bytes) -> os.stat_result | None:
        """Return the metadata of an existing file; see `Staging.find`."""
        return self._staging.find(request, directory)

    def write(
        self, file: SmallFile, metadata: Metadata, data: bytes | memoryview
    ) -> list[Published]:
        """Stage a file; return the results of a group that has been committed, if any.

        :raises LocalError: if the file cannot be written.
        :raises Unstageable: as `Staging.write` does.
        """
        published: list[Published] = []
        if self._staging.fills(file):
            published = self._begin()
        self._staging.write(file, metadata, data)
        return published

    def flush(self) -> list[Published]:
        """Commit everything that is staged; return the results."""
        published = self._begin()
        return published + self._wait()

    def close(self) -> None:
        """Remove what has not been committed."""
        self._wait()
        self._staging.close()
        if self._owned:
            self._tree.close()

    def _begin(self) -> list[Published]:
        """Wait for the earlier group, and begin to commit the current one."""
        published = self._wait()
        group = self._staging.take_group()
        if group.count:
            self._commit = _Commit(self._staging, group)
        return published

    def _wait(self) -> list[Published]:
        commit, self._commit = self._commit, None
        return [] if commit is None else commit.wait()


class _Commit:
    """The commit of a group, in a thread if the system allows one."""

    def __init__(self, staging: Staging, group: Group) -> None:
        self._staging = staging
        self._group = group
        self._published: list[Published] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="commit")
        try:
            self._thread.start()
        except RuntimeError:
            self._run()

    def wait(self) -> list[Published]:
        """Wait until the group is committed, and return the results."""
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._published

    def _run(self) -> None:
        try:
            self._published = self._staging.commit(self._group)
        except BaseException as error:
            self._error = error
