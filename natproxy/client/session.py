"""A server, asked for things: connections are kept for the next question.

RFC 2663 calls what lies between one client's first and last command a session.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from natproxy import wire
from natproxy.client.address import Server
from natproxy.client.answers import (
    DIGEST_TRIES,
    FEAT_TIMEOUT,
    SHORTEST_SILENCE,
    as_name,
    cannot,
    is_a_directory,
    is_the_proxys_own,
    page_in,
    range_in,
    version_in,
)
from natproxy.client.closing import Closing
from natproxy.client.connection import Connection, Reply
from natproxy.client.errors import (
    ClientError,
    ConnectionBroken,
    NotFound,
    NotUnderstood,
    ServerError,
    Unavailable,
    UsageError,
)
from natproxy.client.events import Progress, unobserved
from natproxy.client.reading import RemoteFile

LONGEST_FEAT = 1 << 20
"""Bytes that the answer may have."""

LARGEST_PAGE = 64 << 20
"""Bytes of a page of ``LS`` that are held in memory."""

DOUBTS = 2
"""Unanswered questions after which a server that never answered one speaks version 1."""

KEPT = 16
"""Connections that are kept while nobody uses them."""


class Session(Closing):
    """A server, asked for things; by several threads at once, if need be.

    Every method raises `ClientError` on failure: `NotFound`, `CannotConnect`, …; `Unsupported`
    if the server speaks version 1 only and cannot do it.

    :param server: where it is.
    :param timeout: seconds to wait for a connection, and for each piece of a reply.
    """

    def __init__(self, server: Server, timeout: float = 60.0) -> None:
        self.server = server
        self.timeout = timeout
        self._version: int | None = None
        # Questions of version 2 that broke the connection; `None` once one was answered.
        self._doubts: int | None = 0
        # The lock guards what the threads share: the connections, and the version.
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self._idle: list[Connection] = []
        # Those in use, and whether they are to be kept afterwards.
        self._lent: dict[Connection, bool] = {}

    def connect(self) -> None:
        """See that the server is there.

        :raises CannotConnect: if it isn't.
        """
        with self.connection() as connection:
            connection.connect()

    def close(self) -> None:
        """Close the connections that nobody uses, and the others when they come back."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._lent = dict.fromkeys(self._lent, False)
        for connection in idle:
            connection.close()

    def interrupt(self) -> None:
        """End what other threads are waiting for: each sees `Interrupted`."""
        with self._lock:
            for connection in self._lent:
                connection.interrupt()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection; it is made when the first command is sent."""
        with self._lock:
            lent = self._idle.pop() if self._idle else Connection(self.server, self.timeout)
            self._lent[lent] = True
        lent.timeout = self.timeout
        try:
            yield lent
        finally:
            lent.settle()
            with self._lock:
                wanted = self._lent.pop(lent)
                keep = wanted and len(self._idle) < KEPT and not lent.interrupted
                if keep:
                    self._idle.append(lent)
            if not keep:
                lent.close()

    @property
    def version(self) -> int:
        """The version of the protocol that both sides speak: 1 or 2.

        The first use asks the server. An error, a closed connection or two seconds without
        an answer mean 1, and are remembered.
        """
        with self._asking:
            if self._version is None:
                self._version = self._ask_version()
            return self._version

    def needs(self, what: str) -> None:
        """Require version 2.

        :param what: the server has to do, to end the message with.
        :raises Unsupported: if it speaks version 1 only.
        """
        if self.version < 2:
            raise cannot(self.server, what)

    def list(self) -> Iterator[bytes]:
        """Give the names of the files in the top folder, as they come in (``LIST``)."""
        names = wire.ListingNames()
        with self.connection() as connection:
            for piece in connection.request(b"LIST"):
                with connection.understanding():
                    found = names.feed(piece)
                yield from found

    def ls(
        self, name: str | bytes = b"", depth: float = 1, after: bytes = b""
    ) -> Iterator[wire.Entry]:
        """Give what is in a folder, sorted by name, page by page as it is asked for.

        :param name: of the folder; empty for the served one. A file gives itself.
        :param depth: levels of folders; `math.inf` for all of them.
        :param after: entries up to this name, a path below the served folder, are left out.
        :return: entries whose names are paths below the served folder.
        """
        self.needs("tell more than the names in its top folder")
        more = True
        while more:
            arguments = wire.Arguments(as_name(name), depth=depth, after=after)
            with self.connection() as connection:
                reply = connection.request(b"LS", arguments)
                with connection.understanding():
                    if reply.header.size > LARGEST_PAGE:
                        raise wire.WireError(f"a page of {reply.header.size} bytes")
                    page, more = page_in(b"".join(reply), after)
            yield from page
            if page:
                after = page[-1].name

    def walk(self, name: str | bytes = b"") -> Iterator[wire.Entry]:
        """Give what is in a folder and in all folders below it."""
        return self.ls(name, math.inf)

    def stat(self, name: str | bytes) -> wire.Status:
        """Tell what a file or a folder is like now."""
        self.needs("tell a file's size and time")
        with self.connection() as connection:
            try:
                reply = connection.request(b"STAT", wire.Arguments(as_name(name)))
            except ConnectionBroken:
                self._doubt()
                raise
            self._doubts = None
            with connection.understanding():
                return wire.parse_status(reply.header.words)

    def hash(self, name: str | bytes, offset: int = 0, length: int | None = None) -> wire.Digest:
        """Have the server compute the SHA-256 of a file, or of a part of it.

        A digest that takes longer than the server, or a proxy, may be silent is asked for
        again: the server continues where it was.

        :raises UsageError: if it is a directory.
        """
        self.needs("compute digests")
        arguments = wire.Arguments(as_name(name), offset=offset, length=length)
        tries = 0
        silence = min(SHORTEST_SILENCE, self.timeout / 2)
        while True:
            tries += 1
            began = time.monotonic()
            try:
                return self._digest(arguments)
            except NotFound:
                self._needs_file(arguments.name)
                raise
            except (ConnectionBroken, Unavailable):
                # Only silence is waited out here: whoever calls knows about other failures.
                if tries == DIGEST_TRIES or time.monotonic() - began < silence:
                    raise

    @contextmanager
    def get(
        self,
        name: str | bytes,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> Iterator[tuple[Reply, wire.Range]]:
        """Ask for a part of a file; the body is to be taken from the reply.

        :param if_match: the ``etag`` that the file must still have.
        :raises Changed: if it has another one.
        """
        self.needs("send a part of a file")
        arguments = wire.Arguments(as_name(name), offset, length, if_match)
        with self.connection() as connection:
            reply = connection.request(b"GET", arguments)
            with connection.understanding():
                part = range_in(reply.header, arguments)
            yield reply, part

    @contextmanager
    def whole(self, name: str | bytes) -> Iterator[Reply]:
        """Ask for a whole file as version 1 does (``DOWNLOAD``)."""
        with self.connection() as connection:
            yield connection.request(b"DOWNLOAD", wire.Arguments(os.fsencode(name)))

    def read(
        self,
        name: str | bytes,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> bytes:
        """Give a part of a file, or all of it."""
        with self.get(name, offset, length, if_match) as (reply, _):
            return b"".join(reply)

    def open(self, name: str | bytes) -> RemoteFile:
        """Open a file for reading: a seekable, buffered binary file object.

        It keeps to the file as it is now: if it changes on the server, reads raise
        `Changed` from then on.
        """
        status = self.stat(name)
        if status.type != wire.FILE:
            raise UsageError(f"{wire.printable(as_name(name))}: is a folder")
        return RemoteFile(self, as_name(name), status)

    def download(
        self,
        name: str | bytes,
        destination: str | bytes | None = None,
        *,
        overwrite: bool = False,
        verify: bool = False,
        segments: int = 1,
        retries: int = 8,
        limit_rate: float | None = None,
        progress: Progress = unobserved,
    ) -> bytes:
        """Fetch a file: resumed if a part of it is here, retried, whole or not at all.

        :param destination: a file, or a folder that exists or ends with a slash; missing
            folders are made. Without it: the working directory.
        :param overwrite: replaces a file that is there; without it, one that looks the
            same is left, and any other is an error.
        :param verify: compares the SHA-256 with the server's.
        :param segments: pieces that are fetched at the same time.
        :param retries: failures in a row that are put up with.
        :param limit_rate: bytes a second.
        :param progress: is told of each step.
        :return: the path of the file.
        """
        # What fetches needs more modules than what asks.
        from natproxy.client.destination import Existing, destination_of
        from natproxy.client.retrying import Limit
        from natproxy.client.transfer import How, Transfer, Wanted

        existing = Existing.REPLACE if overwrite else Existing.REFUSE
        limit = None if limit_rate is None else Limit(limit_rate)
        path = destination_of(
            as_name(name), None if destination is None else os.fsencode(destination)
        )
        how = How(existing, verify, segments, retries, limit)
        return Transfer(self, Wanted(as_name(name), path), how, progress).run().path

    def _digest(self, arguments: wire.Arguments) -> wire.Digest:
        with self.connection() as connection:
            reply = connection.request(b"HASH", arguments)
            with connection.understanding():
                return wire.parse_digest(reply.header.words)

    def _needs_file(self, name: bytes) -> None:
        """Say of what the server does not find as a file that it is a directory.

        :raises UsageError: if it is one.
        """
        try:
            status = self.stat(name)
        except ClientError:
            return
        if status.type == wire.DIRECTORY:
            raise is_a_directory(name)

    def _doubt(self) -> None:
        """Note that a ``STAT`` was not answered: the second time, take it for version 1.

        A proxy of version 1 before a server of version 2 may pass the listing on that
        answers ``FEAT``, and break at a header with words in it.
        """
        with self._asking:
            if self._doubts is not None:
                self._doubts += 1
                if self._doubts == DOUBTS:
                    self._version = 1

    def _ask_version(self) -> int:
        with self.connection() as connection:
            connection.connect()
            connection.deadline = time.monotonic() + FEAT_TIMEOUT
            try:
                answer = b""
                for piece in connection.request(b"FEAT"):
                    answer += piece
                    if len(answer) > LONGEST_FEAT:
                        return 1
            except (ServerError, ConnectionBroken, NotUnderstood) as error:
                if is_the_proxys_own(error):
                    raise
                return 1
            finally:
                connection.deadline = None
        return version_in(answer)


def connect(server: str, timeout: float = 60.0) -> Session:
    """Begin a session.

    :param server: ``HOST:PORT``, ``HOST`` or ``[IPV6]:PORT``.
    :param timeout: seconds to wait for a connection, and for each piece of a reply.
    :raises CannotConnect: if the server isn't there.
    """
    session = Session(Server.parse(server), timeout)
    session.connect()
    return session
