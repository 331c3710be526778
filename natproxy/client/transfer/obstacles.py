"""Local paths in the place of which nothing that a server lists can be created."""

from __future__ import annotations

import errno
from stat import S_ISLNK, S_ISREG

from natproxy.client.errors import LocalError
from natproxy.client.transfer.traversal import LocalEntry
from natproxy.client.transfer.tree import LocalTree

DEEPEST = 256
"""Levels of directories that are created."""


def directory_error(tree: LocalTree, path: bytes, local: LocalEntry | None) -> LocalError | None:
    """Return why there cannot be a directory with this path; ``None`` if there can.

    :param local: what has the path; ``None`` for nothing.
    """
    if path.count(b"/") >= DEEPEST:
        return LocalError(tree.path_of(path), OSError(errno.ENAMETOOLONG, "is too deep"))
    if local is not None and local.mode and not local.is_directory:
        kind = "link" if S_ISLNK(local.mode) else "file"
        reason = OSError(errno.ENOTDIR, f"is a {kind} here, a directory there")
        return LocalError(tree.path_of(path), reason)
    return None if local is None else local.error


def file_error(
    tree: LocalTree, path: bytes, local: LocalEntry | None, found: LocalEntry | None
) -> LocalError | None:
    """Return why a file cannot be downloaded to this path; ``None`` if it can.

    :param local: what has the path; ``None`` for nothing.
    :param found: the same, or the target if it is a link.
    """
    if found is not None and found.is_directory:
        reason = OSError(errno.EISDIR, "is a directory here, a file there")
        return LocalError(tree.path_of(path), reason)
    if local is not None and not (S_ISREG(local.mode) or S_ISLNK(local.mode)):
        reason = OSError(errno.EEXIST, "is neither a file nor a link here, a file there")
        return LocalError(tree.path_of(path), reason)
    return None
