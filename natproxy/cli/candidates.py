"""Candidates for completion: names on a server, and local names.

The user does not wait: names that do not arrive soon are omitted, and errors are ignored.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice

from natproxy.address import Address, scheme_of
from natproxy.cli.context import resolve
from natproxy.cli.encoding import remote_name
from natproxy.client.authentication import Token
from natproxy.client.blocking.session import Session
from natproxy.client.errors import ClientError, LocalError, UsageError
from natproxy.client.url import Server, is_url, parse_server
from natproxy.protocol import DIRECTORY
from natproxy.tls.options import TLSOptions

TIMEOUT = 1.5
"""Seconds to wait for a server."""

CACHED = 5.0
"""Seconds for which names are cached."""

MOST = 1000
"""Names that are listed at once; a user does not read more of them."""

MOST_LISTED = 100_000
"""Names that are accepted from a server of version 1, which always lists all of them."""


class RemoteNames:
    """The names on a server. It may be used by several threads.

    :param timeout: seconds to wait for the server.
    :param clock: returns seconds since any origin.
    :param tls: how to verify the server; ``None`` for no TLS.
    :param token: for the server; ``None`` if there is none.
    :raises UsageError: if a file of ``tls`` cannot be used.
    """

    def __init__(
        self,
        server: Address,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
        tls: TLSOptions | None = None,
        token: Token | None = None,
    ) -> None:
        self._server = server
        self._tls = tls
        self._token = token
        self._timeout = timeout
        self._clock = clock
        self._session = Session(server, timeout, tls=tls, token=token)
        self._pages: dict[tuple[bytes, bytes], tuple[float, list[bytes]]] = {}
        # Held during requests: the next thread most often needs the same names.
        self._lock = threading.Lock()

    def starting_with(self, prefix: bytes) -> list[bytes]:
        """Return the paths that begin with a prefix, one level deep.

        Paths of directories end with a slash.

        :param prefix: below the served directory; up to its last slash, it is the path of the
            directory to list.
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
        self._pages = {key: page for key, page in self._pages.items() if now - page[0] < CACHED}
        page = self._pages.get((directory, after))
        if page is not None:
            return page[1]
        try:
            names = list(self._list(directory, after))
        except ClientError:
            names = []
            # A new session determines the version again: a slow server may be faster then.
            self._session.close()
            self._session = Session(self._server, self._timeout, tls=self._tls, token=self._token)
        self._pages[directory, after] = (self._clock(), names)
        return names

    def _list(self, directory: bytes, after: bytes) -> Iterator[bytes]:
        if self._session.version < 2:
            if not directory:
                yield from islice(self._session.list(), MOST_LISTED)
            return
        for entry in islice(self._session.ls(directory, after=after), MOST):
            # The listing of a file consists of the file itself.
            if entry.name.startswith(directory):
                yield entry.name + (b"/" if entry.metadata.type == DIRECTORY else b"")


class ManyNames:
    """The names on several servers, each with a session of its own.

    :param timeout: seconds to wait for each server.
    :param tls: whether every server needs TLS.
    :param options: how servers with TLS are verified.
    :param token_of: returns the token for a server.
    """

    def __init__(
        self,
        timeout: float = TIMEOUT,
        tls: bool = False,
        options: TLSOptions = TLSOptions(),  # noqa: B008  # it is immutable
        token_of: Callable[[Server], Token | None] = lambda _: None,
    ) -> None:
        self._token_of = token_of
        self._timeout = timeout
        self._tls = tls
        self._options = options
        self._servers: dict[Server, RemoteNames] = {}

    def starting_with(
        self, typed: str, server: str, directories_only: bool = False, directory: bytes = b""
    ) -> Iterator[bytes]:
        """Yield the paths that begin with what was typed, in the same form.

        :param typed: a path, or ``natproxy://HOST:PORT/PATH``.
        :param server: the server of paths that do not name one.
        :param directory: that paths without a slash at the beginning are relative to.
        """
        base = ""
        path = typed
        if is_url(typed):
            scheme = scheme_of(typed)
            place, slash, path = typed[len(scheme) :].partition("/")
            if not slash:
                return
            server = scheme + place
            base = typed[: len(typed) - len(path)]
            directory = b""
        # What was typed up to its last slash stays as it is.
        head, last = path[: path.rfind("/") + 1], path[path.rfind("/") + 1 :]
        try:
            names = self._names_on(parse_server(server, self._tls))
        except (UsageError, LocalError):
            return
        above = resolve(remote_name(head), directory)
        if above:
            above += b"/"
        for name in names.starting_with(above + remote_name(last)):
            if name.endswith(b"/") or not directories_only:
                below = name[len(above) :]
                shown = base + head
                if not shown and below.startswith(b"-"):
                    # It would be parsed as an option.
                    shown = "./" if directory else "/"
                yield remote_name(shown) + below

    def close(self) -> None:
        """Close all connections."""
        for names in self._servers.values():
            names.close()

    def _names_on(self, server: Server) -> RemoteNames:
        names = self._servers.get(server)
        if names is None:
            tls = self._options if server.tls else None
            token = self._token_of(server)
            names = RemoteNames(server.address, self._timeout, tls=tls, token=token)
            self._servers[server] = names
        return names


def local_names(prefix: str, directories_only: bool = False) -> list[str]:
    """Return the local paths that begin with a prefix; those of directories end with a slash."""
    typed, last = os.path.split(prefix)
    directory = prefix[: len(prefix) - len(last)]
    found = []
    try:
        with os.scandir(os.path.expanduser(typed) or ".") as entries:
            for entry in islice(entries, 100 * MOST):
                if not entry.name.startswith(last) or (entry.name.startswith(".") and not last):
                    continue
                is_directory = entry.is_dir()
                if is_directory or not directories_only:
                    # The name must not be taken for an option or a home directory.
                    base = "./" if not directory and entry.name[0] in "-~" else directory
                    found.append(base + entry.name + ("/" if is_directory else ""))
    except (OSError, ValueError):
        return []
    return sorted(found)


def _just_before(prefix: bytes) -> bytes:
    """Return a name that sorts before all names with a prefix, and after nearly all others."""
    return prefix[:-1] + bytes([prefix[-1] - 1]) + b"\xff"
