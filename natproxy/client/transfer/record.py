"""The record of a partial download: which bytes have been received, and of which file."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

SMALLEST_SEGMENT = 1 << 20
"""Bytes below which a file is not divided any further."""

LAST_SEGMENT = 4 << 20
"""Bytes of the last segments of a file, if they are as many as the connections."""

MOST_SEGMENTS = 64
"""Segments that a file is divided into at most: their record must fit into a page."""

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Segment:
    """A contiguous range of the file, received from its start.

    :ivar start: the offset of its first byte.
    :ivar done: the offset of the first missing byte.
    :ivar end: the offset after its last byte.
    """

    __slots__ = ("done", "end", "start")

    def __init__(self, start: int, done: int, end: int) -> None:
        self.start = start
        self.done = done
        self.end = end


def divide(size: int, count: int) -> list[Segment]:
    """Return the segments of a file of which nothing has been received.

    Each connection takes the next segment when it has completed one. They become smaller towards
    the end of the file, so that all connections end at nearly the same time, whatever the rate
    of each, and few round trips are spent on requests.

    :param size: of the file, in bytes.
    :param count: of connections; one gets the whole file.
    """
    if count == 1:
        return [Segment(0, 0, size)]
    smallest = max(SMALLEST_SEGMENT, min(LAST_SEGMENT, size // count))
    marks = _marks(size, count, smallest)
    while len(marks) > MOST_SEGMENTS + 1:
        smallest = min(2 * smallest, size // MOST_SEGMENTS)
        marks = _marks(size, count, smallest)
    return [Segment(start, start, end) for start, end in pairwise(marks)]


def _marks(size: int, count: int, smallest: int) -> list[int]:
    """Return the offsets between segments: each has half of a connection's share of the rest."""
    marks = [0]
    while size - marks[-1] >= 2 * smallest:
        left = size - marks[-1]
        marks.append(marks[-1] + max(smallest, left // (2 * count)))
    return [*marks, size]


def mark_missing(segments: list[Segment], start: int, end: int) -> list[Segment]:
    """Return segments with a range marked as missing; complete neighbours are joined first."""
    left: list[Segment] = []
    for each in _joined(segments):
        if each.end <= start or end <= each.start:
            left.append(each)
            continue
        first, last = max(each.start, start), min(each.end, end)
        if each.start < first:
            left.append(Segment(each.start, min(each.done, first), first))
        left.append(Segment(first, first, last))
        if last < each.end:
            left.append(Segment(last, max(each.done, last), each.end))
    return left


def _joined(segments: list[Segment]) -> list[Segment]:
    joined: list[Segment] = []
    for each in segments:
        previous = joined[-1] if joined else None
        if previous is not None and previous.done == previous.end and each.done == each.end:
            joined[-1] = Segment(previous.start, each.end, each.end)
        else:
            joined.append(each)
    return joined


class Record(NamedTuple):
    """The state of a partial download, as it is stored in a file.

    :ivar name: of the file on the server, for people.
    :ivar etag: of the file on the server.
    :ivar size: of the whole file, in bytes.
    :ivar boot: the identifier of the system's boot since which all received bytes were written;
        empty if some of them may not be on the disk.
    :ivar segments: of the whole file, in order.
    """

    name: str
    etag: str
    size: int
    boot: str
    segments: list[Segment]

    @property
    def kept(self) -> int:
        """Received bytes."""
        return sum(each.done - each.start for each in self.segments)

    def with_segments(self, segments: list[Segment], trusted: bool) -> Record:
        """Return a record of the same file with other segments.

        :param trusted: whether all received bytes are certainly on the disk.
        """
        return self._replace(segments=segments, boot=self.boot if trusted else "")

    def line(self) -> bytes:
        """Return the record as a line of JSON."""
        # Most files are small, and have no record.
        import json

        content = {
            "natproxy": 2,
            "name": self.name,
            "etag": self.etag,
            "size": self.size,
            "boot": self.boot,
            "segments": [[each.start, each.done, each.end] for each in self.segments],
        }
        return json.dumps(content, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def parse(cls, content: bytes) -> Record | None:
        """Return the record in a file's content; ``None`` if it is malformed or inconsistent."""
        import json

        try:
            fields = json.loads(content.split(b"\n", 1)[0])
            segments = []
            expected = 0
            for start, done, end in fields["segments"]:
                # Offsets must be integers: True and 1.0 are rejected.
                if {type(start), type(done), type(end)} != {int}:
                    return None
                if not (start == expected and start <= done <= end):
                    return None
                expected = end
                segments.append(Segment(start, done, end))
            texts = (fields["name"], fields["etag"], fields["boot"])
            if expected != fields["size"] or not segments:
                return None
        except (ValueError, TypeError, KeyError, RecursionError):
            return None
        if not all(isinstance(text, str) for text in texts):
            return None
        name, etag, boot = texts
        return cls(name, etag, expected, boot, segments)


def boot_id() -> str:
    """Return the identifier of the system's current boot; empty if the system has none."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
