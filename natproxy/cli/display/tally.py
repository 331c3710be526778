"""Totals of the events of many downloads, and a thread that shows them at intervals.

Adding an event takes about a microsecond: totals are computed when they are read.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from natproxy.client.events import Event, Phase

WINDOW = 5.0
"""Seconds over which a speed is averaged."""
SHORTEST = 0.2
"""Seconds after which there is a first speed."""
REMEMBERED = 4
"""Number of ended files of which the row is kept; the others are only counted."""

ENDS = frozenset({Phase.COMPLETE, Phase.UNCHANGED, Phase.FAILED})


class Row(NamedTuple):
    """The current state of a file.

    :ivar done: bytes that the phase has processed.
    :ivar per_second: bytes per second; of a file that has ended, the average of the received
        ones. ``None`` if unknown.
    :ivar seconds_left: estimated for receiving; ``None`` if unknown.
    :ivar seconds: since its first event; of a file that has ended, until its last one.
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
    """The current state of all files.

    :ivar seconds: since the tally was created.
    :ivar rows: the files in progress, in the order in which they started.
    :ivar ended: the files that ended last, in the order in which they ended.
    :ivar files_done: complete files, including unchanged ones.
    :ivar files_received: files that have been received, complete or not yet saved.
    :ivar files_total: expected files, or files that had events if those are more.
    :ivar bytes_done: bytes of the files that are on the disk, received or not.
    :ivar bytes_total: ``None`` if unknown.
    :ivar received: bytes received from the server, including discarded ones.
    :ivar per_second: bytes received per second; ``None`` if unknown.
    :ivar seconds_left: estimated; ``None`` if unknown.
    :ivar more: whether ``files_total`` may grow; then the other totals are unknown.
    """

    seconds: float
    rows: list[Row]
    ended: list[Row]
    files_done: int
    files_received: int
    files_unchanged: int
    files_failed: int
    files_total: int
    bytes_done: int
    bytes_total: int | None
    received: int
    per_second: float | None
    seconds_left: float | None
    more: bool = False


class Tally:
    """Adds up events. All methods may be called from several threads at once.

    :param clock: returns seconds since any origin.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._started = clock()
        self._speed = _Speed(self._started, 0)
        self._files: dict[bytes, _File] = {}
        self._ended: deque[Row] = deque(maxlen=REMEMBERED)
        self._counts = dict.fromkeys(ENDS, 0)
        self._expected_files = 0
        self._expected_size: int | None = None
        self._more = False
        # Totals of the files that have ended.
        self._bytes = 0
        self._received = 0
        self._missing = 0
        self._sizes = 0
        # Bytes received of files without an event of their own, and those of such that have ended.
        self._together = 0
        self._together_ended = 0
        # The number of these files.
        self._files_together = 0
        self._files_together_ended = 0

    def expect(self, files: int, size: int | None, more: bool = False) -> None:
        """Set the expected totals; see `natproxy.cli.display.Display.expect`."""
        with self._lock:
            self._expected_files = files
            self._expected_size = size
            self._more = more

    def add(self, event: Event) -> Row | None:
        """Add an event.

        :return: the state of the file if its phase or its message has changed.
        """
        name, phase, done, size, message, files_together = event
        with self._lock:
            file = self._files.get(name)
            if file is None and phase in ENDS:
                return self._add_ended(event)
            if not name:
                self._together += done
                self._files_together += files_together
                return None
            if file is None:
                file = self._files[name] = _File(event, self._clock())
            elif file.phase is not phase:
                file.change_phase(event, self._clock())
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

    def view(self) -> View:
        """Return the current state."""
        with self._lock:
            now = self._clock()
            files = self._files.values()
            together = max(0, self._together - self._together_ended)
            received = self._received + together + sum(file.received_so_far for file in files)
            done = self._bytes + together + sum(file.present for file in files)
            total = self._total(done)
            per_second = self._speed.at(now, received)
            left = None if total is None else total - done - self._missing
            rows = [file.row(now) for file in files]
            files_done = self._counts[Phase.COMPLETE] + self._counts[Phase.UNCHANGED]
            files_total = max(self._expected_files, self._seen)
            unsaved = max(0, self._files_together - self._files_together_ended)
            return View(
                now - self._started,
                rows,
                list(self._ended),
                files_done,
                min(files_done + unsaved, files_total - self._counts[Phase.FAILED]),
                self._counts[Phase.UNCHANGED],
                self._counts[Phase.FAILED],
                files_total,
                done,
                total,
                received,
                per_second,
                None if self._more else _longest(_seconds_left(left, per_second), rows),
                self._more,
            )

    @property
    def _seen(self) -> int:
        return len(self._files) + sum(self._counts.values())

    def _total(self, done: int) -> int | None:
        if self._more:
            return None
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

    def _add_ended(self, event: Event) -> Row:
        """Add a file of which this is the only event."""
        name, phase, done, size, message, _ = event
        if phase is Phase.COMPLETE or (phase is Phase.FAILED and size):
            self._files_together_ended += self._files_together_ended < self._files_together
        if phase is Phase.FAILED:
            present = 0
            # It may have been received, and not written.
            lost = min(size or 0, max(0, self._together - self._together_ended))
            self._together_ended += lost
            self._received += lost
        else:
            present = done if size is None else size
        if phase is Phase.COMPLETE:
            self._received += present
            self._together_ended += present
        self._counts[phase] += 1
        self._bytes += present
        expected = present if size is None else size
        self._sizes += expected
        self._missing += expected - present
        row = Row(name, phase, done, size, message, None, None, 0.0)
        self._ended.append(row)
        return row

    def _end(self, file: _File, row: Row) -> None:
        del self._files[file.name]
        self._ended.append(row)
        self._counts[file.phase] += 1
        self._bytes += file.present
        self._received += file.received_so_far
        size = file.present if file.size is None else file.size
        self._sizes += size
        self._missing += max(0, size - file.present)


class Ticker:
    """Calls a function at intervals, in a thread of its own.

    :param interval: in seconds.
    :param tick: must not raise an exception.
    """

    def __init__(self, interval: float, tick: Callable[[], object]) -> None:
        self._interval = interval
        self._tick = tick
        self._stopped = threading.Event()
        # A daemon thread: it must not keep the process alive if the display is not closed.
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def start(self) -> None:
        """Start; the first call follows after one interval."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and wait until the last call has returned; do nothing if not started."""
        self._stopped.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            self._tick()


