"""The commands of a session on a reactor: each method returns a Deferred."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Coroutine, Iterable
from types import TracebackType
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IConsumer,
    IReactorTime,
    IStreamClientEndpoint,
)

from natproxy.address import Address
from natproxy.client.authentication import Token, authentication_of
from natproxy.client.blocking.route import connect_seconds
from natproxy.client.errors import ClientError
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
from natproxy.client.retry import FailureCount, RetryPolicy, check_timeout
from natproxy.client.twisted.file import RemoteFile
from natproxy.client.twisted.pool import ConnectionPool, Limits
from natproxy.client.twisted.receivers import InMemory, ToConsumer
from natproxy.client.twisted.retries import Retries, Shared
from natproxy.client.twisted.secure import secured
from natproxy.client.twisted.steps import deferred, run_steps
from natproxy.client.version import Features, Negotiation
from natproxy.protocol import Digest, Entry, Metadata, PackRecord, Range
from natproxy.tls.options import TLSOptions

LARGEST = 64 << 20
"""Bytes of one reply that are held in memory at most, by default."""

# Inside of `CommandSession`, `list` is a method.
Names = list[bytes]
Entries = list[Entry]
Records = list[PackRecord]

T = TypeVar("T")
Self = TypeVar("Self", bound="CommandSession")


class CommandSession:
    """Sends commands to one server. Any number of calls may be under way at once.

    Every Deferred fails with a `natproxy.client.ClientError`: `NotFound`, `CannotConnect`, …;
    `Unsupported` if the server speaks version 1 only, which lacks the command; `Interrupted`
    if the session is closed. Cancelling a Deferred aborts its connection; it then fails with
    ``CancelledError``. Other calls are not affected.

    :param endpoint: connects to the server.
    :param clock: the reactor, or any other clock.
    :param timeout: seconds to wait for each piece of a reply.
    :param server: its address, or only its name in messages.
    :param connections: commands that are carried out at once; further ones wait for their turn.
    :param idle: idle connections that are kept.
    :param largest: bytes of a reply that are held in memory; more are a `UsageError`.
    :param connect_timeout: seconds to wait for a connection; if ``None``, 10, or ``timeout``
        if that is shorter.
    :param retry_policy: how long temporary failures are retried; if ``None``, not at all.
    :param tls: how to verify the server, whose address is ``server``, and what to show it: the
        connections of the endpoint then carry TLS. ``None`` to use the endpoint as it is.
    :param token: to send on each connection, before its first command: see
        `natproxy.client.authentication.Authentication`.
    :raises UsageError: if a time-out is not more than 0, or too long; if a file of ``tls`` cannot
        be used, or the extra ``tls`` is not installed.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        timeout: float = 60.0,
        *,
        server: Address | str = "the server",
        connections: int = 16,
        idle: int = 4,
        largest: int = LARGEST,
        connect_timeout: float | None = None,
        retry_policy: RetryPolicy | None = None,
        tls: TLSOptions | None = None,
        token: Token | str | None = None,
    ) -> None:
        check_timeout("timeout", timeout)
        check_timeout("connect_timeout", connect_timeout)
        if tls is not None:
            endpoint = secured(endpoint, server, tls)
        self.tls = tls
        self._token = token
        self.server = server
        self.timeout = timeout
        self.connect_timeout = connect_timeout
        self._clock = clock
        self._largest = largest
        self._pool = ConnectionPool(
            endpoint,
            clock,
            str(server),
            Limits(timeout, connect_seconds(timeout, connect_timeout), connections, idle),
            authentication_of(token, server, tls is not None and not tls.insecure),
        )
        self._retries = Retries(clock, retry_policy or RetryPolicy(), timeout)
        self._negotiation = Negotiation(server)
        self._probing = Shared(self._probe)

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @deferred
    async def connect(self) -> None:
        """Connect to the server, or check that an idle connection exists.

        :return: fires, or fails with `CannotConnect`.
        """
        await self._retries.run(self._pool.connect)

    @deferred
    async def close(self) -> None:
        """Cancel everything that is under way, and close every connection.

        :return: fires when nothing is left on the reactor.
        """
        self._retries.close()
        await self._pool.close()

    def version(self) -> Deferred[int]:
        """Return the version of the protocol that both sides speak: 1 or 2; see `features`."""
        return self.features().addCallback(lambda features: features.version)

    def features(self) -> Deferred[Features]:
        """Return what the server supports; the first call sends ``FEAT``.

        Calls made meanwhile share the reply. The result is remembered, version 1 included: see
        `natproxy.client.version.Negotiation.probe`.
        """
        if self._negotiation.features is not None:
            return succeed(self._negotiation.features)
        return self._probing.result()

    @deferred
    async def require_version_2(self, purpose: str) -> None:
        """Require version 2.

        :param purpose: the end of the message "… it cannot", such as "compute digests".
        :return: fires, or fails with `Unsupported` if the server speaks version 1 only.
        """
        if await self.version() < 2:
            self._negotiation.require_version_2(purpose)

    @deferred
    async def offers(self, word: bytes) -> bool:
        """Return whether the server supports a verb that a server of version 2 may lack.

        :param word: of a `Request` that is ``optional``.
        """
        return await self.version() >= 2 and self._negotiation.offers(word)

    @deferred
    async def run(self, request: Request[T]) -> T:
        """Carry out a request of `natproxy.client.requests`, and return its result.

        :return: fires with the result; fails with `Unsupported` if the server speaks version 1
            only, which lacks the verb; or if the verb is optional, and the server or a proxy
            lacks it: see `offers`.
        """
        if request.purpose:
            await self.require_version_2(request.purpose)
        return await self._retries.run(lambda: self._attempt(request))

    def list(self) -> Deferred[Names]:
        """Return the names of the files in the top directory (``LIST``)."""
        return self.run(ListNames())

    @deferred
    async def ls(
        self,
        name: str | bytes = b"",
        depth: float = 1,
        after: bytes = b"",
        limit: int | None = MOST_ENTRIES,
    ) -> Entries:
        """Return the entries of a directory, sorted by name; see `walk`.

        :return: fires with all of them; fails with `TooManyEntries` if there are more than
            the limit.
        """
        return [entry async for entry in self.walk(name, depth, after, limit)]

    async def walk(
        self,
        name: str | bytes = b"",
        depth: float = math.inf,
        after: bytes = b"",
        limit: int | None = MOST_ENTRIES,
    ) -> AsyncIterator[Entry]:
        """Yield the entries of a directory and of all directories below it, sorted by name.

        Each page is requested on demand; between pages no connection is used.

        :param name: of the directory; empty for the served one. A file lists itself.
        :param depth: levels of directories; ``math.inf`` for all of them.
        :param after: entries up to this name, a path below the served directory, are left out.
        :param limit: entries at most; ``None`` for any number.
        :return: entries as `natproxy.client.Session.ls` returns them.
        :raises TooManyEntries: if there are more than the limit.
        :raises ListingIncomplete: after the last entry, as there.
        """
        for page in Listing(name, depth, after, limit).pages():
            for entry in await self.run(page):
                yield entry

    @deferred
    async def stat(self, name: str | bytes) -> Metadata:
        """Return the metadata of a file or a directory."""
        return await self.run(Stat(name))

    @deferred
    async def hash(self, name: str | bytes, offset: int = 0, length: int | None = None) -> Digest:
        """Return the SHA-256 of a file, or of a part of it, which the server computes.

        A digest may take longer than the server, or a proxy, may be silent: see
        `natproxy.client.requests.digest_steps`. It fails with `UsageError` for a directory.
        """
        request = Hash(name, offset, length)
        await self.require_version_2(request.purpose)

        def digest() -> Coroutine[Deferred[Any], Any, Digest]:
            steps = digest_steps(request, self.timeout, self._clock.seconds)
            return run_steps(steps, self._attempt)

        return await self._retries.run(digest)

    @deferred
    async def get(
        self,
        name: str | bytes,
        consumer: IConsumer,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> Range:
        """Write a part of a file, or all of it, into a consumer, at the consumer's pace.

        The consumer gets a streaming producer once the server has sent a header. The producer
        is unregistered before the Deferred fires or fails; bytes written until then remain
        written. With a retry policy, an interrupted download is resumed by another producer.

        :param if_match: the ``etag`` that the file must still have.
        :return: fires with the range, when all of it has been written; fails with `Changed` if
            the file has another ``etag``, with `Interrupted` if the consumer stops.
        """
        request = Get(name, offset, length, if_match)
        await self.require_version_2(request.purpose)
        retrier = self._retries.retrier()
        failures = FailureCount()
        first: Range | None = None
        done = 0
        while True:
            receiver = ToConsumer(request, consumer, retrier)
            try:
                await self._stream(request, receiver)
            except ClientError as error:
                if receiver.begun:
                    first = first or request.part
                done += receiver.written
                seconds = retrier.delay_after(error, failures)
            else:
                retrier.succeeded()
                return first or request.part
            await self._retries.wait(seconds)
            if first is not None:
                # The rest, of the same version of the file.
                rest = first.length - done
                request = Get(name, first.offset + done, rest, first.metadata.etag)

    @deferred
    async def get_v1(self, name: str | bytes, consumer: IConsumer) -> int:
        """Write a whole file into a consumer by the command of version 1, ``DOWNLOAD``.

        :return: fires with its size in bytes; see `get`.
        """
        request = GetWhole(name)
        receiver = ToConsumer(request, consumer, self._retries.retrier())
        await self._pool.carry_out(request, receiver)
        return receiver.written

    @deferred
    async def read(
        self,
        name: str | bytes,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
    ) -> bytes:
        """Return the bytes of a part of a file, or of all of it, up to ``largest``; see `get`."""
        return await self.run(Get(name, offset, length, if_match))

    @deferred
    async def pack(self, names: Iterable[str | bytes]) -> Records:
        """Return several small files: a record for each name, in order.

        The record of a file that is missing, or has more than `natproxy.protocol.MAX_PACKED`
        bytes, has a ``code`` other than 0 and no data. The total size is not limited.

        :return: fires with the records; fails with `Unsupported` if the server or a proxy lacks
            ``PACK`` (see `offers`), and with `UsageError` if ``names`` is a single name.
        """

        async def carry_out(request: Request[Any]) -> object:
            return await self.run(request)

        return await run_steps(pack_steps(names), carry_out)

    @deferred
    async def open(self, name: str | bytes) -> RemoteFile:
        """Open a file for reading: a seekable file whose `RemoteFile.read` returns a Deferred.

        If the file changes on the server, reads fail with `Changed` from then on.

        :return: fires with the file; fails with `UsageError` for a directory.
        """
        metadata = require_file(as_name(name), await self.stat(name))
        return RemoteFile(self.read, as_name(name), metadata)

    def _probe(self) -> Deferred[Features]:
        return Deferred.fromCoroutine(
            self._retries.run(lambda: run_steps(self._negotiation.probe(), self._exchange))
        )

    async def _attempt(self, request: Request[T]) -> T:
        """Carry out a request; fall back to version 1 if it shows the server to be one."""
        return await run_steps(self._negotiation.carry_out(request), self._exchange)

    async def _stream(self, request: Request[Any], receiver: ToConsumer) -> None:
        """Carry out a request whose body goes to a receiver."""

        async def send(each: Request[Any]) -> object:
            if each is request:
                await self._pool.carry_out(request, receiver)
                return None
            return await self._exchange(each)

        await run_steps(self._negotiation.carry_out(request), send)

    async def _exchange(self, request: Request[T]) -> T:
        """Send a command and return the result of its reply."""
        receiver = InMemory(request, self._largest)
        await self._pool.carry_out(request, receiver)
        return receiver.result
