"""The client for those who live on a reactor: what a `Session` returns, as Deferreds.

For programs::

    from natproxy.client.deferred import connect

    async def look(reactor):
        async with await connect(reactor, "files.example:9000") as client:
            async for entry in client.walk():
                print(entry.name, entry.status.size)
            part = await client.get("image.iso", consumer)

The reactor and the clock are handed in. Nothing here blocks, and nothing writes to disk.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial, wraps
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IConsumer, IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure

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
from natproxy.client.errors import (
    ClientError,
    ConnectionBroken,
    NotFound,
    NotUnderstood,
    ServerError,
    Unavailable,
    UsageError,
)
from natproxy.client.exchanging import Flow, Memory
from natproxy.client.pool import ConnectionPool

LARGEST = 64 << 20
"""Bytes of one reply that are held in memory at most, unless the caller wants otherwise."""

# Inside of `Client`, `list` is a command.
Names = list[bytes]
Entries = list[wire.Entry]

P = ParamSpec("P")
T = TypeVar("T")


def _deferred(
    function: Callable[P, Coroutine[Deferred[Any], Any, T]],
) -> Callable[P, Deferred[T]]:
    """Let a coroutine function return a Deferred, and begin at once."""

    @wraps(function)
    def begin(*args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        return Deferred.fromCoroutine(function(*args, **kwargs))

    return begin


class Client:
    """A server, asked for things; by any number of callers at once.

    Every Deferred fails with a `natproxy.client.ClientError`: `NotFound`, `CannotConnect`, …;
    `Unsupported` if the server speaks version 1 only and cannot do it; `Interrupted` if the
    client is closed. To cancel it aborts its connection, and then it fails with
    `CancelledError`.

    :param endpoint: where the server is.
    :param timeout: seconds to wait for a connection, and for each piece of a reply.
    :param server: its name in messages.
    :param connections: at once; whoever wants one more waits for their turn.
    :param idle: connections that are kept while nobody uses them.
    :param largest: bytes of a reply that are held in memory; to want more is a `UsageError`.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        timeout: float = 60.0,
        *,
        server: str = "the server",
        connections: int = 16,
        idle: int = 4,
        largest: int = LARGEST,
    ) -> None:
        self.server = server
        self.timeout = timeout
        self._clock = clock
        self._largest = largest
        self._pool = ConnectionPool(endpoint, clock, timeout, server, connections, idle)
        self._version: int | None = None
        self._asking: Deferred[int] | None = None
        self._askers: dict[Deferred[int], None] = {}

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @_deferred
    async def connect(self) -> None:
        """See that the server is there.

        :return: fires, or fails with `CannotConnect`.
        """
        await self._pool.connect()

    @_deferred
    async def close(self) -> None:
        """End everything that is under way, and every connection.

        :return: fires when nothing is left on the reactor.
        """
        await self._pool.close()

    def version(self) -> Deferred[int]:
        """Give the version of the protocol that both sides speak: 1 or 2.

        The first use asks the server; who comes meanwhile shares the answer. An error, a
        closed connection or two seconds without an answer mean 1, and are remembered.
        """
        if self._version is not None:
            return succeed(self._version)
        asker: Deferred[int] = Deferred(self._ask_no_more)
        self._askers[asker] = None
        if self._asking is None:
            self._asking = asking = Deferred.fromCoroutine(self._ask_version())
            asking.addCallbacks(self._answered, self._unanswered)
        return asker

    @_deferred
    async def list(self) -> Names:
        """Give the names of the files in the top folder (``LIST``)."""

        def names(_: wire.Header, body: bytes) -> Names:
            return [*wire.ListingNames().feed(body)]

        return await self._in_memory(b"LIST", None, names)

    @_deferred
    async def ls(self, name: str | bytes = b"", depth: float = 1) -> Entries:
        """Give all that is in a folder, sorted by name; `walk` has the same page by page.

        :param name: of the folder; empty for the served one. A file gives itself.
        :param depth: levels of folders; `math.inf` for all of them.
        """
        return [entry async for entry in self.walk(name, depth)]

    async def walk(
        self, name: str | bytes = b"", depth: float = math.inf
    ) -> AsyncIterator[wire.Entry]:
        """Give what is in a folder and below it, sorted by name, page by page as it is asked for.

        Between pages no connection is held.

        :return: entries whose names are paths below the served folder.
        """
        await self._needs("tell more than the names in its top folder")
        after = b""
        more = True
        while more:
            arguments = wire.Arguments(as_name(name), depth=depth, after=after)
            page, more = await self._in_memory(b"LS", arguments, partial(_page_in, after))
            for entry in page:
                yield entry
                after = entry.name

    @_deferred
    async def stat(self, name: str | bytes) -> wire.Status:
        """Tell what a file or a folder is like now."""
        await self._needs("tell a file's size and time")
        return await self._in_memory(
            b"STAT",
            wire.Arguments(as_name(name)),
            lambda header, _: wire.parse_status(header.words),
        )

    @_deferred
    async def hash(
        self, name: str | bytes, offset: int = 0, length: int | None = None
    ) -> wire.Digest:
        """Have the server compute the SHA-256 of a file, or of a part of it.

        A digest that takes longer than the server, or a proxy, may be silent is asked for
        again: the server continues where it was. It fails with `UsageError` for a
        directory.
        """
        await self._needs("compute digests")
        arguments = wire.Arguments(as_name(name), offset=offset, length=length)
        tries = 0
        silence = min(SHORTEST_SILENCE, self.timeout / 2)
        while True:
            tries += 1
            began = self._clock.seconds()
            try:
                return await self._in_memory(
                    b"HASH", arguments, lambda header, _: wire.parse_digest(header.words)
                )
            except NotFound:
                await self._needs_file(arguments.name)
                raise
            except (ConnectionBroken, Unavailable):
                # Only silence is waited out here: whoever calls knows about other failures.
                if tries == DIGEST_TRIES or self._clock.seconds() - began < silence:
                    raise

    @_deferred
    async def get(
        self,
        name: str | bytes,
        consumer: IConsumer,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> wire.Range:
        """Write a part of a file, or all of it, into a consumer, at the consumer's pace.

        The consumer gets a streaming producer once the server has agreed, and is rid of it
        before this fires or fails; what it has been given by then, it has.

        :param if_match: the ``etag`` that the file must still have.
        :return: fires with what was sent, when all of it has been written; fails with
            `Changed` if the file has another ``etag``, with `Interrupted` if the consumer stops.
        """
        await self._needs("send a part of a file")
        arguments = wire.Arguments(as_name(name), offset, length, if_match)
        return await self._pool.ask(
            b"GET", arguments, Flow(lambda header: range_in(header, arguments), consumer)
        )

    @_deferred
    async def whole(self, name: str | bytes, consumer: IConsumer) -> int:
        """Write a whole file into a consumer as version 1 does (``DOWNLOAD``); see `get`.

        :return: fires with its size in bytes.
        """
        return await self._pool.ask(
            b"DOWNLOAD",
            wire.Arguments(os.fsencode(name)),
            Flow(lambda header: header.size, consumer),
        )

    @_deferred
    async def read(
        self,
        name: str | bytes,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> bytes:
        """Give a part of a file, or all of it: as much as may be held in memory."""
        await self._needs("send a part of a file")
        arguments = wire.Arguments(as_name(name), offset, length, if_match)
        held = Memory(
            lambda _, body: body, self._largest, lambda header: range_in(header, arguments)
        )
        return await self._pool.ask(b"GET", arguments, held)

    def _in_memory(
        self,
        word: bytes,
        arguments: wire.Arguments | None,
        read: Callable[[wire.Header, bytes], T],
        within: float | None = None,
    ) -> Coroutine[Deferred[Any], Any, T]:
        return self._pool.ask(word, arguments, Memory(read, self._largest), within)

    async def _needs_file(self, name: bytes) -> None:
        """Say of what the server does not find as a file that it is a directory.

        :raises UsageError: if it is one.
        """
        try:
            status = await self.stat(name)
        except ClientError:
            return
        if status.type == wire.DIRECTORY:
            raise is_a_directory(name)

    async def _needs(self, what: str) -> None:
        if await self.version() < 2:
            raise cannot(self.server, what)

    async def _ask_version(self) -> int:
        def version(_: wire.Header, body: bytes) -> int:
            return version_in(body)

        try:
            return await self._in_memory(b"FEAT", None, version, FEAT_TIMEOUT)
        except (ServerError, ConnectionBroken, NotUnderstood, UsageError) as error:
            if is_the_proxys_own(error):
                raise
            return 1

    def _ask_no_more(self, asker: Deferred[int]) -> None:
        self._askers.pop(asker, None)
        if not self._askers and self._asking is not None:
            self._asking.cancel()

    def _answered(self, version: int) -> None:
        self._version = version
        self._unanswered(version)

    def _unanswered(self, answer: int | Failure) -> None:
        askers, self._askers, self._asking = self._askers, {}, None
        for asker in askers:
            # Whoever hears of it may have cancelled another.
            if not asker.called:
                asker.callback(answer)


@_deferred
async def connect(reactor: IReactorTime, server: str, timeout: float = 60.0) -> Client:
    """Begin to use a server.

    :param reactor: also provides what `HostnameEndpoint` needs.
    :param server: ``HOST:PORT``, ``HOST`` or ``[IPV6]:PORT``.
    :param timeout: seconds to wait for a connection, and for each piece of a reply.
    :return: fires with the client when there is a connection; fails with `CannotConnect`.
    """
    host, port = place = Server.parse(server)
    endpoint = HostnameEndpoint(reactor, host, port, timeout)
    client = Client(endpoint, reactor, timeout, server=str(place))
    await client.connect()
    return client


def _page_in(after: bytes, _: wire.Header, body: bytes) -> tuple[list[wire.Entry], bool]:
    return page_in(body, after)
