"""Names below the served directory that are not served, and links that lead to them.

A name is hidden by what it is called. What a link leads to is hidden by the path that the kernel
has resolved, not by a path that is computed from the link.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from natproxy.kernel.openat2 import Opener, open_by_walk
from natproxy.storage.interface import Check, NotFound

Hides = Callable[[bytes], bool]
"""Returns whether a path below the served directory is hidden."""

_OPEN_FILES = b"/proc/self/fd/%d"
_DELETED = b" (deleted)"


class Hiding:
    """Decides which names and which targets of links are hidden.

    Threads may share it.

    :param hides: about paths. The served directory itself is never hidden.
    """

    def __init__(self, hides: Hides) -> None:
        self._hides = hides
        self._resolves = os.path.isdir("/proc/self/fd")

    def opener(self, opener: Opener) -> Opener:
        """Return an opener that follows no link if it cannot be found out where one leads."""
        return opener if self._resolves else open_by_walk

    def refuse(self, name: bytes) -> None:
        """Raise `NotFound` for a hidden name."""
        if name and self._hides(name):
            raise NotFound

    def refuse_target(self, root: int, descriptor: int, name: bytes) -> None:
        """Raise `NotFound` if what was opened under a name is hidden.

        :param root: a descriptor of the served directory.
        """
        if self._resolves:
            path = _path_below(root, descriptor)
            if path != name:
                self._refuse_path(path)

    def prefixes(self, root: int, directory: int, path: bytes) -> tuple[bytes, ...]:
        """Return the paths, each with a slash at its end, under which a directory's entries are.

        :param directory: a descriptor of the directory.
        :param path: by which it was opened, with a slash at its end; empty for the root.
        :raises NotFound: if the directory is hidden.
        """
        if not self._resolves or directory == root:
            return (path,)
        resolved = _path_below(root, directory)
        if resolved is not None and resolved + b"/" == path:
            return (path,)
        self._refuse_path(resolved)
        return (path, resolved + b"/" if resolved else b"")

    def hides_entry(self, prefixes: Sequence[bytes], name: bytes) -> bool:
        """Return whether an entry of a directory is hidden.

        :param prefixes: of the directory, perhaps with a path below it.
        """
        return any(self._hides(prefix + name) for prefix in prefixes)

    def visible(
        self, batches: Iterator[Sequence[bytes]], prefixes: Sequence[bytes], check: Check
    ) -> Iterator[Sequence[bytes]]:
        """Yield batches of the keys of a directory without those that are hidden.

        :param check: called for each batch; an exception that it raises ends the work.
        """
        for batch in batches:
            check()
            kept = [key for key in batch if not self.hides_entry(prefixes, key.removesuffix(b"/"))]
            if kept:
                yield kept

    def _refuse_path(self, path: bytes | None) -> None:
        """Raise `NotFound` for a hidden path, and for one that is not known."""
        if path is None or (
            path and (self._hides(path) or self._hides(path.removesuffix(_DELETED)))
        ):
            raise NotFound


def _path_below(root: int, descriptor: int) -> bytes | None:
    """Return the path of an open file below the served directory; ``None`` if it is not below."""
    try:
        top = os.readlink(_OPEN_FILES % root).removesuffix(b"/")
        path = os.readlink(_OPEN_FILES % descriptor)
    except OSError:
        return None
    if path in (top, top + b"/"):
        return b""
    return path[len(top) + 1 :] if path.startswith(top + b"/") else None
