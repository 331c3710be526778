"""The workers of a daemon, as clients of their control sockets see them."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, cast

from twisted.internet import error as errors
from twisted.internet.defer import CancelledError, Deferred, FirstError, gatherResults
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol as Receiver
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from natproxy.control.merged.errors import Missing, NoReply, Refusal
from natproxy.control.merged.lines import LineStream
from natproxy.control.peer import PEER, Peer

TIMEOUT = 2.0
"""Seconds within which a worker has to reply."""

MOST_JSON = 16 << 20
"""Bytes of an object that a worker replies with."""

T = TypeVar("T")


class WorkerHandle(Protocol):
    """One worker, as the master has it."""

    @property
    def number(self) -> int:
        """Its number, from 0."""
        ...

    @property
    def control(self) -> str:
        """Path of its control socket."""
        ...


class Workers(Protocol):
    """The workers that there are at this moment, those that still serve their last clients too."""

    def __iter__(self) -> Iterator[WorkerHandle]: ...


class Gathered(NamedTuple, Generic[T]):
    """What the workers have replied.

    :ivar results: by worker, in their order.
    :ivar missing: the others.
    """

    results: list[tuple[Worker, T]]
    missing: list[Missing]

    @property
    def values(self) -> list[T]:
        """The results alone."""
        return [result for _, result in self.results]


class Worker:
    """The control socket of a worker; each call makes a connection of its own.

    :param reactor: makes the connections.
    :param handle: of the worker.
    :ivar number: of the worker.
    :ivar path: of the socket.
    """

    def __init__(self, reactor: Any, handle: WorkerHandle) -> None:
        self.number = handle.number
        self.path = handle.control
        self._reactor = reactor
        self._agent = Agent.usingEndpointFactory(reactor, _Endpoints(reactor, self.path))

    async def read(
        self,
        target: str,
        members: dict[str, Any] | None = None,
        peer: Peer | None = None,
        timeout: float = TIMEOUT,
    ) -> dict[str, Any]:
        """Return the JSON object of a resource.

        :param target: path and query.
        :param members: of the object that is sent with ``POST``; ``None`` for ``GET``.
        :param peer: on whose behalf.
        :param timeout: seconds.
        :raises NoReply: if there is none in time.
        :raises Refusal: if it is an error.
        """
        body = None if members is None else json.dumps(members).encode("ascii")
        data = await self._within(timeout, self._read(target, body, peer))
        try:
            found = json.loads(data)
        except ValueError:
            raise NoReply("it has sent malformed JSON") from None
        if not isinstance(found, dict):
            raise NoReply("it has sent no JSON object")
        return found

    async def post(self, target: str, body: bytes, timeout: float = TIMEOUT) -> bytes:
        """Return the body of the reply to ``POST``; raises as `read` does."""
        data: bytes = await self._within(timeout, self._read(target, body, None))
        return data

    async def lines(self, target: str) -> LineStream:
        """Return the lines of a reply, of which the header has arrived; raises as `read`."""
        stream = LineStream(self._reactor, self.number, self.check)

        async def open_() -> None:
            response = await self._request(target, None, None)
            if response.code != 200:
                raise _refusal(response.code, await _body(response))
            response.deliverBody(stream)

        await self._within(TIMEOUT, open_())
        return stream

    def check(self) -> Deferred[object]:
        """Return a Deferred that fires if it replies, and fails with `NoReply` if it does not."""
        return Deferred.fromCoroutine(cast(Any, self.read("/healthz")))

    async def _read(self, target: str, body: bytes | None, peer: Peer | None) -> bytes:
        response = await self._request(target, body, peer)
        data = await _body(response)
        if not 200 <= response.code < 300 and response.code != 422:
            raise _refusal(response.code, data)
        return data

    def _request(self, target: str, body: bytes | None, peer: Peer | None) -> Deferred[IResponse]:
        headers = Headers({"Host": ["natproxy"]})
        if peer is not None:
            headers.addRawHeader(PEER, peer.header())
        sent: Deferred[IResponse] = self._agent.request(
            b"GET" if body is None else b"POST",
            b"http://natproxy" + target.encode("ascii"),
            headers,
            None if body is None else cast(Any, _Bytes(body)),
        )
        return sent

    async def _within(self, seconds: float, work: Any) -> Any:
        """Return what work returns, in time.

        :raises NoReply: if it fails, or takes too long.
        :raises CancelledError: if the caller was cancelled.
        """
        late = NoReply(f"it has not replied within {seconds:g} s")
        deferred = Deferred.fromCoroutine(work)
        # Whatever a request that is cancelled fails with.
        deferred.addTimeout(seconds, self._reactor, lambda _, __: Failure(late))
        try:
            return await deferred
        except errors.TimeoutError:
            raise late from None
        except errors.ConnectionRefusedError:
            raise NoReply("no process listens on its control socket") from None
        except errors.ConnectError as error:
            raise NoReply(_reason(error)) from None
        except (ResponseFailed, OSError) as error:
            reasons = error.reasons if isinstance(error, ResponseFailed) else ()
            if any(reason.check(CancelledError) for reason in reasons):
                # The reply is no longer needed: the worker is not to blame.
                raise CancelledError from None
            raise NoReply("it has closed the connection") from None


class Fleet:
    """All workers of a daemon.

    :param reactor: for the connections.
    :param workers: those that there are.
    :param client: makes the client of a worker.
    """

    def __init__(
        self,
        reactor: Any,
        workers: Workers,
        client: Callable[[Any, WorkerHandle], Worker] = Worker,
    ) -> None:
        self.reactor = reactor
        self._workers = workers
        self._client = client
        # By the paths of their sockets.
        self._clients: dict[str, Worker] = {}

    def __iter__(self) -> Iterator[Worker]:
        """Yield a client of each worker, in the order of their numbers."""
        found: dict[str, Worker] = {}
        for handle in sorted(self._workers, key=lambda handle: (handle.number, handle.control)):
            path = handle.control
            found[path] = self._clients.get(path) or self._client(self.reactor, handle)
        self._clients = found
        return iter(found.values())

    async def gather(
        self, call: Callable[[Worker], Awaitable[T]], number: int | None = None
    ) -> Gathered[T]:
        """Call a function with each worker, and return what all that reply in time have replied.

        :param call: raises `NoReply` if its worker does not.
        :param number: of the only workers that are called; ``None`` for all.
        :raises CancelledError: if the caller was cancelled.
        """

        async def one(worker: Worker) -> tuple[Worker, T | None, Missing | None]:
            try:
                return worker, await call(worker), None
            except NoReply as error:
                return worker, None, Missing(worker.number, str(error))

        calls = [
            Deferred.fromCoroutine(one(worker))
            for worker in self
            if number in (None, worker.number)
        ]
        try:
            found = await gatherResults(calls, consumeErrors=True)
        except FirstError as error:
            raise cast(Exception, error.subFailure.value) from None
        return Gathered(
            [(worker, cast(T, result)) for worker, result, missing in found if missing is None],
            [missing for _, _, missing in found if missing is not None],
        )

    async def objects(
        self, target: str, members: dict[str, Any] | None = None, timeout: float = TIMEOUT
    ) -> Gathered[dict[str, Any]]:
        """Return the JSON object of a resource of each worker; see `Worker.read`."""
        return await self.gather(lambda worker: worker.read(target, members, timeout=timeout))

    async def lines(self, target_of: Callable[[Worker], str]) -> Gathered[LineStream]:
        """Return the lines of a resource of each worker, which the caller closes.

        :param target_of: returns path and query; see `Worker.lines`.
        :raises CancelledError: if the caller was cancelled.
        """
        opened: list[LineStream] = []

        async def call(worker: Worker) -> LineStream:
            opened.append(await worker.lines(target_of(worker)))
            return opened[-1]

        try:
            return await self.gather(call)
        except BaseException:
            for stream in opened:
                stream.close()
            raise


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class _Endpoints:
    """Connects to one UNIX socket, whatever the URI is."""

    def __init__(self, reactor: Any, path: str) -> None:
        self._endpoint = UNIXClientEndpoint(reactor, path, timeout=cast(Any, TIMEOUT))

    def endpointForURI(self, uri: object) -> _Endpoints:
        return self

    def connect(self, factory: Any) -> Deferred[Any]:
        # Each request has a factory, which would be logged.
        factory.noisy = False
        connected: Deferred[Any] = self._endpoint.connect(factory)
        return connected


class _Bytes:
    """The body of a request, which is in memory (``IBodyProducer``)."""

    def __init__(self, body: bytes) -> None:
        self.length = len(body)
        self._body = body

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._body)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:
        """Do nothing: everything is written."""

    resumeProducing = stopProducing = pauseProducing


class _Collector(Receiver):
    """Receives a body, up to a limit."""

    def __init__(self) -> None:
        self.received: Deferred[bytes] = Deferred(self._cancel)
        self._parts: list[bytes] = []
        self._left = MOST_JSON

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        self._parts.append(data)
        if self._left < 0:
            self._parts.clear()
            cast(Any, self.transport).loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.received.called:
            # It was cancelled.
            return
        if self._left >= 0 and reason.check(ResponseDone):
            self.received.callback(b"".join(self._parts))
        else:
            self.received.errback(Failure(NoReply("its reply was cut off, or is too long")))

    def _cancel(self, received: Deferred[bytes]) -> None:
        received.errback(Failure(CancelledError()))
        cast(Any, self.transport).loseConnection()


def _body(response: Any) -> Deferred[bytes]:
    collector = _Collector()
    received = collector.received
    response.deliverBody(collector)
    return received


def _reason(error: errors.ConnectError) -> str:
    """Return why there is no connection to a socket."""
    number = error.osError if isinstance(error.osError, int) else 0
    if number == errno.ENOENT:
        return "it starts, and has no control socket yet"
    return f"cannot connect to its control socket: {os.strerror(number) if number else error}"


def _refusal(status: int, body: bytes) -> Refusal:
    try:
        sentence = str(json.loads(body)["error"])
    except (ValueError, TypeError, KeyError):
        sentence = f"it has replied with the status {status}"
    return Refusal(status, sentence)
