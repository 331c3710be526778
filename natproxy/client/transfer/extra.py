"""Local paths that a server does not list."""

from __future__ import annotations

import os

from natproxy.client.errors import LocalError
from natproxy.client.transfer.deletion import ExtraPath
from natproxy.client.transfer.tree import LocalTree


class ExtraPaths:
    """Collects the local paths that are not listed, and those that are kept all the same.

    Paths are below the root of the tree.
    """

    def __init__(self, tree: LocalTree) -> None:
        self._tree = tree
        self._kept = {b""}
        self._candidates: list[ExtraPath] = []
        # Device and inode of local files whose listed name is an alias of the local one.
        self._aliases: set[tuple[int, int]] = set()

    @property
    def has_aliases(self) -> bool:
        """Whether a local file has another name than in the listing."""
        return bool(self._aliases)

    def add(self, path: bytes, directory: bool) -> None:
        """Add a path that is not listed; the content of a directory comes after it."""
        self._candidates.append(ExtraPath(path, directory))

    def keep(self, path: bytes) -> None:
        """Keep a path and the directories above it."""
        while path not in self._kept:
            self._kept.add(path)
            path = os.path.dirname(path)

    def add_alias(self, metadata: os.stat_result) -> None:
        """Keep the file with these metadata, whatever its path is."""
        self._aliases.add((metadata.st_dev, metadata.st_ino))

    def paths(self) -> list[ExtraPath]:
        """Return the paths that are extra; the content of a directory comes before it."""
        if self._aliases:
            self._keep_aliases()
        return [each for each in reversed(self._candidates) if each.path not in self._kept]

    def _keep_aliases(self) -> None:
        for path, _ in self._candidates:
            try:
                metadata = self._tree.lstat(path)
            except LocalError:
                self.keep(path)
            else:
                if metadata is not None and (metadata.st_dev, metadata.st_ino) in self._aliases:
                    self.keep(path)
