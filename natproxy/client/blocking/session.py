"""Carries out requests over blocking sockets.

A session is what lies between one client's first and last command (RFC 2663).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from natproxy.address import Address
from natproxy.client.blocking.connection import Connection
from natproxy.client.blocking.execution import (
    next_reply,
    receive,
    result_of,
    run_steps,
    send,
)
from natproxy.client.blocking.pool import ConnectionPool
from natproxy.client.blocking.reply import Reply
from natproxy.client.errors import ClientError, Interrupted, ServerError
from natproxy.client.listing import MOST_ENTRIES, Listing
from natproxy.client.requests import (
    Get,
    GetWhole,
    Hash,
    ListNames,
    Request,
    Stat,
    as_name,
    digest_steps,
    pack_steps,
    require_file,
)
from natproxy.client.version import Feat, Features, Negotiation, State
from natproxy.protocol import Digest, Entry, ListingNames, Metadata, PackRecord, Range
from natproxy.tls.options import TLSOptions

if TYPE_CHECKING:
    from natproxy.client.authentication import Token
    from natproxy.client.blocking.file import RemoteFile

# Inside of `Session`, `list` is a method.
Records = list[PackRecord]

T = TypeVar("T")


class Session(ConnectionPool):
    """Sends commands to one server. Several threads may share it.

    Every method raises `ClientError` on failure: `NotFound`, `CannotConnect`, …; `Unsupported`
    if the server speaks version 1 only, which lacks the command.

    :param server: the address to connect to.
    :param timeout: seconds to wait for each piece of a reply.
    :param connect_timeout: seconds to wait for a connection, to all of the host's addresses
        together; if ``None``, 10, or ``timeout`` if that is shorter.
    :param tls: how to verify the server, and what to show it; ``None`` for no TLS.
    :param token: to send on each connection, before its first command: see
        `natproxy.client.authentication.Authentication`.
    :raises UsageError: if a time-out is not more than 0, or too long, or the server has no port
        from 1 to 65535; or if a file of ``tls`` cannot be used.
    """

    def __init__(
        self,
        server: Address,
        timeout: float = 60.0,
        connect_timeout: float | None = None,
        tls: TLSOptions | None = None,
        token: Token | str | None = None,
    ) -> None:
        super().__init__(server, timeout, connect_timeout, tls, token)
        self._negotiation = Negotiation(server)
        # Held by the thread that sends FEAT.
        self._probing = threading.Lock()

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
        return self._determine(self._exchange)

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
        with self.connection() as connection:
            return self._carry_out(connection, request)

    def pipeline(
        self, requests: Iterable[Request[T]], ahead: int = 2
    ) -> Generator[tuple[Request[T], T | ClientError], None, None]:
        """Carry out requests in order over one connection; yield each with its result.

        Up to ``ahead`` commands are sent before the reply to the first of them has been
        received. A request is taken from the iterable when it can be sent, so it may depend on
        earlier results. One whose verb the peer may not be able to parse is sent alone.

        A `ServerError`, and a `UsageError` for a request that cannot be sent, are results. Any
        other failure is raised: requests that have not been yielded may be carried out again.
        If it shows that the server or a proxy lacks an optional verb, it is `Unsupported`.
        Close the iterator, or exhaust it, to return its connection to the session.

        :param ahead: 1 or more.
        :raises ClientError: if the server can't be reached, or breaks the protocol.
        """
        # Most commands of the command line do not need it.
        from natproxy.client.blocking.pipeline import Pipeline

        with self.connection() as connection:
            pipeline = Pipeline(connection, self._negotiation, partial(self._carry_out, connection))
            yield from pipeline.results(requests, ahead)

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
        steps = digest_steps(Hash(name, offset, length), self.timeout, time.monotonic)
        return run_steps(steps, self.run)

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
        with self.connection() as connection:
            yield self._negotiate(connection, request, _unread), request.part

    @contextmanager
    def get_and_stat(
        self,
        name: str | bytes,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> Iterator[tuple[Reply, Range, Callable[[], Metadata]]]:
        """Request a part of a file, and in the same write the metadata that it has afterwards.

        :return: as `get` does; the third is a function that returns the metadata, to be called
            when the body has been read.
        """
        request, after = Get(name, offset, length, if_match), Stat(name)
        with self.connection() as connection:

            def metadata() -> Metadata:
                return result_of(connection, after, next_reply(connection, after))

            try:
                reply = self._negotiate(connection, request, _unread, after)
            except ServerError as error:
                if connection.outstanding and not error.passing:
                    # The connection can be used again if the other reply is received.
                    with suppress(ClientError):
                        metadata()
                raise
            yield reply, request.part, metadata

    @contextmanager
    def get_v1(self, name: str | bytes) -> Iterator[Reply]:
        """Request a whole file by the command of version 1, ``DOWNLOAD``."""
        with self.connection() as connection:
            request = GetWhole(name)
            send(connection, request)
            yield next_reply(connection, request)

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
        :raises UsageError: if ``names`` is a single name.
        """
        return run_steps(pack_steps(names), self.run)

    def open(self, name: str | bytes) -> RemoteFile:
        """Open a file for reading: a seekable, buffered binary file object.

        If the file changes on the server, reads raise `Changed` from then on.

        :raises UsageError: if it is a directory.
        """
        from natproxy.client.blocking.file import RemoteFile

        metadata = require_file(as_name(name), self.stat(name))
        return RemoteFile(self.get, as_name(name), metadata)

    def _carry_out(self, connection: Connection, request: Request[T]) -> T:
        """Carry out a request on a connection; see `_negotiate`."""
        return self._negotiate(connection, request, partial(result_of, connection, request))

    def _negotiate(
        self,
        connection: Connection,
        request: Request[Any],
        convert: Callable[[Reply], T],
        *following: Request[Any],
    ) -> T:
        """Carry out a request, with those that determine the version.

        :param connection: for the request.
        :param convert: returns the result of the request from its reply.
        :param following: requests that are sent with it; the caller receives their replies.
        """
        sent = bool(request.purpose) and self._announce(connection, request, *following)

        def carry_out(each: Request[Any]) -> Any:
            nonlocal sent
            if each is not request:
                return self._exchange(each)
            if not sent:
                send(connection, request, *following)
            sent = False
            return convert(next_reply(connection, request))

        confirmed = self._negotiation.state is State.CONFIRMED
        if request.optional or (request.purpose and not confirmed):
            result: T = run_steps(self._negotiation.carry_out(request), carry_out)
        else:
            # No failure can show another version.
            result = carry_out(request)
        return result

    def _announce(self, connection: Connection, *requests: Request[Any]) -> bool:
        """Send ``FEAT`` if the version is unknown, in one write with requests of version 2.

        :return: whether the requests have been sent as well: their replies are the next ones.
        :raises Unsupported: if the server speaks version 1 only.
        """
        sent = False
        # An optional verb is sent only if the reply to FEAT has it.
        together = not any(request.optional for request in requests)

        def carry_out(each: Request[Any]) -> object:
            nonlocal sent, together
            if each.word != Feat.word:
                return self._exchange(each)
            following = requests if together else ()
            # After a failure, only FEAT alone can show the version.
            together = False
            with self._bounded(connection):
                send(connection, each, *following)
                result = result_of(connection, each, next_reply(connection, each))
            sent = bool(following) and not each.satisfied
            return result

        if self._determine(carry_out).version < 2:
            self._negotiation.require_version_2(requests[0].purpose)
        return sent

    def _determine(self, carry_out: Callable[[Request[Any]], object]) -> Features:
        """Return what the server supports.

        :param carry_out: returns the result of a request that determines the version.
        """
        interrupts = self._interrupts
        with self._probing:
            if self._negotiation.features is None:
                if self._interrupts != interrupts:
                    # The thread that held the lock before was interrupted, and this one with it.
                    raise Interrupted("interrupted")
                return run_steps(self._negotiation.probe(), carry_out)
            return self._negotiation.features

    def _exchange(self, request: Request[T]) -> T:
        """Send a command on a connection of its own, and return the result of its reply."""
        with self.connection() as connection:
            if not request.bounded:
                return receive(connection, request)
            with self._bounded(connection):
                return receive(connection, request)

    @contextmanager
    def _bounded(self, connection: Connection) -> Iterator[None]:
        """Limit the time of the block, without the connect, to one time-out."""
        connection.connect()
        connection.deadline = time.monotonic() + self.timeout
        try:
            yield
        finally:
            connection.deadline = None


def _unread(reply: Reply) -> Reply:
    """Return a reply whose body the caller reads."""
    return reply
