"""Random events, flushes, faults, seals and crashes: what the segments have equals the model."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal import segment as segments
from natproxy.journal import writer as writers
from natproxy.journal.maintenance import Maintenance
from natproxy.journal.rows import GapRow
from natproxy.journal.segment import Segment
from natproxy.journal.space import Unwritable
from natproxy.journal.writer import Writer
from natproxy.nat import NATEntry
from natproxy.records.record import format_time
from tests.support.journals import MEMORY, WALL, Traffic, entries_of, gaps_of, meta_of, paths_of

RING = 5
"""Events that the ring holds: few, so that it loses some."""


@dataclass
class Expected:
    """A translation of the model.

    :ivar first: number of its event registered.
    :ivar last: number of its event removed; ``None`` while it is open.
    """

    boot: str
    serial: int
    port: int
    started: int
    first: int
    last: int | None = None
    ended: int | None = None


class JournalMachine(RuleBasedStateMachine):
    """A daemon that is killed and started again, and whose disk is full at times."""

    @initialize()
    def begin(self) -> None:
        self.directory = tempfile.mkdtemp(dir=MEMORY)
        self.boot = 0
        self.wall: float = WALL
        self.port = 50_000
        self.history: list[Expected] = []
        self.start()

    def start(self) -> None:
        self.boot += 1
        self.traffic = Traffic(f"{self.boot:02x}", RING, self.wall)
        self.writer = Writer(self.directory, self.traffic.origin, self.traffic.now, names=True)
        self.maintenance = Maintenance(
            self.directory, self.traffic.origin.boot, self.traffic.now, 1e9, 10**12
        )
        self.open: list[tuple[Expected, NATEntry]] = []
        self.committed = 0
        self.write()

    def write(self, stopped: bool = False) -> None:
        self.writer.write(self.traffic.batch(stopped))
        self.traffic.taken()
        self.committed = self.traffic.cursor

    @rule(relaying=st.booleans(), written=st.booleans())
    def begin_command(self, relaying: bool, written: bool) -> None:
        self.advance()
        self.port += 1
        entry = self.traffic.register(self.port)
        expected = Expected(
            self.traffic.origin.boot,
            entry.serial,
            self.port,
            self.traffic.now,
            self.traffic.ring.next - 1,
        )
        self.history.append(expected)
        self.open.append((expected, entry))
        if relaying:
            self.traffic.relay(entry)
        if written:
            self.flush()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def end_command(self, data: st.DataObject) -> None:
        self.advance()
        expected, entry = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.traffic.remove(entry)
        expected.last = self.traffic.ring.next - 1
        expected.ended = self.traffic.now

    @rule(commands=st.integers(1, 3))
    def burst(self, commands: int) -> None:
        """Carry out commands: two overrun the ring."""
        for _ in range(commands):
            self.begin_command(True, written=False)
            expected, entry = self.open.pop()
            self.advance()
            self.traffic.remove(entry)
            expected.last = self.traffic.ring.next - 1
            expected.ended = self.traffic.now

    @rule()
    def flush(self) -> None:
        self.advance()
        self.write()

    @rule(
        error=st.sampled_from(
            (
                sqlite3.OperationalError("database or disk is full"),
                OSError(28, "No space left on device"),
                sqlite3.DatabaseError("database disk image is malformed"),
            )
        ),
        late=st.booleans(),
    )
    def fail_to_write(self, error: Exception, late: bool) -> None:
        self.advance()
        with fault(error, late):
            try:
                self.writer.write(self.traffic.batch())
            except Unwritable:
                return
        raise AssertionError("it was written")

    @rule(seal=st.booleans())
    def roll(self, seal: bool) -> None:
        with patch.object(writers, "ROWS", 1):
            former = self.writer.roll(self.traffic.clock.seconds())
        if former is not None:
            self.maintenance.add(former)
        if seal:
            self.maintenance.run(self.traffic.now)

    # Not too often: little happens in a short run.
    @precondition(lambda self: self.traffic.ring.next > 15)
    @rule(copy=st.booleans(), stopped=st.booleans())
    def end_run(self, copy: bool, stopped: bool) -> None:
        """Kill the daemon, or let it stop in order, and start it again."""
        self.advance()
        if stopped:
            while self.open:
                expected, entry = self.open.pop()
                self.traffic.remove(entry)
                expected.last = self.traffic.ring.next - 1
                expected.ended = self.traffic.now
            self.write(stopped=True)
        if copy:
            # The files as a killed process leaves them, with their WAL.
            copied = tempfile.mkdtemp(dir=MEMORY)
            shutil.copytree(self.directory, copied, dirs_exist_ok=True)
            self.writer.close()
            shutil.rmtree(self.directory)
            self.directory = copied
        else:
            self.writer.close()
        self.advance(60)
        self.start()
        self.maintenance.run(self.traffic.now)

    def advance(self, seconds: float = 0.001) -> None:
        self.wall = round(self.wall + seconds, 6)
        self.traffic.advance(self.wall - self.traffic.wall)
        self.traffic.wall = self.wall

    @invariant()
    def journal_is_that_of_the_model(self) -> None:
        if not hasattr(self, "directory"):
            return
        found = {(entry["boot"], entry["serial"]): entry for entry in entries_of(self.directory)}
        gaps = gaps_of(self.directory)
        complete = {
            meta["boot"]: meta["complete_to"] for meta in map(meta_of, paths_of(self.directory))
        }
        for expected in self.history:
            key = expected.boot, expected.serial
            entry = found.pop(key, None)
            if entry is None:
                assert expected.started > complete[expected.boot] or in_gap(
                    gaps, expected.started
                ), f"{expected} is missing"
                continue
            assert entry["nat_port"] == expected.port
            assert entry["started"] == format_time(expected.started)
            assert entry["seq"] in (expected.first, None)
            if entry["ended"] is not None:
                assert expected.ended is not None
                assert entry["ended"] == format_time(expected.ended)
            elif expected.ended is not None:
                assert expected.ended > complete[expected.boot] or in_gap(gaps, expected.ended), (
                    f"the end of {expected} is missing"
                )
                # It must not look as if it held its port until now.
                assert entry["state"] == "lost" or expected.ended > complete[expected.boot], (
                    f"{expected} looks open"
                )
            elif entry["state"] == "lost":
                assert expected.boot != self.traffic.origin.boot
        assert not found, f"{found} never existed"

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.writer.close()
            shutil.rmtree(self.directory)


def in_gap(gaps: list[GapRow], time: int) -> bool:
    """Return whether a time is in a gap."""
    return any(
        (gap.since is None or gap.since <= time) and (gap.until is None or time <= gap.until)
        for gap in gaps
    )


@contextmanager
def fault(error: Exception, late: bool) -> Iterator[None]:
    """Fail writes, before anything is written, or just before the commit."""
    if late:
        with patch.object(segments, "_set", side_effect=error):
            yield
    else:
        with patch.object(Segment, "append", side_effect=error):
            yield


class ModelTests(SynchronousTestCase):
    def test_segments_have_what_the_model_has(self) -> None:
        run_state_machine_as_test(
            JournalMachine,
            settings=settings(max_examples=25, stateful_step_count=25, deadline=None),
        )
