"""Commit groups of staged files in a thread, while the next group is received."""

from __future__ import annotations

import os
from functools import partial

from natproxy.client.context import Closing
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.group import Published, SmallFile
from natproxy.client.transfer.parallel import Ahead
from natproxy.client.transfer.request import DownloadRequest
from natproxy.client.transfer.staging import Staging
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
        self._commit: Ahead[list[Published]] | None = None

    def find(self, request: DownloadRequest, directory: bytes) -> os.stat_result | None:
        """Return the metadata of an existing file; see `Staging.find`."""
        return self._staging.find(request, directory)

    def advance_to(self, file: SmallFile) -> list[Published]:
        """Commit the current group if a file does not belong to it.

        :return: the results of the group before it, if any.
        """
        idle = self._commit is None or self._commit.done
        return self._begin() if self._staging.fills(file, idle) else []

    def write(self, file: SmallFile, metadata: Metadata, data: bytes | memoryview) -> None:
        """Stage a file, after `advance_to`.

        :raises LocalError: if the file cannot be written.
        :raises Unstageable: as `Staging.write` does.
        """
        self._staging.write(file, metadata, data)

    def flush(self) -> list[Published]:
        """Commit everything that is staged; return the results."""
        published = self._begin()
        return published + self._wait()

    def close(self) -> None:
        """Remove what has not been committed."""
        try:
            self._wait()
        finally:
            self._staging.close()
            if self._owned:
                self._tree.close()

    def _begin(self) -> list[Published]:
        """Wait for the earlier group, and begin to commit the current one."""
        published = self._wait()
        group = self._staging.take_group()
        if group.count:
            self._commit = Ahead(partial(self._staging.commit, group))
        return published

    def _wait(self) -> list[Published]:
        if self._commit is None:
            return []
        # After an interrupt, it is waited for again: a commit is not cancelled.
        published = self._commit.wait()
        self._commit = None
        return published
