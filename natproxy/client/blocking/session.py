"""A server, asked for things: connections are kept for the next question.

RFC 2663 calls what lies between one client's first and last command a session.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from natproxy.address import Address
from natproxy.client.blocking.connection import Connection, Reply
from natproxy.client.blocking.file import RemoteFile
from natproxy.client.blocking.route import Route
from natproxy.client.context import Closing
from natproxy.client.errors import (
    ClientError,
    Interrupted,
    NotFound,
    NotUnderstood,
    UsageError,
)
from natproxy.client.events import Progress, ignore_event
from natproxy.client.requests import (
    DOUBTS,
    LONGEST_DIGEST,
    LONGEST_FEAT,
    MOST_ENTRIES,
    SHORTEST_SILENCE,
    VERSION_1,
    Features,
    Pages,
    as_name,
    cannot,
    check_page,
    is_a_directory,
    is_doubtful,
    is_listing_of_version_1,
    is_refusal_of_version_1,
    may_be_computing,
    name_bytes,
    parse_features,
    range_in,
)
from natproxy.client.retry import RETRY_FOR, RetryContext, check_timeout
from natproxy.client.url import parse_server
from natproxy.protocol import (
    DIRECTORY,
    FILE,
    MAX_LINE,
    ROOT,
    Arguments,
    Digest,
    Entry,
    ListingNames,
    Metadata,
    Range,
    parse_digest,
    parse_metadata,
    printable,
)

_DIGESTS = "compute digests"

KEPT = 16
"""Connections that are kept while nobody uses them."""

# Inside of `Session`, `list` is a command.
Entries = list[Entry]


class Session(Closing):
    """A server, asked for things; by several threads at once, if need be.

    Every method raises `ClientError` on failure: `NotFound`, `CannotConnect`, …; `Unsupported`
    if the server speaks version 1 only and cannot do it.

    :param server: where it is.
    :param timeout: seconds to wait for each piece of a reply.
    :param connect_timeout: seconds to wait for a connection, to all of the host's addresses
        together; without it, 10, or ``timeout`` if that is shorter.
    :raises UsageError: if a time-out is not more than 0, or too long.
    :ivar retry_context: whether the server has been reached: see `natproxy.client.retry`.
    """

    def __init__(
        self, server: Address, timeout: float = 60.0, connect_timeout: float | None = None
    ) -> None:
        check_timeout("timeout", timeout)
        check_timeout("connect_timeout", connect_timeout)
        self.server = server
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self._route = Route(*server)
        self._features: Features | None = None
        # Whether a reply of version 2 with words in its header has come.
        self._certain = False
        # The lock guards what the threads share: the connections.
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        # How often `interrupt` has been called.
        self._interrupts = 0
        self.retry_context = RetryContext()
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
        """End what other threads are waiting for: each sees `Interrupted`.

        They wait for a connection, for a reply, between two tries, or for another thread's
        ``FEAT``.
        """
        with self._lock:
            self._interrupts += 1
            for connection in self._lent:
                connection.interrupt()
        self.retry_context.interrupt()

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection; it is made when the first command is sent."""
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
            lent.settle()
            if lent.connected:
                self.retry_context.reached = True
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

        The first use asks the server; see `features`.
        """
        return self.features.version

    @property
    def features(self) -> Features:
        """What the server speaks; the first use asks it with ``FEAT``.

        Version 1 is remembered after ``ERR unknown command``, any other reply that is none of
        version 2, or when the peer twice closes the connection instead of a reply to ``FEAT``
        and each time answers ``LIST``.

        :raises ClientError: for any other failure, silence too. It says nothing about the
            version: the next use asks again.
        """
        interrupts = self._interrupts
        with self._asking:
            if self._features is None:
                if self._interrupts != interrupts:
                    # The thread that asked before this one was.
                    raise Interrupted("interrupted")
                self._features = self._ask_features()
            return self._features

    def needs(self, what: str) -> None:
        """Require version 2.

        :param what: the server has to do, to end the message with.
        :raises Unsupported: if it speaks version 1 only.
        """
        if self.version < 2:
            raise cannot(self.server, what)

    def list(self) -> Iterator[bytes]:
        """Give the names of the files in the top directory, as they come in (``LIST``)."""
        names = ListingNames()
        with self.connection() as connection:
            for piece in connection.request(b"LIST"):
                with connection.understanding():
                    found = names.feed(piece)
                yield from found

    def ls(
        self,
        name: str | bytes = b"",
        depth: float = 1,
        after: bytes = b"",
        limit: int | None = MOST_ENTRIES,
    ) -> Iterator[Entry]:
        """Give what is in a directory, sorted by name, page by page as it is asked for.

        :param name: of the directory; empty for the served one. A file gives itself.
        :param depth: levels of directories; `math.inf` for all of them.
        :param after: entries up to this name, a path below the served directory, are left out.
        :param limit: entries at most; `None` for any number.
        :return: entries whose names are paths below the served directory, each name greater
            than the one before. One of type `natproxy.protocol.UNREAD` is there, but could not
            be read by the server; a directory with ``unread`` set could not be listed.
        :raises TooManyEntries: if there are more.
        :raises ListingIncomplete: after the last entry, if the server could not list
            directories that it has not marked.
        """
        pages = Pages(after, limit)
        while pages.more:
            yield from self.page(pages, name, depth)
        pages.end()

    def page(self, pages: Pages, name: str | bytes, depth: float) -> Entries:
        """Return the next page of a listing; what fails for now can be tried again.

        :param pages: those of the listing so far.
        :param name: as for `ls`, as is ``depth``.
        """
        what = "list more than the served directory's files"
        self.needs(what)
        arguments = Arguments(as_name(name), depth=depth, after=pages.after)
        with self.connection() as connection:
            reply = self._request(connection, b"LS", arguments, what)
            with connection.understanding():
                check_page(reply.header)
                return pages.take(reply.header.words, reply.read())

    def walk(self, name: str | bytes = b"", limit: int | None = MOST_ENTRIES) -> Iterator[Entry]:
        """List a directory and all directories below it; see `ls`."""
        return self.ls(name, math.inf, limit=limit)

    def stat(self, name: str | bytes) -> Metadata:
        """Tell what a file or a directory is like now."""
        what = "tell a file's size and time"
        self.needs(what)
        with self.connection() as connection:
            reply = self._request(connection, b"STAT", Arguments(as_name(name)), what)
            with connection.understanding():
                return parse_metadata(reply.header.words)

    def hash(self, name: str | bytes, offset: int = 0, length: int | None = None) -> Digest:
        """Have the server compute the SHA-256 of a file, or of a part of it.

        A digest that takes longer than the server, or a proxy, may be silent is asked for
        again, as long as the server answers ``STAT``: it continues where it was.

        :raises UsageError: if it is a directory.
        """
        self.needs(_DIGESTS)
        arguments = Arguments(as_name(name), offset=offset, length=length)
        end = time.monotonic() + LONGEST_DIGEST
        silence = min(SHORTEST_SILENCE, self.timeout / 2)
        while True:
            began = time.monotonic()
            try:
                return self._digest(arguments)
            except NotFound:
                self._needs_file(arguments.name)
                raise
            except ClientError as error:
                # Only silence is waited out here: whoever calls knows about other failures.
                if (
                    not may_be_computing(error)
                    or time.monotonic() >= end
                    or time.monotonic() - began < silence
                    or not self._is_alive(arguments.name)
                ):
                    raise

    @contextmanager
    def get(
        self,
        name: str | bytes,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> Iterator[tuple[Reply, Range]]:
        """Ask for a part of a file; the body is to be taken from the reply.

        :param if_match: the ``etag`` that the file must still have.
        :raises Changed: if it has another one.
        """
        what = "send a part of a file"
        self.needs(what)
        arguments = Arguments(as_name(name), offset, length, if_match)
        with self.connection() as connection:
            reply = self._request(connection, b"GET", arguments, what)
            with connection.understanding():
                part = range_in(reply.header, arguments)
            yield reply, part

    @contextmanager
    def whole(self, name: str | bytes) -> Iterator[Reply]:
        """Ask for a whole file as version 1 does (``DOWNLOAD``)."""
        with self.connection() as connection:
            yield connection.request(b"DOWNLOAD", Arguments(name_bytes(name)))

    def read(
        self,
        name: str | bytes,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> bytes:
        """Give a part of a file, or all of it."""
        with self.get(name, offset, length, if_match) as (reply, _):
            return reply.read()

    def open(self, name: str | bytes) -> RemoteFile:
        """Open a file for reading: a seekable, buffered binary file object.

        It keeps to the file as it is now: if it changes on the server, reads raise
        `Changed` from then on.
        """
        metadata = self.stat(name)
        if metadata.type != FILE:
            raise UsageError(f"{printable(as_name(name) or ROOT)}: is a directory")
        return RemoteFile(self, as_name(name), metadata)

    def download(
        self,
        name: str | bytes,
        destination: str | bytes | None = None,
        *,
        overwrite: bool = False,
        verify: bool = False,
        segments: int = 1,
        retry_for: float = RETRY_FOR,
        retries: int | None = None,
        wait: bool = False,
        limit_rate: float | None = None,
        progress: Progress = ignore_event,
    ) -> bytes:
        """Fetch a file: resumed if a part of it is here, retried, whole or not at all.

        :param destination: a file, or a directory that exists or ends with a slash; missing
            directories are made. Without it: the working directory.
        :param overwrite: replaces a file that is there; without it, one that looks the
            same is left, and any other is an error.
        :param verify: compares the SHA-256 with the server's.
        :param segments: pieces that are fetched at the same time.
        :param retry_for: seconds without progress until temporary failures are no longer
            retried: 0 for no retry, `math.inf` for no end.
        :param retries: consecutive failures before giving up, if that comes sooner.
        :param wait: whether a server that cannot be connected to at first is waited for.
        :param limit_rate: bytes a second.
        :param progress: is told of each step.
        :return: the path of the file.
        """
        # What fetches needs more modules than what asks.
        from natproxy.client.rate import RateLimit
        from natproxy.client.retry import RetryPolicy
        from natproxy.client.transfer.destination import Existing, destination_path
        from natproxy.client.transfer.download import Download, DownloadOptions, DownloadRequest

        existing = Existing.REPLACE if overwrite else Existing.REFUSE
        limit = None if limit_rate is None else RateLimit(limit_rate)
        path = destination_path(as_name(name), destination)
        policy = RetryPolicy(retry_for, retries, wait)
        how = DownloadOptions(existing, verify, segments, limit, policy, concurrent=True)
        return Download(self, DownloadRequest(as_name(name), path), how, progress).run().path

    def _digest(self, arguments: Arguments) -> Digest:
        with self.connection() as connection:
            reply = self._request(connection, b"HASH", arguments, _DIGESTS)
            with connection.understanding():
                return parse_digest(reply.header.words)

    def _is_alive(self, name: bytes) -> bool:
        """Whether a server that is silent about a digest answers another command."""
        try:
            self.stat(name)
        except ClientError as error:
            return not error.passing
        return True

    def _needs_file(self, name: bytes) -> None:
        """Say of what the server does not find as a file that it is a directory.

        :raises UsageError: if it is one.
        """
        try:
            metadata = self.stat(name)
        except ClientError:
            return
        if metadata.type == DIRECTORY:
            raise is_a_directory(name)

    def _request(
        self, connection: Connection, word: bytes, arguments: Arguments, what: str
    ) -> Reply:
        """Send a command of version 2 whose reply has words in its header.

        A proxy of version 1 before a server of version 2 may relay the listing that answers
        ``FEAT``, and close the connection on such a header.

        :param what: the command is for, to end the message with.
        :raises Unsupported: if that is found out.
        """
        for _ in range(DOUBTS):
            try:
                reply = connection.request(word, arguments)
            except ClientError as error:
                via = self._features.via if self._features is not None else ()
                if self._certain or not is_doubtful(error, via) or not self._answers_list():
                    raise
            else:
                # The header of a page may have none, and pass a proxy of version 1.
                self._certain = self._certain or bool(reply.header.words)
                return reply
        self._features = VERSION_1
        raise cannot(self.server, what)

    def _ask_features(self) -> Features:
        for _ in range(DOUBTS):
            try:
                return self._feat()
            except ClientError as error:
                if is_refusal_of_version_1(error):
                    break
                if not is_doubtful(error) or not self._answers_list():
                    raise
        return VERSION_1

    def _feat(self) -> Features:
        with self.connection() as connection:
            connection.connect()
            connection.deadline = time.monotonic() + self.timeout
            try:
                try:
                    reply = connection.request(b"FEAT")
                except NotUnderstood:
                    return VERSION_1
                listing = bytearray()
                for piece in reply:
                    listing += piece
                    if is_listing_of_version_1(bytes(listing[: MAX_LINE + 1])):
                        return VERSION_1
                    if len(listing) > LONGEST_FEAT:
                        raise NotUnderstood(f"{self.server} is not understood: an endless FEAT")
            finally:
                connection.deadline = None
        return parse_features(bytes(listing))

    def _answers_list(self) -> bool:
        """Whether the peer, and the server behind it, answer a command of version 1."""
        try:
            with self.connection() as connection:
                connection.request(b"LIST")
        except ClientError:
            return False
        return True


def connect(server: str, timeout: float = 60.0, connect_timeout: float | None = None) -> Session:
    """Begin a session.

    :param server: ``HOST:PORT``, ``HOST``, ``[IPV6]:PORT`` or ``natproxy://HOST:PORT``.
    :param timeout: seconds to wait for each piece of a reply.
    :param connect_timeout: seconds to wait for a connection: see `Session`.
    :raises CannotConnect: if the server isn't there.
    """
    session = Session(parse_server(server), timeout, connect_timeout)
    session.connect()
    return session
