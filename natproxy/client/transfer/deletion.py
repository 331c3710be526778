"""What `sync` deletes, and when it refuses to.

A source that has lost its files, or that is not the one that was meant, must not cost the
mirror's files as well.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import NamedTuple

from natproxy.client.errors import DeletionRefused, LocalError
from natproxy.client.transfer.tree import LocalTree

SMALL = 10
"""Files of a mirror that may lose more than half of them at once."""


class ExtraPath(NamedTuple):
    """What is in the mirror, and not on the server.

    :ivar path: below the mirror's root.
    :ivar directory: whether it is one; otherwise it is a file, a link, or anything else.
    """

    path: bytes
    directory: bool


class DeletionResult(NamedTuple):
    """What became of deletions.

    :ivar number: of the files, links and directories that were deleted.
    :ivar errors: why others were not.
    """

    number: int
    errors: list[LocalError]


def deletion_refusal(
    extra: Sequence[ExtraPath], held: int, source_files: int, most: float | None
) -> DeletionRefused | None:
    """Decide whether deletions are refused, and return the error that says why.

    :param held: files that the mirror has, those to be deleted among them.
    :param source_files: files that the server lists.
    :param most: deletions that were allowed (`math.inf`: any number); `None` if nothing was
        said. Then a source without files may delete nothing, and any other source no more
        than half of the files of a mirror that has more than `SMALL`.
    """
    files = sum(not each.directory for each in extra)
    count = len(extra)
    if not count:
        return None
    number = f"{files} of {_counted(held, 'file')} here"
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
    elif held > SMALL and 2 * files > held:
        reason = "that is more than half"
    else:
        return None
    return DeletionRefused(
        f"nothing deleted: {number} would be, and {reason}; --max-delete {count} allows it"
    )


def delete(tree: LocalTree, extra: Sequence[ExtraPath]) -> DeletionResult:
    """Delete files, links and empty directories; go on after errors.

    :param extra: what is in a directory before the directory.
    """
    number = 0
    errors: list[LocalError] = []
    holding: set[bytes] = set()
    for path, directory in extra:
        try:
            if directory:
                tree.rmdir(path)
            else:
                tree.unlink(path)
            number += 1
        except LocalError as error:
            above = os.path.dirname(path)
            if error.errno == errno.ENOENT:
                # Another process has deleted it.
                continue
            holding.add(above)
            # That a directory is not empty follows from an error that is told already.
            if not (directory and path in holding):
                errors.append(error)
    return DeletionResult(number, errors)


def _counted(number: int, noun: str, one: str = "", many: str = "s") -> str:
    return f"{number} {noun}{one if number == 1 else many}"
