"""From one transport to another by copying: works everywhere, on every transport."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from natproxy.relay.outflow import Outflow


class SourceShort(Exception):
    """The source ended before the body did.

    :ivar missing: what is missing, in words.
    """

    def __init__(self, missing: str) -> None:
        super().__init__(f"{missing} missing")
        self.missing = missing


class BodyCounter(Protocol):
    """Knows where a body ends; see `natproxy.wire.CountedBody`."""

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


@implementer(IPushProducer)
class TransportRelay:
    """Moves one body from a transport to an `Outflow`.

    Whoever receives the source's bytes hands them to `deliver`. The source is paused
    while the outflow is, so that no more than the two transports' buffers is held.

    :param body: counts the body.
    :param source: the transport that the bytes come from.
    :param outflow: where they go.
    :param write: how they go there; the caller's way to count them.
    :ivar finished: fires with `None` when the whole body has been written, or with
        `SourceShort`; never after `stop`.
    """

    def __init__(
        self,
        body: BodyCounter,
        source: IPushProducer,
        outflow: Outflow,
        write: Callable[[bytes], object],
    ) -> None:
        self.finished: Deferred[None] = Deferred()
        self._body = body
        self._source = source
        self._outflow = outflow
        self._write = write
        self._running = True
        outflow.attach(self)

    def deliver(self, data: bytes) -> None:
        """Relay what has been received; what comes after the body's end is dropped."""
        if not self._running:
            return
        body, _ = self._body.take(data)
        if body:
            self._write(body)
        if self._body.complete and self._running:
            self.stop()
            self.finished.callback(None)

    def source_lost(self) -> None:
        """There will be no more bytes."""
        if self._running:
            self.stop()
            self.finished.errback(SourceShort(self._body.missing))

    def stop(self) -> None:
        """Relay nothing from now on."""
        if self._running:
            self._running = False
            self._outflow.detach()

    def pauseProducing(self) -> None:
        """The client does not read: nor do we."""
        self._source.pauseProducing()

    def resumeProducing(self) -> None:
        """The client reads again."""
        self._source.resumeProducing()

    def stopProducing(self) -> None:
        """The client is gone."""
        self.stop()
