"""Which entries of a live segment have a port: it has no index on disk while it grows."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock

from natproxy.journal.rows import NAT_PORT, SERIAL, Entry

HOLE = 4096
"""Serials without an entry after which another run of them begins."""

SEGMENTS = 2
"""Segments that are remembered: the live one, and one that is being sealed."""

_PORTS = [(port or 1).to_bytes(2, "little") for port in range(1 << 16)]
"""The two bytes of a port; those of 0 are for serials without one."""


class LivePorts:
    """The serials of the entries of the newest segments by their ports, two bytes for each entry.

    One thread adds entries, before they can be read in the segment; others search.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._segments: dict[str, _SegmentPorts] = {}
        self._newest = _SegmentPorts()

    def begin(self, name: str, entries: Iterable[Entry]) -> None:
        """Begin with a segment that has been created, and forget the oldest one.

        :param name: of its file.
        :param entries: those that it has.
        """
        ports = _SegmentPorts()
        ports.add_moved(entries)
        with self._lock:
            self._segments[name] = self._newest = ports
            while len(self._segments) > SEGMENTS:
                del self._segments[next(iter(self._segments))]

    def add(self, entries: Iterable[Entry]) -> None:
        """Add entries that are about to be written to the newest segment."""
        with self._lock:
            self._newest.add(entries)

    def serials(self, name: str, port: int) -> list[int] | None:
        """Return the serials of all entries of a segment that have a port, and perhaps others.

        :param name: of the segment's file.
        :return: ``None`` if the segment is not remembered.
        """
        with self._lock:
            ports = self._segments.get(name)
            return None if ports is None else ports.serials(port)


class _SegmentPorts:
    """The ports of one segment's entries."""

    def __init__(self) -> None:
        # First serial, and the ports of this one and those that follow it.
        self._runs: list[tuple[int, bytearray]] = []
        # Serials of entries that have moved to the segment, or are out of order.
        self._others: dict[bytes, set[int]] = {}

    def add_moved(self, entries: Iterable[Entry]) -> None:
        """Add entries of an earlier segment."""
        for entry in entries:
            if entry[NAT_PORT] is not None:
                self._others.setdefault(_PORTS[entry[NAT_PORT] & 0xFFFF], set()).add(entry[SERIAL])

    def add(self, entries: Iterable[Entry]) -> None:
        """Add entries, nearly in the order of their serials."""
        values = _PORTS
        first, ports = self._runs[-1] if self._runs else (0, bytearray())
        for entry in entries:
            serial, port = entry[SERIAL], entry[NAT_PORT]
            if port is None:
                continue
            # A stand-in is greater than a port. What else has the same bytes is read in vain.
            value = values[port & 0xFFFF]
            place, end = 2 * (serial - first), len(ports)
            if place == end and end:
                ports += value
            elif not self._runs or place > end + 2 * HOLE:
                first, ports = serial, bytearray(value)
                self._runs.append((first, ports))
            elif place < 0:
                self._others.setdefault(value, set()).add(serial)
            else:
                if place > end:
                    ports += bytes(place - end)
                ports[place : place + 2] = value

    def serials(self, port: int) -> list[int]:
        """Return the serials of the entries with a port, and perhaps others."""
        value = _PORTS[port & 0xFFFF]
        # An entry that has moved is added again when it ends.
        found = set(self._others.get(value, ()))
        for first, ports in self._runs:
            place = ports.find(value)
            while place >= 0:
                if place % 2 == 0:
                    found.add(first + place // 2)
                place = ports.find(value, place + 1)
        return sorted(found)
