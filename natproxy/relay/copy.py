"""From one connection to another by copying: works on every transport."""

from __future__ import annotations

from natproxy.relay.job import SocketJob, SocketRelay, SourceShort
from natproxy.relay.outbound import DIRECT
from natproxy.relay.rotation import Rotation


class CopyRelay(SocketRelay):
    """Writes what the source's protocol receives.

    The source is paused while the outbound is, so that no more than the two transports'
    buffers is held in memory. It is paused as well when the bytes of the reactor's turn are
    used up, until the relay's own turn.

    :param rotation: where the relay waits for its turn.
    """

    __slots__ = ("_account", "_body", "_header", "_in_turn", "_rotation", "_source")

    def __init__(self, job: SocketJob, rotation: Rotation) -> None:
        super().__init__(job.outbound, job.ended)
        self._rotation = rotation
        self._in_turn = False
        self._header = job.header
        self._body = job.body
        self._source = job.source
        self._account = job.account

    def start(self) -> None:
        """Write the header and begin to move the body."""
        # With it came up to 64 KiB of the body: they must not be held until the end.
        header, self._header = self._header, b""
        self.begun = True
        self._write(header)
        if self._running:
            self._outbound.attach(self)

    def deliver(self, data: bytes) -> None:
        """Write received bytes; drop those after the body's end."""
        if not self._running:
            return
        body, _ = self._body.take(data)
        if body:
            self._write(body)
        if self._is_over():
            return
        if self._body.complete:
            self._finish()
            return
        if self._in_turn:
            # These bytes were counted when the turn began.
            self._in_turn = False
        else:
            self._rotation.count(len(body))
        held = not self._outbound.may_move(self._allowed)
        if held or (self._rotation.exhausted and self._rotation.wait(self)):
            self._source.pauseProducing()

    def take_turn(self) -> None:
        """Read from the source, once."""
        if not self._outbound.paused:
            self._in_turn = True
            self._rotation.count(DIRECT)
            self._source.resumeProducing()

    def source_lost(self) -> None:
        """Fail, because no more bytes will be received; all that were received are handed on."""
        if self._running:
            self._fail(SourceShort(self._body.missing))

    def pauseProducing(self) -> None:
        """Stop reading from the source."""
        self._source.pauseProducing()

    def resumeProducing(self) -> None:
        """Read from the source again, unless the relay waits for its turn or for its meter."""
        if self not in self._rotation and not self._outbound.held:
            self._source.resumeProducing()

    def _allowed(self) -> None:
        """Read from the source again, unless the outbound is paused: the meter allows it."""
        if self._outbound.may_move(self._allowed) and not self._outbound.paused:
            self.resumeProducing()

    def _write(self, data: bytes) -> None:
        self._count(len(data))
        self._account.write(data)

    def _release(self) -> None:
        self._rotation.leave(self)
        self._outbound.detach()
