"""The client for those who live on a reactor: what a `Session` returns, as Deferreds.

For programs::

    from natproxy.client.twisted.session import connect

    async def look(reactor):
        async with await connect(reactor, "files.example:9000") as client:
            async for entry in client.walk():
                print(entry.name, entry.metadata.size)
            part = await client.get("image.iso", consumer)

The reactor and the clock are handed in. Nothing here blocks, and nothing writes to disk.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial, wraps
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint
from twisted.internet.interfaces import IConsumer, IReactorTime, IStreamClientEndpoint
from twisted.python.failure import Failure

from natproxy.client.blocking.route import ATTEMPT_DELAY, CONNECT_TIMEOUT
from natproxy.client.errors import (
    ClientError,
    NotFound,
    NotUnderstood,
)
from natproxy.client.requests import (
    DOUBTS,
    LONGEST_DIGEST,
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
    is_refusal_of_version_1,
    may_be_computing,
    name_bytes,
    range_in,
)
from natproxy.client.retry import FailureCount, RetryPolicy, check_timeout
from natproxy.client.twisted.connection import Memory, Sink
from natproxy.client.twisted.pool import ConnectionPool
from natproxy.client.twisted.receivers import (
    CountingFlow,
    FeatureList,
    HeaderOnly,
    HeaderReceived,
    Version1Found,
)
from natproxy.client.twisted.retries import Retries
from natproxy.client.url import parse_server
from natproxy.protocol import (
    DIRECTORY,
    Arguments,
    Digest,
    Entry,
    Header,
    ListingNames,
    Metadata,
    Range,
    parse_digest,
    parse_metadata,
)

LARGEST = 64 << 20
"""Bytes of one reply that are held in memory at most, unless the caller wants otherwise."""

_DIGESTS = "compute digests"

# Inside of `Client`, `list` is a command.
Names = list[bytes]
Entries = list[Entry]

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


def _range_of(arguments: Arguments, header: Header) -> Range:
    return range_in(header, arguments)


class Client:
    """A server, asked for things; by any number of callers at once.

    Every Deferred fails with a `natproxy.client.ClientError`: `NotFound`, `CannotConnect`, …;
    `Unsupported` if the server speaks version 1 only and cannot do it; `Interrupted` if the
    client is closed. To cancel it aborts its connection, and then it fails with
    `CancelledError`.

    :param endpoint: where the server is.
    :param timeout: seconds to wait for each piece of a reply.
    :param server: its name in messages.
    :param connections: at once; whoever wants one more waits for their turn.
    :param idle: connections that are kept while nobody uses them.
    :param largest: bytes of a reply that are held in memory; to want more is a `UsageError`.
    :param connect_timeout: seconds to wait for a connection; without it, 10, or ``timeout``
        if that is shorter.
    :param retry_policy: how long temporary failures are retried; without it, not at all.
    :raises UsageError: if a time-out is not more than 0, or too long.
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
        connect_timeout: float | None = None,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        check_timeout("timeout", timeout)
        check_timeout("connect_timeout", connect_timeout)
        self.server = server
        self.timeout = timeout
        self._clock = clock
        self._largest = largest
        within = min(CONNECT_TIMEOUT, timeout) if connect_timeout is None else connect_timeout
        self._pool = ConnectionPool(endpoint, clock, timeout, server, connections, idle, within)
        self._retries = Retries(clock, retry_policy or RetryPolicy(), timeout)
        self._features: Features | None = None
        # Whether a reply of version 2 with words in its header has come.
        self._certain = False
        self._asking: Deferred[Features] | None = None
        self._askers: dict[Deferred[Features], None] = {}

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
        await self._retries.run(self._pool.connect)

    @_deferred
    async def close(self) -> None:
        """End everything that is under way, and every connection.

        :return: fires when nothing is left on the reactor.
        """
        self._retries.close()
        await self._pool.close()

    def version(self) -> Deferred[int]:
        """Give the version of the protocol that both sides speak: 1 or 2.

        The first use asks the server; see `features`.
        """
        return self.features().addCallback(lambda features: features.version)

    def features(self) -> Deferred[Features]:
        """Return what the server speaks; the first use asks it with ``FEAT``.

        Calls made meanwhile share the reply. What makes version 1, and is remembered, and what
        is a failure: see `natproxy.client.Session.features`.
        """
        if self._features is not None:
            return succeed(self._features)
        asker: Deferred[Features] = Deferred(self._ask_no_more)
        self._askers[asker] = None
        if self._asking is None:
            asking = Deferred.fromCoroutine(self._retries.run(self._ask_features))
            self._asking = asking
            asking.addCallbacks(self._answered, self._unanswered)
        return asker

    @_deferred
    async def list(self) -> Names:
        """Give the names of the files in the top directory (``LIST``)."""

        def names(_: Header, body: bytes) -> Names:
            return [*ListingNames().feed(body)]

        return await self._in_memory(b"LIST", None, names)

    @_deferred
    async def ls(
        self, name: str | bytes = b"", depth: float = 1, limit: int | None = MOST_ENTRIES
    ) -> Entries:
        """Give all that is in a directory, sorted by name; `walk` has the same page by page.

        :param name: of the directory; empty for the served one. A file gives itself.
        :param depth: levels of directories; `math.inf` for all of them.
        :param limit: entries at most; with more, it fails with `TooManyEntries`. `None` for
            any number.
        """
        return [entry async for entry in self.walk(name, depth, limit)]

    async def walk(
        self,
        name: str | bytes = b"",
        depth: float = math.inf,
        limit: int | None = MOST_ENTRIES,
    ) -> AsyncIterator[Entry]:
        """Give what is in a directory and below it, sorted by name, page by page, on demand.

        Between pages no connection is held.

        :return: entries as `natproxy.client.Session.ls` returns them.
        :raises TooManyEntries: if there are more than the limit.
        :raises ListingIncomplete: after the last entry, as there.
        """
        what = "list more than the served directory's files"
        await self._needs(what)
        pages = Pages(limit=limit)

        def page_in(header: Header, body: bytes) -> Entries:
            return pages.take(header.words, body)

        while pages.more:
            arguments = Arguments(as_name(name), depth=depth, after=pages.after)
            sink = partial(self._memory, page_in, check_page)
            for entry in await self._ask(b"LS", arguments, sink, what):
                yield entry
        pages.end()

    @_deferred
    async def stat(self, name: str | bytes) -> Metadata:
        """Tell what a file or a directory is like now."""
        what = "tell a file's size and time"
        await self._needs(what)
        return await self._ask(
            b"STAT",
            Arguments(as_name(name)),
            lambda: self._memory(lambda header, _: parse_metadata(header.words)),
            what,
        )

    @_deferred
    async def hash(self, name: str | bytes, offset: int = 0, length: int | None = None) -> Digest:
        """Have the server compute the SHA-256 of a file, or of a part of it.

        A digest that takes longer than the server, or a proxy, may be silent is asked for
        again, as long as the server answers ``STAT``: it continues where it was. It fails
        with `UsageError` for a directory.
        """
        await self._needs(_DIGESTS)
        arguments = Arguments(as_name(name), offset=offset, length=length)
        return await self._retries.run(lambda: self._digest(arguments))

    @_deferred
    async def get(
        self,
        name: str | bytes,
        consumer: IConsumer,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> Range:
        """Write a part of a file, or all of it, into a consumer, at the consumer's pace.

        The consumer gets a streaming producer once the server has agreed, and is rid of it
        before this fires or fails; what it has been given by then, it has. With a retry policy, a
        download that breaks off is continued, and the consumer gets another producer.

        :param if_match: the ``etag`` that the file must still have.
        :return: fires with what was sent, when all of it has been written; fails with
            `Changed` if the file has another ``etag``, with `Interrupted` if the consumer stops.
        """
        what = "send a part of a file"
        await self._needs(what)
        arguments = Arguments(as_name(name), offset, length, if_match)
        retrier = self._retries.retrier()
        tries = FailureCount()
        first: Range | None = None
        done = 0
        while True:
            range_of = partial(_range_of, arguments)
            flow = CountingFlow(range_of, consumer, retrier)
            try:
                part = await self._ask_once(b"GET", arguments, flow, what)
            except ClientError as error:
                first = first or flow.begun
                done += flow.written
                seconds = retrier.delay_after(error, tries)
            else:
                retrier.succeeded()
                return first or part
            await self._retries.wait(seconds)
            if first is not None:
                # The rest, of the same file.
                rest = first.length - done
                arguments = Arguments(
                    arguments.name, first.offset + done, rest, first.metadata.etag
                )

    @_deferred
    async def whole(self, name: str | bytes, consumer: IConsumer) -> int:
        """Write a whole file into a consumer as version 1 does (``DOWNLOAD``); see `get`.

        :return: fires with its size in bytes.
        """
        return await self._pool.ask(
            b"DOWNLOAD",
            Arguments(name_bytes(name)),
            CountingFlow(lambda header: header.size, consumer, self._retries.retrier()),
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
        what = "send a part of a file"
        await self._needs(what)
        arguments = Arguments(as_name(name), offset, length, if_match)
        return await self._ask(
            b"GET",
            arguments,
            lambda: self._memory(lambda _, body: body, lambda header: range_in(header, arguments)),
            what,
        )

    def _in_memory(
        self,
        word: bytes,
        arguments: Arguments | None,
        read: Callable[[Header, bytes], T],
    ) -> Coroutine[Deferred[Any], Any, T]:
        return self._retries.run(lambda: self._pool.ask(word, arguments, self._memory(read)))

    def _memory(
        self,
        read: Callable[[Header, bytes], T],
        check: Callable[[Header], object] | None = None,
    ) -> Memory[T]:
        return Memory(read, self._largest, check)

    async def _digest(self, arguments: Arguments) -> Digest:
        end = self._clock.seconds() + LONGEST_DIGEST
        silence = min(SHORTEST_SILENCE, self.timeout / 2)
        while True:
            began = self._clock.seconds()
            try:
                return await self._ask_once(
                    b"HASH",
                    arguments,
                    self._memory(lambda header, _: parse_digest(header.words)),
                    _DIGESTS,
                )
            except NotFound:
                await self._needs_file(arguments.name)
                raise
            except ClientError as error:
                # Only silence is waited out here: whoever calls knows about other failures.
                now = self._clock.seconds()
                if (
                    not may_be_computing(error)
                    or now >= end
                    or now - began < silence
                    or not await self._is_alive(arguments.name)
                ):
                    raise

    async def _is_alive(self, name: bytes) -> bool:
        """Whether a server that is silent about a digest answers another command."""
        try:
            await self._stat_once(name)
        except ClientError as error:
            return not error.passing
        return True

    async def _needs_file(self, name: bytes) -> None:
        """Say of what the server does not find as a file that it is a directory.

        :raises UsageError: if it is one.
        """
        try:
            metadata = await self._stat_once(name)
        except ClientError:
            return
        if metadata.type == DIRECTORY:
            raise is_a_directory(name)

    async def _stat_once(self, name: bytes) -> Metadata:
        """Ask for a status without retries: what it is asked for has retries of its own."""
        sink = self._memory(lambda header, _: parse_metadata(header.words))
        return await self._ask_once(b"STAT", Arguments(name), sink, _DIGESTS)

    async def _needs(self, what: str) -> None:
        if await self.version() < 2:
            raise cannot(self.server, what)

    async def _ask(
        self,
        word: bytes,
        arguments: Arguments,
        sink: Callable[[], Sink[T]],
        what: str,
    ) -> T:
        """Carry out a command of version 2 whose reply has words in its header.

        A proxy of version 1 may close the connection on them: see `Session`.

        :param sink: makes what takes the reply, for each try.
        :param what: the command is for, to end the message with.
        """
        return await self._retries.run(lambda: self._ask_once(word, arguments, sink(), what))

    async def _ask_once(
        self,
        word: bytes,
        arguments: Arguments,
        sink: Sink[T],
        what: str,
    ) -> T:
        # A failure that leaves a doubt comes before the header: the sink has not begun.
        for _ in range(DOUBTS):
            try:
                result = await self._pool.ask(word, arguments, sink)
            except ClientError as error:
                via = self._features.via if self._features is not None else ()
                if self._certain or not is_doubtful(error, via) or not await self._answers_list():
                    raise
            else:
                # The header of a page may have no words, and pass a proxy of version 1.
                self._certain = self._certain or word != b"LS"
                return result
        self._features = VERSION_1
        raise cannot(self.server, what)

    async def _ask_features(self) -> Features:
        for _ in range(DOUBTS):
            listing = FeatureList()
            try:
                return await self._pool.ask(b"FEAT", None, listing, self.timeout)
            except Version1Found:
                break
            except NotUnderstood:
                if listing.begun:
                    raise
                break
            except ClientError as error:
                if is_refusal_of_version_1(error):
                    break
                if not is_doubtful(error) or not await self._answers_list():
                    raise
        return VERSION_1

    async def _answers_list(self) -> bool:
        """Whether the peer, and the server behind it, answer a command of version 1."""
        try:
            await self._pool.ask(b"LIST", None, HeaderOnly())
        except HeaderReceived:
            return True
        except ClientError:
            return False
        return True

    def _ask_no_more(self, asker: Deferred[Features]) -> None:
        self._askers.pop(asker, None)
        if not self._askers and self._asking is not None:
            self._asking.cancel()

    def _answered(self, features: Features) -> None:
        self._features = features
        self._unanswered(features)

    def _unanswered(self, answer: Features | Failure) -> None:
        askers, self._askers, self._asking = self._askers, {}, None
        for asker in askers:
            # Whoever hears of it may have cancelled another.
            if not asker.called:
                asker.callback(answer)


@_deferred
async def connect(
    reactor: IReactorTime,
    server: str,
    timeout: float = 60.0,
    connect_timeout: float | None = None,
    retry_policy: RetryPolicy | None = None,
) -> Client:
    """Begin to use a server.

    :param reactor: also provides what `HostnameEndpoint` needs.
    :param server: ``HOST:PORT``, ``HOST``, ``[IPV6]:PORT`` or ``natproxy://HOST:PORT``.
    :param timeout: seconds to wait for each piece of a reply.
    :param connect_timeout: seconds to wait for a connection: see `Client`.
    :param retry_policy: how long temporary failures are retried: see `Client`.
    :return: fires with the client when there is a connection; fails with `CannotConnect`.
    """
    host, port = place = parse_server(server)
    within = min(CONNECT_TIMEOUT, timeout) if connect_timeout is None else connect_timeout
    endpoint: IStreamClientEndpoint
    if "%" in host:
        # Resolvers lose the zone of an IPv6 address; this endpoint, whatever its name, does not.
        endpoint = TCP4ClientEndpoint(reactor, host, port, within)
    else:
        endpoint = HostnameEndpoint(reactor, host, port, within, attemptDelay=ATTEMPT_DELAY)
    client = Client(
        endpoint,
        reactor,
        timeout,
        server=str(place),
        connect_timeout=within,
        retry_policy=retry_policy,
    )
    await client.connect()
    return client
