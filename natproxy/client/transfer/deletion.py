"""Delete what `sync` finds in the mirror alone, unless that would delete suspiciously much.

A source that has lost its files, or the wrong source, must not delete the mirror's files.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import NamedTuple

from natproxy.client.errors import DeletionRefused, LocalError
from natproxy.client.transfer.tree import LocalTree

SMALL_MIRROR = 10
"""Files of a mirror of which more than half may be deleted at once by default."""


class ExtraPath(NamedTuple):
    """A path that is in the mirror and not on the server.

    :ivar path: below the mirror's root.
    :ivar directory: whether it is a directory; otherwise it is a file, a link, or anything else.
    """

    path: bytes
    directory: bool


class DeletionResult(NamedTuple):
    """The result of deletions.

    :ivar number: of deleted files, links and directories.
    :ivar errors: why others were not deleted.
    """

    number: int
    errors: list[LocalError]


def deletion_refusal(
    extra: Sequence[ExtraPath], local_files: int, source_files: int, most: float | None
) -> DeletionRefused | None:
    """Return the error that refuses the deletions; ``None`` if they are allowed.

    :param local_files: files in the mirror, including those to be deleted.
    :param source_files: files that the server lists.
    :param most: deletions that the user allows (``math.inf`` for any number). By default
        (``None``), an empty source may delete nothing, and any other source at most half of the
        files of a mirror that has more than `SMALL_MIRROR`.
    """
    files = sum(not each.directory for each in extra)
    count = len(extra)
    if not count:
        return None
    number = f"{files} of {_counted(local_files, 'file')} here"
    if files < count:
        number += f" and {_counted(count - files, 'director', 'y', 'ies')}"
    if most is not None:
        if count <= most:
            return None
        return DeletionRefused(
            f"nothing deleted: {number} would be, which is more than --max-delete {most:.0f} allows"
        )
    if not source_files:
        reason = "the server lists no files"
    elif local_files > SMALL_MIRROR and 2 * files > local_files:
        reason = "that is more than half"
    else:
        return None
    return DeletionRefused(
        f"nothing deleted: {number} would be, and {reason}; --max-delete {count} allows it"
    )


def delete(tree: LocalTree, extra: Sequence[ExtraPath]) -> DeletionResult:
    """Delete files, links and empty directories; continue after errors.

    :param extra: the paths; the content of a directory comes before the directory.
    """
    number = 0
    errors: list[LocalError] = []
    # Directories in which something could not be deleted.
    not_empty: set[bytes] = set()
    for path, directory in extra:
        try:
            if directory:
                tree.rmdir(path)
            else:
                tree.unlink(path)
            number += 1
        except LocalError as error:
            if error.errno == errno.ENOENT:
                # Another process has deleted it.
                continue
            not_empty.add(os.path.dirname(path))
            # The error of its content is reported already.
            if not (directory and path in not_empty):
                errors.append(error)
    return DeletionResult(number, errors)


def _counted(number: int, noun: str, one: str = "", many: str = "s") -> str:
    return f"{number} {noun}{one if number == 1 else many}"
