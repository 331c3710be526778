"""Received bytes as lines, in slices: what is received at once is not parsed at once."""

from __future__ import annotations

from twisted.protocols.basic import LineReceiver

from natproxy.protocol import MAX_LINE

SLICE = 1024
"""Bytes that ``LineReceiver`` gets at once.

It copies its buffer for each line in it (twisted#6357): the time for 64 KiB of line feeds grows
with the square of their number.
"""


class SlicedLineReceiver(LineReceiver):
    """A ``LineReceiver`` that parses in slices, and keeps received bytes while it is paused.

    A subclass pauses it in ``lineReceived`` to bound the work of a reactor turn: the rest of the
    slice stays in the buffer of ``LineReceiver``, and the other bytes are kept here.

    :ivar at_line_start: whether everything that was received has been parsed as whole lines, so
        that a subclass may pass a whole line to ``lineReceived`` itself.
    """

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE

    def __init__(self) -> None:
        self.at_line_start = True
        self._kept = b""

    def dataReceived(self, data: bytes) -> None:
        """Parse received bytes until ``lineReceived`` pauses; keep the rest."""
        self._kept += data
        self._parse()

    def keep(self, data: bytes) -> None:
        """Keep received bytes for `parse_kept`."""
        self._kept += data

    def parse_kept(self) -> None:
        """Parse the bytes that were kept, until ``lineReceived`` pauses again."""
        self.paused = False
        # First the lines that LineReceiver holds, so that its buffer does not grow.
        super().dataReceived(b"")
        self._parse()

    def discard_kept(self) -> None:
        """Discard the bytes that were kept."""
        self._kept = b""

    def line_begun(self) -> None:
        """Note that a part of a line has been received, and not its end. It does nothing here."""

    def _parse(self) -> None:
        begun = False
        while self._kept and not self.paused:
            piece, self._kept = self._kept[:SLICE], self._kept[SLICE:]
            begun = begun or self.at_line_start or b"\n" in piece
            self.at_line_start = piece.endswith(b"\n")
            super().dataReceived(piece)
        if begun and not self.at_line_start:
            self.line_begun()
