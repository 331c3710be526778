"""From one transport to another by copying: works everywhere, on every transport."""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from natproxy.relay.errors import SourceShort
from natproxy.relay.outbound import Outbound


class BodyCounter(Protocol):
    """Knows where a body ends; see `natproxy.protocol.ListingBody`."""

    @property
    def complete(self) -> bool:
        """Whether the body has ended."""
        ...

    @property
    def missing(self) -> str:
        """What has not come yet, in words."""
        ...

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Split received bytes into the body's own and the surplus."""
        ...


class Sink(Protocol):
    """Where a body goes, and is counted; see `natproxy.nat.NATEntry`."""

    def write(self, data: bytes) -> None:
        """Send bytes, and count them."""
        ...

    def count(self, size: int) -> None:
        """Count bytes that have gone another way."""
        ...


@implementer(IPushProducer)
class CopyRelay:
    """Moves one body from a transport to an `Outbound`.

    Whoever receives the source's bytes hands them to `deliver`. The source is paused
    while the outbound is, so that no more than the two transports' buffers is held.

    :param header: is sent along with the first bytes, or by `start`.
    :param body: counts the body.
    :param source: the transport that the bytes come from.
    :param outbound: where they go.
    :param sink: how they go there, and are counted.
    :ivar finished: fires with `None` when the whole body has been written, or with
        `SourceShort`; never after `stop`.
    """

    def __init__(
        self,
        header: bytes,
        body: BodyCounter,
        source: IPushProducer,
        outbound: Outbound,
        sink: Sink,
    ) -> None:
        self.finished: Deferred[None] = Deferred()
        self._header = header
        self._body = body
        self._source = source
        self._outbound = outbound
        self._sink = sink
        self._running = True

    def start(self) -> None:
        """Go on after what had come along with the header."""
        if self._running:
            self._send(b"")
            self._outbound.attach(self)

    def deliver(self, data: bytes) -> None:
        """Relay what has been received; what comes after the body's end is dropped."""
        if not self._running:
            return
        body, _ = self._body.take(data)
        self._send(body)
        if self._body.complete and self._running:
            self.stop()
            self.finished.callback(None)

    def _send(self, body: bytes) -> None:
        header, self._header = self._header, b""
        if header or body:
            self._sink.write(header + body if header else body)

    def source_lost(self) -> None:
        """There will be no more bytes."""
        if self._running:
            self.stop()
            self.finished.errback(SourceShort(self._body.missing))

    def stop(self) -> None:
        """Relay nothing from now on."""
        if self._running:
            self._running = False
            self._outbound.detach()

    def pauseProducing(self) -> None:
        """The client does not read: nor do we."""
        self._source.pauseProducing()

    def resumeProducing(self) -> None:
        """The client reads again."""
        self._source.resumeProducing()

    def stopProducing(self) -> None:
        """The client is gone."""
        self.stop()
