"""The lines of a body that comes in pieces of any size."""

from __future__ import annotations

from natproxy.protocol.text import WireError
from natproxy.protocol.verbs import MAX_LINE


class Lines:
    """Cuts received bytes into lines. It keeps no more than one of them."""

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def unfinished(self) -> bool:
        """Whether what came last has no line feed yet."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Give the lines that are complete, without their line feeds.

        :raises WireError: for a line over `MAX_LINE`.
        """
        first, *others = data.split(b"\n")
        self._rest += first
        lines = []
        if others:
            *lines, rest = bytes(self._rest), *others
            self._rest = bytearray(rest)
        if any(len(line) > MAX_LINE for line in (*lines, self._rest)):
            raise WireError(f"a line of the listing is longer than {MAX_LINE} bytes")
        return lines
