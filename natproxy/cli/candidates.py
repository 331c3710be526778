"""Names to complete with: those on a server, and those here.

Whoever types does not wait: a name that isn't there soon isn't there, and nothing that
goes wrong is worth a message.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice

from natproxy.address import SCHEME, Address
from natproxy.cli.encoding import remote_name
from natproxy.client.blocking.session import Session
from natproxy.client.errors import ClientError, UsageError
from natproxy.client.url import is_url, parse_server
from natproxy.protocol import DIRECTORY

TIMEOUT = 1.5
"""Seconds to wait for a server."""

KEPT = 5.0
"""Seconds for which an answer is good enough."""

MOST = 1000
"""Names that are asked for at a time; who sees more of them does not look."""

MOST_LISTED = 100_000
"""Names of a server of version 1, which always lists all of them."""


class RemoteNames:
    """The names on a server. Several threads may ask.

    :param clock: seconds, from any origin.
    """

    def __init__(
        self, server: Address, timeout: float = TIMEOUT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._server = server
        self._timeout = timeout
        self._clock = clock
        self._session = Session(server, timeout)
        self._pages: dict[tuple[bytes, bytes], tuple[float, list[bytes]]] = {}
        # What one thread waits for is just what the next one wants.
        self._lock = threading.Lock()

    def starting_with(self, prefix: bytes) -> list[bytes]:
        """Give the paths that begin so, one level deep; those of directories end with a slash.

        :param prefix: below the served directory; what it has up to its last slash is taken
            for a directory's path.
        """
        directory = prefix[: prefix.rfind(b"/") + 1]
        with self._lock:
            names = self._page(directory, b"")
            if len(names) >= MOST and prefix != directory:
                names = self._page(directory, _just_before(prefix))
        return [name for name in names if name.startswith(prefix)]

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def _page(self, directory: bytes, after: bytes) -> list[bytes]:
        now = self._clock()
        self._pages = {key: page for key, page in self._pages.items() if now - page[0] < KEPT}
        page = self._pages.get((directory, after))
        if page is not None:
            return page[1]
        try:
            names = list(self._ask(directory, after))
        except ClientError:
            names = []
            # A server that was too slow to tell its version may be faster next time.
            self._session.close()
            self._session = Session(self._server, self._timeout)
        self._pages[directory, after] = (self._clock(), names)
        return names

    def _ask(self, directory: bytes, after: bytes) -> Iterator[bytes]:
        if self._session.version < 2:
            if not directory:
                yield from islice(self._session.list(), MOST_LISTED)
            return
        for entry in islice(self._session.ls(directory, after=after), MOST):
            # A file lists itself.
            if entry.name.startswith(directory):
                yield entry.name + (b"/" if entry.metadata.type == DIRECTORY else b"")


class ManyNames:
    """The names on whichever servers are mentioned.

    :param timeout: seconds to wait for each.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self._timeout = timeout
        self._servers: dict[Address, RemoteNames] = {}

    def starting_with(
        self, typed: str, server: str, directories_only: bool = False
    ) -> Iterator[bytes]:
        """Give the paths that begin as what was typed, said as it was.

        :param typed: a path, or ``natproxy://HOST:PORT/PATH``.
        :param server: where a path is that doesn't say it.
        """
        base = ""
        path = typed
        if is_url(typed):
            server, slash, path = typed[len(SCHEME) :].partition("/")
            if not slash:
                return
            base = typed[: len(typed) - len(path)]
        below = path.lstrip("/")
        base += path[: len(path) - len(below)]
        try:
            where = parse_server(server)
        except UsageError:
            return
        names = self._servers.setdefault(where, RemoteNames(where, self._timeout))
        for name in names.starting_with(remote_name(below)):
            if name.endswith(b"/") or not directories_only:
                # The slash is not part of the name, and keeps it from being an option.
                yield remote_name(base or ("/" if name.startswith(b"-") else "")) + name

    def close(self) -> None:
        """Close all connections."""
        for names in self._servers.values():
            names.close()


def local_names(prefix: str, directories_only: bool = False) -> list[str]:
    """Give the paths here that begin so; those of directories end with a slash."""
    typed, last = os.path.split(prefix)
    place = prefix[: len(prefix) - len(last)]
    found = []
    try:
        with os.scandir(os.path.expanduser(typed) or ".") as entries:
            for entry in islice(entries, 100 * MOST):
                if not entry.name.startswith(last) or (entry.name.startswith(".") and not last):
                    continue
                directory = entry.is_dir()
                if directory or not directories_only:
                    # Neither an option nor somebody's home is meant.
                    here = "./" if not place and entry.name[0] in "-~" else place
                    found.append(here + entry.name + ("/" if directory else ""))
    except (OSError, ValueError):
        return []
    return sorted(found)


def _just_before(prefix: bytes) -> bytes:
    """Give a name that comes before all that begin so, and after nearly all others."""
    return prefix[:-1] + bytes([prefix[-1] - 1]) + b"\xff"
