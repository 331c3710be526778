"""Sinks for particular replies: those to ``FEAT``, and downloads that can be continued."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.interfaces import IConsumer

from natproxy.client.errors import NotUnderstood
from natproxy.client.requests import (
    LONGEST_FEAT,
    Features,
    is_listing_of_version_1,
    parse_features,
)
from natproxy.client.retry import Retrier
from natproxy.client.twisted.connection import Flow, PooledConnection, Sink
from natproxy.protocol import MAX_LINE, Header

T = TypeVar("T")


class Version1Found(Exception):
    """The reply to ``FEAT`` is none of version 2."""


class FeatureList(Sink[Features]):
    """Holds the reply to ``FEAT``, as long as it may be one of version 2.

    :ivar begun: whether the header has come.
    """

    def __init__(self) -> None:
        self.begun = False
        self._listing = bytearray()

    def begin(self, header: Header, connection: PooledConnection) -> None:
        """Take the header: ``OK`` is all it can be."""
        self.begun = True

    def write(self, data: bytes) -> None:
        """Hold a piece."""
        self._listing += data
        if is_listing_of_version_1(bytes(self._listing[: MAX_LINE + 1])):
            raise Version1Found
        if len(self._listing) > LONGEST_FEAT:
            raise NotUnderstood("an endless FEAT")

    def finish(self) -> None:
        """Parse it."""
        self.result = parse_features(bytes(self._listing))


class HeaderReceived(Exception):
    """A reply has begun; the rest is not wanted."""


class HeaderOnly(Sink[None]):
    """Ends the exchange as soon as a header has been received that is no error."""

    def begin(self, header: Header, connection: PooledConnection) -> None:
        """End it."""
        raise HeaderReceived

    def write(self, data: bytes) -> None:
        """Never called."""


class CountingFlow(Flow[T]):
    """Writes a body into a consumer, and fails if the server sends it too slowly.

    :param retrier: measures the rate; while the consumer has paused, it does not.
    :ivar begun: the result, as soon as the header has come; `None` until then.
    :ivar written: bytes that the consumer has been given.
    """

    def __init__(
        self,
        read: Callable[[Header], T],
        consumer: IConsumer,
        retrier: Retrier,
    ) -> None:
        self.begun: T | None = None
        self.written = 0
        self._retrier = retrier
        super().__init__(read, consumer)

    def begin(self, header: Header, connection: PooledConnection) -> None:
        """Register with the consumer."""
        super().begin(header, connection)
        self.begun = self.result

    def write(self, data: bytes) -> None:
        """Pass a piece on."""
        super().write(data)
        self.written += len(data)
        self._retrier.received(len(data))

    def leave(self) -> None:
        """Unregister; a consumer that has paused may never resume this producer."""
        self._retrier.resume()
        super().leave()

    def pauseProducing(self) -> None:
        """Let the server wait."""
        if self._connection is not None:
            # A producer that is no longer registered must not affect the next try.
            self._retrier.pause()
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """Go on."""
        if self._connection is not None:
            self._retrier.resume()
        super().resumeProducing()
