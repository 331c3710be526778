"""From a file to a transport."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from natproxy.relay.copying import SourceShort
from natproxy.relay.outflow import Outflow

CHUNK = 128 * 1024
"""Bytes read in one turn: what Twisted's transport hands to the kernel at once."""


class Source(Protocol):
    """Something with bytes in it: a raw file, or bytes in memory."""

    def read(self, size: int, /) -> bytes | None:
        """Give up to ``size`` bytes; none at the end."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@implementer(IPushProducer)
class FileRelay:
    """Moves a promised number of bytes from a file to an `Outflow`.

    One chunk is read for each time that the transport has become empty, so that a
    large file costs no more memory than a small one and leaves other clients their
    turn. The source is closed at the end, whichever end it is.

    :param source: read from where it stands.
    :param size: bytes promised. A file that has grown is sent up to there.
    :ivar sent: bytes handed to the transport so far.
    :ivar finished: fires with `None` when all bytes have been written, with
        `SourceShort` if the file has shrunk, or with the `OSError` of a read; never
        after `stop`.
    """

    def __init__(self, source: Source, size: int, outflow: Outflow) -> None:
        self.finished: Deferred[None] = Deferred()
        self.sent = 0
        self._source = source
        self._remaining = size
        self._outflow = outflow
        self._running = True

    def start(self) -> None:
        """Begin to send."""
        self._outflow.attach(self)
        self.resumeProducing()

    def stop(self) -> None:
        """Send nothing from now on."""
        if self._running:
            self._running = False
            self._outflow.detach()
            # All that could be read has been: nothing is lost with an error here.
            with suppress(OSError):
                self._source.close()

    def pauseProducing(self) -> None:
        """Nothing to do: a paused outflow is looked at before each chunk."""

    def resumeProducing(self) -> None:
        """Write until the transport has enough, or all is written."""
        while self._running and self._remaining and not self._outflow.paused:
            try:
                chunk = self._source.read(min(CHUNK, self._remaining))
            except OSError as error:
                self.stop()
                self.finished.errback(error)
                return
            if not chunk:
                self.stop()
                self.finished.errback(SourceShort(f"{self._remaining} bytes"))
                return
            self._remaining -= len(chunk)
            self.sent += len(chunk)
            self._outflow.write(chunk)
        if self._running and not self._remaining:
            self.stop()
            self.finished.callback(None)

    def stopProducing(self) -> None:
        """The client is gone."""
        self.stop()
