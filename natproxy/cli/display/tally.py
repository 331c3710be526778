"""What the events of many transfers add up to.

Taking an event costs about a microsecond: nothing is computed until somebody looks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from natproxy.client.events import Event, Phase

WINDOW = 5.0
"""Seconds that a speed is the average of."""
SHORTEST = 0.2
"""Seconds without which there is no speed yet."""
REMEMBERED = 4
"""How many of the files that have ended are remembered; the others are but counted."""

ENDS = frozenset({Phase.COMPLETE, Phase.UNCHANGED, Phase.FAILED})


class Row(NamedTuple):
    """A file, as it stands.

    :ivar done: bytes that have been through the phase.
    :ivar per_second: bytes; of a file that has ended, the average of those fetched. `None`
        if it can't be told.
    :ivar seconds_left: of receiving; `None` if it can't be told.
    :ivar seconds: since its first event, or from that to its last.
    """

    name: bytes
    phase: Phase
    done: int
    size: int | None
    message: str
    per_second: float | None
    seconds_left: float | None
    seconds: float


class View(NamedTuple):
    """All files, as they stand.

    :ivar seconds: since the tally began.
    :ivar rows: the files under way, in the order in which they began.
    :ivar ended: the last few that have ended, in the order in which they did.
    :ivar files_done: those that are here now, unchanged ones among them.
    :ivar files_total: those expected, or those that were seen, if that is more.
    :ivar bytes_done: bytes that are here, fetched or not.
    :ivar bytes_total: `None` if it isn't known.
    :ivar fetched: bytes that came from the server, those among them that were thrown away.
    :ivar per_second: bytes fetched; `None` if it can't be told.
    :ivar seconds_left: `None` if it can't be told.
    """

    seconds: float
    rows: list[Row]
    ended: list[Row]
    files_done: int
    files_unchanged: int
    files_failed: int
    files_total: int
    bytes_done: int
    bytes_total: int | None
    fetched: int
    per_second: float | None
    seconds_left: float | None


class Tally:
    """Adds up events. All of it may be called from several threads at once.

    :param clock: seconds, from any origin.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._began = clock()
        self._speed = _Speed(self._began, 0)
        self._files: dict[bytes, _File] = {}
        self._ended: deque[Row] = deque(maxlen=REMEMBERED)
        self._counts = dict.fromkeys(ENDS, 0)
        self._expected_files = 0
        self._expected_size: int | None = None
        # Of the files that have ended.
        self._bytes = 0
        self._fetched = 0
        self._missing = 0
        self._sizes = 0

    def expect(self, files: int, size: int | None) -> None:
        """Take the totals, in place of those taken before."""
        with self._lock:
            self._expected_files = files
            self._expected_size = size

    def note(self, event: Event) -> Row | None:
        """Take an event.

        :return: the file, if this is another phase of it or another message.
        """
        name, phase, done, size, message = event
        with self._lock:
            file = self._files.get(name)
            if file is None:
                file = self._files[name] = _File(event, self._clock())
            elif file.phase is not phase:
                file.turn(event, self._clock())
            else:
                if done > file.done:
                    file.done = done
                if size is not None:
                    file.size = size
                if message == file.message:
                    return None
                file.message = message
            row = file.row(self._clock())
            if phase in ENDS:
                self._end(file, row)
            return row

    def look(self) -> View:
        """Everything as it stands."""
        with self._lock:
            now = self._clock()
            files = self._files.values()
            fetched = self._fetched + sum(file.fetched_so_far for file in files)
            done = self._bytes + sum(file.here for file in files)
            total = self._total(done)
            per_second = self._speed.at(now, fetched)
            left = None if total is None else total - done - self._missing
            rows = [file.row(now) for file in files]
            return View(
                now - self._began,
                rows,
                list(self._ended),
                self._counts[Phase.COMPLETE] + self._counts[Phase.UNCHANGED],
                self._counts[Phase.UNCHANGED],
                self._counts[Phase.FAILED],
                max(self._expected_files, self._seen),
                done,
                total,
                fetched,
                per_second,
                _longest(_seconds_left(left, per_second), rows),
            )

    @property
    def _seen(self) -> int:
        return len(self._files) + sum(self._counts.values())

    def _total(self, done: int) -> int | None:
        if self._expected_size is not None:
            return max(self._expected_size, done)
        if self._seen < self._expected_files:
            return None
        total = self._sizes
        for file in self._files.values():
            if file.size is None:
                return None
            total += file.size
        return total if self._seen else None

    def _end(self, file: _File, row: Row) -> None:
        del self._files[file.name]
        self._ended.append(row)
        self._counts[file.phase] += 1
        self._bytes += file.here
        self._fetched += file.fetched_so_far
        size = file.here if file.size is None else file.size
        self._sizes += size
        self._missing += max(0, size - file.here)


