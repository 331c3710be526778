"""Sinks for particular replies: those to ``FEAT``, and downloads that can be continued."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IConsumer

from natproxy import wire
from natproxy.client.answers import (
    LONGEST_FEAT,
    Features,
    is_listing_of_version_1,
    parse_features,
    range_in,
)
from natproxy.client.errors import NotUnderstood
from natproxy.client.exchanging import Flow, PooledConnection, Sink


class Version1Found(Exception):
    """The reply to ``FEAT`` is none of version 2."""


class FeatureList(Sink[Features]):
    """Holds the reply to ``FEAT``, as long as it may be one of version 2.

    :ivar begun: whether the header has come.
    """

    def __init__(self) -> None:
        self.begun = False
        self._listing = bytearray()

    def begin(self, header: wire.Header, connection: PooledConnection) -> None:
        """Take the header: ``OK`` is all it can be."""
        self.begun = True

    def write(self, data: bytes) -> None:
        """Hold a piece."""
        self._listing += data
        if is_listing_of_version_1(bytes(self._listing[: wire.MAX_LINE + 1])):
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

    def begin(self, header: wire.Header, connection: PooledConnection) -> None:
        """End it."""
        raise HeaderReceived

    def write(self, data: bytes) -> None:
        """Never called."""


class CountingFlow(Flow[wire.Range]):
    """Writes the body of a ``GET`` into a consumer.

    :param count: is told of the bytes of each piece.
    :ivar part: what the server sends; `None` until the header has come.
    :ivar written: bytes that the consumer has been given.
    """

    def __init__(
        self, arguments: wire.Arguments, consumer: IConsumer, count: Callable[[int], object]
    ) -> None:
        self.part: wire.Range | None = None
        self.written = 0
        self._count = count
        super().__init__(lambda header: range_in(header, arguments), consumer)

    def begin(self, header: wire.Header, connection: PooledConnection) -> None:
        """Register with the consumer."""
        super().begin(header, connection)
        self.part = self.result

    def write(self, data: bytes) -> None:
        """Pass a piece on."""
        super().write(data)
        self.written += len(data)
        self._count(len(data))
