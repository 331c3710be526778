"""Carries out requests over blocking sockets; connections are kept for the next one.

A session is what lies between one client's first and last command (RFC 2663).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from natproxy.address import Address
from natproxy.client.blocking.connection import Connection, Reply
from natproxy.client.blocking.file import RemoteFile
from natproxy.client.blocking.route import Route
from natproxy.client.context import Closing
from natproxy.client.errors import ClientError, Interrupted
from natproxy.client.listing import MOST_ENTRIES, Listing
from natproxy.client.requests import (
    Get,
    GetWhole,
    Hash,
    ListNames,
    Request,
    Stat,
    Steps,
    as_name,
    digest_steps,
    pack_steps,
    require_file,
)
from natproxy.client.retry import RetryContext, check_timeout
from natproxy.client.url import check_server
from natproxy.client.version import Features, Negotiation, State
from natproxy.protocol import Digest, Entry, ListingNames, Metadata, PackRecord, Range

MOST_IDLE = 16
"""Idle connections that are kept."""

# Inside of `Session`, `list` is a method.
Records = list[PackRecord]

T = TypeVar("T")


def run_steps(steps: Steps[T], carry_out: Callable[[Request[Any]], object]) -> T:
    """Run steps to their end, and return their result.

    :param carry_out: returns the result of one request, or raises `ClientError`.
    """
    try:
        request = next(steps)
        while True:
            try:
                result = carry_out(request)
            except ClientError as error:
                request = steps.throw(error)
            else:
                request = steps.send(result)
    except StopIteration as end:
        returned: T = end.value
        return returned


class Session(Closing):
    """Sends commands to one server. Several threads may share it.

    Every method raises `ClientError` on failure: `NotFound`, `CannotConnect`, …; `Unsupported`
    if the server speaks version 1 only, which lacks the command.

    :param server: the address to connect to.
    :param timeout: seconds to wait for each piece of a reply.
    :param connect_timeout: seconds to wait for a connection, to all of the host's addresses
        together; if ``None``, 10, or ``timeout`` if that is shorter.
    :raises UsageError: if a time-out is not more than 0, or too long, or the server has no port
        from 1 to 65535.
    :ivar retry_context: whether the server has been reached: see `natproxy.client.retry`.
    """

    def __init__(
        self, server: Address, timeout: float = 60.0, connect_timeout: float | None = None
    ) -> None:
        check_server(server)
        check_timeout("timeout", timeout)
        check_timeout("connect_timeout", connect_timeout)
        self.server = server
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self._route = Route(*server)
        self._negotiation = Negotiation(server)
        # Guards what the threads share: the connections.
        self._lock = threading.Lock()
        # Held by the thread that sends FEAT.
        self._probing = threading.Lock()
        # Number of calls of `interrupt`.
        self._interrupts = 0
        self.retry_context = RetryContext()
        self._idle: list[Connection] = []
        # Those in use, and whether to keep them afterwards.
        self._lent: dict[Connection, bool] = {}

    def connect(self) -> None:
        """Connect to the server, or check that an idle connection exists.

        :raises CannotConnect: if that fails.
        """
        with self.connection() as connection:
            connection.connect()

    def close(self) -> None:
        """Close idle connections now, and the others once they are no longer in use."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._lent = dict.fromkeys(self._lent, False)
        for connection in idle:
            connection.close()

    def interrupt(self) -> None:
        """Cancel what other threads are waiting for: each raises `Interrupted`.

        That is a connection, a reply, the time between two tries, or another thread's ``FEAT``.
        """
        with self._lock:
            self._interrupts += 1
            for connection in self._lent:
                connection.interrupt()
        self.retry_context.interrupt()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Yield a connection for one command or more; the first one connects it.

        Within the block no other caller uses it. Afterwards it is kept for further commands.
        """
        with self._lock:
            if self._idle:
                lent = self._idle.pop()
            else:
                lent = Connection(self.server, self.timeout, route=self._route)
            self._lent[lent] = True
        lent.timeout = self.timeout
        lent.connect_timeout = self.connect_timeout
        try:
            yield lent
        finally:
            lent.abort_reply()
            if lent.connected:
                self.retry_context.reached = True
            with self._lock:
                wanted = self._lent.pop(lent)
                keep = wanted and len(self._idle) < MOST_IDLE and not lent.interrupted
                if keep:
                    self._idle.append(lent)
            if not keep:
                lent.close()

    @property
    def version(self) -> int:
        """The version of the protocol that both sides speak: 1 or 2; see `features`."""
        return self.features.version

    @property
    def features(self) -> Features:
        """What the server supports; the first use sends ``FEAT``.

        The result is remembered, version 1 included: see `Negotiation.probe`.

        :raises ClientError: for a failure that does not depend on the version, silence for
            example. The next use sends ``FEAT`` again.
        """
        interrupts = self._interrupts
        with self._probing:
            if self._negotiation.features is None:
                if self._interrupts != interrupts:
                    # The thread that held the lock before was interrupted, and this one with it.
                    raise Interrupted("interrupted")
                return run_steps(self._negotiation.probe(), self._exchange)
            return self._negotiation.features

    def require_version_2(self, purpose: str) -> None:
        """Require version 2.

        :param purpose: the end of the message "… it cannot", such as "compute digests".
        :raises Unsupported: if the server speaks version 1 only.
        """
        if self.version < 2:
            self._negotiation.require_version_2(purpose)

    def offers(self, word: bytes) -> bool:
        """Return whether the server supports a verb that a server of version 2 may lack.

        :param word: of a `Request` that is ``optional``.
        :raises ClientError: as `features` does.
        """
        return self.features.version >= 2 and self._negotiation.offers(word)

    def run(self, request: Request[T]) -> T:
        """Carry out a request of `natproxy.client.requests`, and return its result.

        :raises Unsupported: if the server speaks version 1 only, which lacks the verb; or if the
            verb is optional, and the server or a proxy lacks it: see `offers`.
        """
        if request.purpose:
            self.require_version_2(request.purpose)
        return self._attempt(request)

    def list(self) -> Iterator[bytes]:
        """Yield the names of the files in the top directory, as they arrive (``LIST``)."""
        names = ListingNames()
        with self.connection() as connection:
            for piece in connection.request(ListNames.word):
                with connection.parsing():
                    found = names.feed(piece)
                yield from found

    def ls(
        self,
        name: str | bytes = b"",
        depth: float = 1,
        after: bytes = b"",
        limit: int | None = MOST_ENTRIES,
    ) -> Iterator[Entry]:
        """Yield the entries of a directory, sorted by name; each page is requested on demand.

        :param name: of the directory; empty for the served one. A file lists itself.
        :param depth: levels of directories; ``math.inf`` for all of them.
        :param after: entries up to this name, a path below the served directory, are left out.
        :param limit: entries at most; ``None`` for any number.
        :return: entries whose names are paths below the served directory, each name greater
            than the one before. One of type `natproxy.protocol.UNREAD` exists, but the server
            could not read it; a directory with ``unread`` set could not be listed.
        :raises TooManyEntries: if there are more.
        :raises ListingIncomplete: after the last entry, if the server could not list
            directories that it has not marked.
        """
        for page in Listing(name, depth, after, limit).pages():
            yield from self.run(page)

    def walk(
        self,
        name: str | bytes = b"",
        depth: float = math.inf,
        after: bytes = b"",
        limit: int | None = MOST_ENTRIES,
    ) -> Iterator[Entry]:
        """Yield the entries of a directory and of all directories below it; see `ls`."""
        return self.ls(name, depth, after, limit)

    def stat(self, name: str | bytes) -> Metadata:
        """Return the metadata of a file or a directory."""
        return self.run(Stat(name))

    def hash(self, name: str | bytes, offset: int = 0, length: int | None = None) -> Digest:
        """Return the SHA-256 of a file, or of a part of it, which the server computes.

        A digest may take longer than the server, or a proxy, may be silent: see
        `natproxy.client.requests.digest_steps`.

        :raises UsageError: if it is a directory.
        """
        self.require_version_2(Hash.purpose)
        steps = digest_steps(Hash(name, offset, length), self.timeout, time.monotonic)
        return run_steps(steps, self._attempt)

    @contextmanager
    def get(
        self,
        name: str | bytes,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> Iterator[tuple[Reply, Range]]:
        """Request a part of a file; read its bytes from the reply.

        :param if_match: the ``etag`` that the file must still have.
        :raises Changed: if it has another one.
        """
        request = Get(name, offset, length, if_match)
        self.require_version_2(request.purpose)
        with self.connection() as connection:
            reply = self._negotiate(request, lambda: _begin(connection, request))
            yield reply, request.part

    @contextmanager
    def get_v1(self, name: str | bytes) -> Iterator[Reply]:
        """Request a whole file by the command of version 1, ``DOWNLOAD``."""
        with self.connection() as connection:
            yield _begin(connection, GetWhole(name))

    def read(
        self,
        name: str | bytes,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> bytes:
        """Return the bytes of a part of a file, or of all of it; see `get`."""
        return self.run(Get(name, offset, length, if_match))

    def pack(self, names: Iterable[str | bytes]) -> Records:
        """Return several small files: a record for each name, in order.

        The record of a file that is missing, or has more than `natproxy.protocol.MAX_PACKED`
        bytes, has a ``code`` other than 0 and no data. The total size is not limited.

        :raises Unsupported: if the server or a proxy lacks ``PACK``; see `offers`.
        """
        return run_steps(pack_steps(names), self.run)

    def open(self, name: str | bytes) -> RemoteFile:
        """Open a file for reading: a seekable, buffered binary file object.

        If the file changes on the server, reads raise `Changed` from then on.

        :raises UsageError: if it is a directory.
        """
        metadata = require_file(as_name(name), self.stat(name))
        return RemoteFile(self.get, as_name(name), metadata)

    def _attempt(self, request: Request[T]) -> T:
        """Carry out a request; fall back to version 1 if it shows the server to be one."""
        with self.connection() as connection:
            return self._negotiate(request, lambda: _receive(connection, request))

    def _negotiate(self, request: Request[Any], send: Callable[[], T]) -> T:
        """Carry out a request, with those that determine the version.

        :param send: sends its command, perhaps more than once, and returns the result.
        """
        confirmed = self._negotiation.state is State.CONFIRMED
        if not request.optional and (confirmed or not request.purpose):
            # No failure can show another version.
            return send()

        def carry_out(each: Request[Any]) -> object:
            return send() if each is request else self._exchange(each)

        result: T = run_steps(self._negotiation.carry_out(request), carry_out)
        return result

    def _exchange(self, request: Request[T]) -> T:
        """Send a command on a connection of its own, and return the result of its reply."""
        with self.connection() as connection:
            if request.bounded:
                connection.connect()
                connection.deadline = time.monotonic() + self.timeout
            try:
                return _receive(connection, request)
            finally:
                connection.deadline = None


def _receive(connection: Connection, request: Request[T]) -> T:
    """Send a command and return the result of its reply."""
    reply = _begin(connection, request)
    with connection.parsing():
        pieces = iter(reply)
        while not request.satisfied and (piece := next(pieces, None)) is not None:
            request.feed(piece)
        return request.finish()


def _begin(connection: Connection, request: Request[Any]) -> Reply:
    reply = connection.request(request.word, request.arguments)
    with connection.parsing():
        request.begin(reply.header)
    return reply
