"""Whether the program's files have changed since the process has started."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import natproxy


def fingerprint() -> str:
    """Return a text that differs if a file of the package was added, removed or written again.

    It is made of names, sizes and times of modification: an upgrade that installs the same files
    again counts as a change.
    """
    digest = hashlib.sha256()
    for path in natproxy.__path__:
        for name, size, time in sorted(_files(path)):
            digest.update(f"{name}\0{size}\0{time}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _files(directory: str) -> Iterator[tuple[str, int, int]]:
    for parent, directories, names in os.walk(directory):
        directories[:] = [name for name in directories if name != "__pycache__"]
        for name in names:
            path = os.path.join(parent, name)
            try:
                found = os.stat(path)
            except OSError:
                # It is being replaced: the next look finds another file.
                continue
            yield os.path.relpath(path, directory), found.st_size, found.st_mtime_ns
