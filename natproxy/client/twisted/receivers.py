"""Receivers of replies: into memory, or into a consumer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from twisted.internet.interfaces import IConsumer, IPushProducer
from zope.interface import implementer

from natproxy.client.errors import Interrupted
from natproxy.client.requests import Request
from natproxy.client.retry import Retrier
from natproxy.client.twisted.connection import PooledConnection, Receiver
from natproxy.protocol import Header

T = TypeVar("T")


class InMemory(Receiver, Generic[T]):
    """Feeds a request with its reply.

    :param largest: bytes of the body that are held at most.
    :ivar result: of the request, once the reply is complete.
    """

    result: T

    def __init__(self, request: Request[T], largest: int) -> None:
        self._request = request
        self._largest = largest
        self._count: Callable[[int], object]

    def begin(self, header: Header, connection: PooledConnection) -> None:
        """Check the header."""
        self._count = connection.counter()
        self._request.begin(header, self._largest)
        self.satisfied = self._request.satisfied

    def write(self, data: bytes) -> None:
        """Hold a piece."""
        self._request.feed(data)
        self._count(len(data))
        self.satisfied = self._request.satisfied

    def finish(self) -> None:
        """Parse the reply."""
        self.result = self._request.finish()


@implementer(IPushProducer)
class ToConsumer(Receiver):
    """Writes a body into a consumer, at the consumer's pace.

    :param retrier: fails if the server sends too slowly; does not measure while the consumer
        has paused.
    :ivar begun: whether the consumer has been registered with.
    :ivar written: bytes that have been written into the consumer.
    """

    def __init__(self, request: Request[Any], consumer: IConsumer, retrier: Retrier) -> None:
        self.begun = False
        self.written = 0
        self._request = request
        self._consumer = consumer
        self._retrier = retrier
        self._connection: PooledConnection | None = None

    def begin(self, header: Header, connection: PooledConnection) -> None:
        """Check the header, and register with the consumer."""
        self._request.begin(header)
        self._connection = connection
        try:
            self._consumer.registerProducer(self, True)
        except BaseException:
            self._connection = None
            raise
        self.begun = True

    def write(self, data: bytes) -> None:
        """Write a piece into the consumer."""
        self._consumer.write(data)
        self.written += len(data)
        self._retrier.received(len(data))

    def close(self) -> None:
        """Unregister from the consumer; a paused one may never resume this producer."""
        self._retrier.resume()
        if self._connection is not None:
            self._connection = None
            self._consumer.unregisterProducer()

    def pauseProducing(self) -> None:
        """Stop receiving."""
        if self._connection is not None:
            # A producer that is no longer registered must not affect the next try.
            self._retrier.pause()
            self._connection.pause()

    def resumeProducing(self) -> None:
        """Receive again."""
        if self._connection is not None:
            self._retrier.resume()
            self._connection.resume()

    def stopProducing(self) -> None:
        """Fail the exchange: the consumer takes no more bytes."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.fail(Interrupted("the consumer has stopped"))