class _File:
    """A file under way.

    :ivar done: the most that any event of the phase has told; those of several threads
        may overtake each other.
    :ivar start: bytes that had been through the phase when it began.
    :ivar kept: bytes that were here when the phase began.
    :ivar fetched: bytes that came from the server before the phase began.
    """

    __slots__ = (
        "began", "done", "fetched", "hashed", "kept", "message", "name", "phase", "received",
        "size", "speed", "start",
    )  # fmt: skip

    speed: _Speed

    def __init__(self, event: Event, now: float) -> None:
        self.name = event.name
        self.began = now
        self.size: int | None = None
        self.kept = self.fetched = self.start = self.done = 0
        self.hashed = self.received = False
        self._begin(event, now)

    def turn(self, event: Event, now: float) -> None:
        """Go over to another phase."""
        self.fetched = self.fetched_so_far
        self.kept = self.here
        before, speed = self.phase, self.speed
        self._begin(event, now)
        if self.received and {before, event.phase} == {Phase.RECEIVING, Phase.WAITING}:
            # One segment of it waits, or goes on where it was; the others may not wait at all.
            self.speed = speed
            if event.phase is Phase.RECEIVING:
                self.start = min(self.start, self.kept)

    def _begin(self, event: Event, now: float) -> None:
        self.phase = event.phase
        self.start = self.done = event.done
        self.message = event.message
        self.speed = _Speed(now, event.done)
        if event.size is not None:
            self.size = event.size
        if event.phase is Phase.RECEIVING:
            self.received = True
        elif event.phase is Phase.HASHING:
            self.hashed = True
        elif event.phase is Phase.RESTARTING:
            self.kept = event.done
        elif event.phase in (Phase.COMPLETE, Phase.UNCHANGED):
            here = event.done if self.size is None else self.size
            # Nobody tells of the last bytes of a file, or of any of a small one's; but what
            # was only hashed has been here.
            if event.phase is Phase.COMPLETE and (self.received or not self.hashed):
                self.fetched += max(0, here - self.kept)
            self.kept = here

    @property
    def here(self) -> int:
        return self.done if self.phase is Phase.RECEIVING else self.kept

    @property
    def fetched_so_far(self) -> int:
        if self.phase is Phase.RECEIVING:
            return self.fetched + self.done - self.start
        return self.fetched

    def row(self, now: float) -> Row:
        seconds = now - self.began
        per_second = left = None
        if self.phase in (Phase.RECEIVING, Phase.HASHING):
            per_second = self.speed.at(now, self.done)
        elif self.phase is Phase.WAITING:
            # The next one is to be the average of the last seconds, these among them.
            self.speed.at(now, self.kept)
        elif self.phase is Phase.COMPLETE and self.fetched and seconds >= SHORTEST:
            per_second = self.fetched / seconds
        if self.phase is Phase.RECEIVING and self.size is not None:
            left = _seconds_left(self.size - self.done, per_second)
        return Row(
            self.name, self.phase, self.done, self.size, self.message, per_second, left, seconds
        )


class _Speed:
    """A moving average, of what it was told when it was asked."""

    __slots__ = ("_samples",)

    def __init__(self, now: float, moved: int) -> None:
        self._samples = deque([(now, moved)])

    def at(self, now: float, moved: int) -> float | None:
        """Bytes a second, now that so many have moved."""
        samples = self._samples
        if now - samples[-1][0] >= SHORTEST:
            samples.append((now, moved))
        # The oldest one is at least as old as the window is long.
        while len(samples) > 2 and now - samples[1][0] >= WINDOW:
            samples.popleft()
        then, before = samples[0]
        return (moved - before) / (now - then) if now - then >= SHORTEST else None


def _seconds_left(size: int | None, per_second: float | None) -> float | None:
    if size is None:
        return None
    if size <= 0:
        return 0.0
    return size / per_second if per_second else None


def _longest(seconds_left: float | None, rows: Sequence[Row]) -> float | None:
    """Return the time that all files take: no less than any of them does."""
    if seconds_left is None:
        return None
    return max([seconds_left, *(row.seconds_left for row in rows if row.seconds_left is not None)])
