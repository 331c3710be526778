"""The framing of commands: lines from pieces, pauses, and what is kept meanwhile."""

from __future__ import annotations

from typing import Any

from twisted.internet.testing import StringTransport

from fuzz.pieces import pieces_of
from natproxy.protocol import MAX_LINE
from natproxy.server.lines import SLICE, SlicedLineReceiver


class Receiver(SlicedLineReceiver):
    """Collects lines, and pauses after every few of them.

    :param pause: lines of a turn; 0 for any number.
    """

    def __init__(self, pause: int) -> None:
        super().__init__()
        self._pause = pause
        self.lines: list[bytes] = []
        self.too_long = False

    def lineReceived(self, line: bytes) -> None:
        """Collect a line."""
        assert not self.too_long
        assert len(line) <= MAX_LINE
        self.lines.append(line)
        if self._pause and not len(self.lines) % self._pause:
            self.paused = True

    def lineLengthExceeded(self, line: bytes) -> Any:
        """Discard the rest, as the server's connection does."""
        self.too_long = True
        self.discard_kept()
        self.clearLineBuffer()


def check(data: bytes) -> None:
    """Check that lines do not depend on pieces, nor on pauses.

    The second byte is the number of lines of a turn, the third one repeats the rest: short inputs
    should reach the limit of a line.
    """
    rest = data[3:]
    times = min(1 + data[2], 2 * MAX_LINE // len(rest)) if rest else 1
    _, pieces = pieces_of(data[:1] + rest * max(1, times))
    received = b"".join(pieces)
    receiver = Receiver(data[1] % 8 if len(data) > 1 else 0)
    receiver.makeConnection(StringTransport())
    for piece in pieces:
        if receiver.too_long:
            break
        if receiver.paused:
            receiver.keep(piece)
        else:
            receiver.dataReceived(piece)
        while receiver.paused:
            before = len(receiver.lines)
            receiver.parse_kept()
            assert len(receiver.lines) > before or not receiver.paused
        # At most a line and what LineReceiver gets at once.
        assert len(receiver._buffer) <= MAX_LINE + SLICE
        assert not receiver._kept
    expected = received.split(b"\n")
    rest = expected.pop()
    if receiver.too_long:
        assert max(map(len, (*expected, rest))) > MAX_LINE
        assert expected[: len(receiver.lines)] == receiver.lines
        return
    assert receiver.lines == expected
    # LineReceiver judges a line when it is sure that it is too long.
    assert len(rest) <= MAX_LINE + 1
    if received:
        assert receiver.at_line_start == received.endswith(b"\n")