class _File:
    """A file in progress.

    :ivar started: the clock at the first event.
    :ivar done: the highest number of bytes of any event of the phase; events of several
        threads may arrive out of order.
    :ivar start: bytes that the phase had processed when it started.
    :ivar kept: bytes that were present when the phase started.
    :ivar received: bytes that had been received when the phase started.
    :ivar was_received: whether there has been an event of receiving.
    :ivar was_hashed: whether there has been an event of hashing.
    """

    __slots__ = (
        "done", "kept", "message", "name", "phase", "received", "size", "speed", "start",
        "started", "was_hashed", "was_received",
    )  # fmt: skip

    speed: _Speed

    def __init__(self, event: Event, now: float) -> None:
        self.name = event.name
        self.started = now
        self.size: int | None = None
        self.kept = self.received = self.start = self.done = 0
        self.was_hashed = self.was_received = False
        self._start_phase(event, now)

    def change_phase(self, event: Event, now: float) -> None:
        """Start the phase of an event."""
        self.received = self.received_so_far
        self.kept = self.present
        before, speed = self.phase, self.speed
        self._start_phase(event, now)
        if self.was_received and {before, event.phase} == {Phase.RECEIVING, Phase.WAITING}:
            # One segment waits, or has finished waiting; the others may not wait at all.
            self.speed = speed
            if event.phase is Phase.RECEIVING:
                self.start = min(self.start, self.kept)

    def _start_phase(self, event: Event, now: float) -> None:
        self.phase = event.phase
        self.start = self.done = event.done
        self.message = event.message
        self.speed = _Speed(now, event.done)
        if event.size is not None:
            self.size = event.size
        if event.phase is Phase.RECEIVING:
            self.was_received = True
        elif event.phase is Phase.HASHING:
            self.was_hashed = True
        elif event.phase is Phase.RESTARTING:
            self.kept = event.done
        elif event.phase in (Phase.COMPLETE, Phase.UNCHANGED):
            present = event.done if self.size is None else self.size
            # There is no event for the last bytes of a file, and none for a small file. A
            # file that was only hashed was present before.
            if event.phase is Phase.COMPLETE and (self.was_received or not self.was_hashed):
                self.received += max(0, present - self.kept)
            self.kept = present

    @property
    def present(self) -> int:
        """Bytes of the file that are on the disk."""
        return self.done if self.phase is Phase.RECEIVING else self.kept

    @property
    def received_so_far(self) -> int:
        """Bytes received from the server, including discarded ones."""
        if self.phase is Phase.RECEIVING:
            return self.received + self.done - self.start
        return self.received

    def row(self, now: float) -> Row:
        """Return the current state."""
        seconds = now - self.started
        per_second = left = None
        if self.phase in (Phase.RECEIVING, Phase.HASHING):
            per_second = self.speed.at(now, self.done)
        elif self.phase is Phase.WAITING:
            # The average after the wait includes the seconds of the wait.
            self.speed.at(now, self.kept)
        elif self.phase is Phase.COMPLETE and self.received and seconds >= SHORTEST:
            per_second = self.received / seconds
        if self.phase is Phase.RECEIVING and self.size is not None:
            left = _seconds_left(self.size - self.done, per_second)
        return Row(
            self.name, self.phase, self.done, self.size, self.message, per_second, left, seconds
        )


class _Speed:
    """A moving average of the totals at the times when it was read."""

    __slots__ = ("_samples",)

    def __init__(self, now: float, moved: int) -> None:
        self._samples = deque([(now, moved)])

    def at(self, now: float, moved: int) -> float | None:
        """Return bytes per second, and add the current total; ``None`` if it is too early."""
        samples = self._samples
        if now - samples[-1][0] >= SHORTEST:
            samples.append((now, moved))
        # The oldest sample is at least as old as the window is long.
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
    """Return the time for all files: no less than that for any of them."""
    if seconds_left is None:
        return None
    return max([seconds_left, *(row.seconds_left for row in rows if row.seconds_left is not None)])
