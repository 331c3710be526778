"""A LineReceiver whose work is bounded: it stops between two lines, and copies little."""

from __future__ import annotations

from twisted.protocols.basic import LineReceiver

# LineReceiver copies its buffer for each line in it (twisted#6357): the time for 64 KiB of line
# feeds grows with the square of their number.
_SLICE = 1024


class SlicingLineReceiver(LineReceiver):
    """Parses received bytes in slices, and only while it is not paused.

    ``LineReceiver.pauseProducing``, called in ``lineReceived``, stops it between two lines. The
    rest is kept until `parse_held`.
    """

    delimiter = b"\n"
    _received = b""

    def dataReceived(self, data: bytes) -> None:
        """Parse bytes and those kept before them; while paused, keep them."""
        self._received += data
        while self._received and not self.paused:
            piece, self._received = self._received[:_SLICE], self._received[_SLICE:]
            super().dataReceived(piece)

    def parse_held(self) -> None:
        """Parse what was kept while paused; call it after ``paused`` has been reset."""
        # First the lines that LineReceiver holds already, so that its buffer does not grow.
        super().dataReceived(b"")
        self.dataReceived(b"")

    def discard(self) -> None:
        """Drop the bytes that were kept."""
        self._received = b""
