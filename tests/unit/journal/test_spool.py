"""The spool: every event is in the file, wherever its process is interrupted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from natproxy.address import Address
from natproxy.journal import spool as spools
from natproxy.journal.space import Unwritable
from natproxy.journal.spool import Spool
from natproxy.journal.spool_format import (
    HEADER,
    PREFIX,
    RECORDS,
    REGISTRATION,
    REMOVAL,
    TRANSITIONS,
    Description,
    Input,
    State,
    spool_path,
)
from natproxy.journal.spool_rows import Events, MalformedSpool, Spooled
from natproxy.nat import Earlier, NATEntry, Outcome, TranslationKey
from natproxy.protocol import Command, parse_command
from natproxy.records.event_rows import NAME, ROUTE, Row
from natproxy.server.state import IllegalTransition
from tests.support.doubles import Wire
from tests.support.journals import NOW, Traffic
from tests.support.logged_errors import LoggedErrorsCase

CLIENT = Address("10.0.0.5", 43_210)

SMALL = 1024
"""Bytes of a region that a few events fill."""


class Spooling:
    """The traffic of a proxy with a spool."""

    def __init__(
        self,
        directory: str,
        region: int = 1 << 16,
        names: bool = True,
        size: int = 1000,
    ) -> None:
        self.port = 40_000
        self.traffic = Traffic(size=size)
        ring = self.traffic.ring
        description = Description(ring.origin, NOW, ring.every_name, region)
        self.spool = Spool(directory, description, ring.verb_and_name, names)
        self.path = spool_path(directory, 0, ring.origin.boot)
        ring.spool_to(self.spool)

    @property
    def data(self) -> bytes:
        with open(self.path, "rb") as file:
            return file.read()

    def events(self, last: int = 0) -> Events:
        return Spooled(self.data).events(last, {})

    def rows(self) -> list[Row]:
        return self.traffic.ring.read(0, 1000)[0]

    def register(
        self,
        line: bytes = b"GET a%20b",
        client: Address = CLIENT,
        identity: str | None = None,
        earlier: Earlier | None = None,
    ) -> NATEntry:
        self.port += 1
        command = parse_command(line)
        assert command is not None
        key = TranslationKey(Address("10.0.0.1", self.port), Address("10.0.0.9", 9001))
        started = self.traffic.clock.seconds() - 0.25
        return self.traffic.table.register(
            key, Wire(1, 2), client, command, started, lambda: None, identity, earlier
        )


class SpoolCase(LoggedErrorsCase):
    def setUp(self) -> None:
        self.directory = os.path.abspath(self.mktemp())
        os.mkdir(self.directory)

    def make(self, region: int = 1 << 16, names: bool = True) -> Spooling:
        made = Spooling(self.directory, region, names)
        self.addCleanup(made.spool.close, remove=True)
        return made


class RecordTests(SpoolCase):
    def test_rows_are_those_of_the_ring(self) -> None:
        made = self.make()
        entry = made.register(identity="alice")
        made.traffic.advance(1.5)
        made.traffic.relay(entry)
        made.traffic.advance(0.000001)
        made.traffic.table.remove(entry, Outcome.ERROR, "proxy error: \udce4 lost")
        made.traffic.fail()
        made.traffic.ring.act("kill", 1_700_000_001.25, 0, 17, "port 50000", 1)
        made.register(b"PACK a b c")
        made.register(b"GET " + b"x" * 5000)
        made.register(earlier=Earlier(1, 2, 70_000))
        made.traffic.table.fail(
            CLIENT,
            Command(b"GET", b"a", b"GET a"),
            made.traffic.clock.seconds(),
            Outcome.ERROR,
            7,
            earlier=Earlier(1, 3, 70_001),
        )
        self.assertEqual(made.events(), Events(made.rows(), True))
        self.assertEqual(len(made.rows()), 9)

    def test_event_that_another_one_causes_is_in_it(self) -> None:
        made = self.make()
        ring = made.traffic.ring
        ring.wake(lambda: ring.act("drain", 1_700_000_001.5, 0, 17))
        ring.act("kill", 1_700_000_001.25, 0, 17, "port 50000", 1)
        self.assertEqual(made.events(), Events(made.rows(), True))
        self.assertEqual([row[1] for row in made.rows()], ["kill", "drain"])

    def test_events_before_the_spool_are_in_it(self) -> None:
        made = self.make()
        made.register()
        made.traffic.ring.spool_to(None)
        made.traffic.table.remove(next(iter(made.traffic.table)), Outcome.COMPLETED)
        made.spool.close(remove=True)
        description = Description(made.traffic.ring.origin, NOW)
        later = Spool(self.directory, description, made.traffic.ring.verb_and_name)
        self.addCleanup(later.close, remove=True)
        made.traffic.ring.spool_to(later)
        made.register()
        self.assertEqual(made.events(), Events(made.rows(), True))

    def test_file_is_private_and_has_all_of_its_space(self) -> None:
        made = self.make()
        status = os.stat(made.path)
        self.assertEqual(status.st_mode & 0o777, 0o600)
        self.assertGreaterEqual(status.st_blocks * 512, status.st_size)
        self.assertEqual(os.listdir(self.directory), [os.path.basename(made.path)])

    def test_names_are_left_out(self) -> None:
        made = self.make(names=False)
        made.register(b"GET secret")
        made.register(b"PACK secret other")
        made.traffic.table.fail(
            Address("10.0.0.6", 43_211),
            Command(b"GET", b"secret", b"GET secret"),
            made.traffic.clock.seconds(),
            Outcome.ERROR,
            7,
        )
        self.assertNotIn(b"secret", made.data)
        rows, complete = made.events()
        self.assertTrue(complete)
        self.assertEqual(
            [row[ROUTE][NAME - 1] for row in rows if row[ROUTE]], ["GET", "PACK", "GET"]
        )

    def test_event_that_cannot_be_stored_ends_the_spool_and_no_command(self) -> None:
        made = self.make()
        entry = made.register()
        entry.relayed = -1
        made.traffic.remove(entry)
        self.assertEqual(self.flush(Exception), 1)
        self.assertEqual(len(made.rows()), 2)
        self.assertFalse(os.path.exists(made.path))
        made.traffic.command(50_001)
        made.spool.taken(5)
        made.spool.written(5)
        self.assertEqual(made.spool.state, State.CLOSED)

    @settings(max_examples=50, deadline=None)
    @given(
        st.binary(min_size=1, max_size=700).filter(lambda line: b"\n" not in line and line.split()),
        st.text(max_size=40).filter(lambda text: "\0" not in text),
        st.integers(0, 2**32 - 1),
        st.text(max_size=10).filter(lambda text: "\0" not in text),
        st.none() | st.text(max_size=300),
        st.none() | st.integers(0, 2**63 - 1),
    )
    def test_any_texts_and_numbers(
        self,
        line: bytes,
        host: str,
        port: int,
        identity: str,
        reason: str | None,
        promised: int | None,
    ) -> None:
        with tempfile.TemporaryDirectory() as directory:
            made = Spooling(directory)
            entry = made.register(line, Address(host, port), identity=identity or None)
            made.traffic.table.relaying(entry, promised)
            entry.count(promised or 0)
            made.traffic.table.remove(entry, Outcome.UPSTREAM_GONE, reason)
            try:
                self.assertEqual(made.events(), Events(made.rows(), True))
            finally:
                made.spool.close(remove=True)


class InterruptionTests(SpoolCase):
    """Bytes of an event are written in their order: the texts, then the rest up to the number."""

    def check_every_byte(self, act: Callable[[Spooling], object], texts: int) -> None:
        made = self.make()
        entry = made.register()
        before = made.data
        self.entry = entry
        act(made)
        after = made.data
        _, second = Spooled(after).places
        fixed = RECORDS[second.kind].size
        order = [*range(second.at + fixed, second.stop), *range(second.at, second.at + fixed)]
        self.assertEqual(len(order), fixed + texts)
        torn = bytearray(before)
        for place in order:
            if bytes(torn) != after:
                self.assertEqual(Spooled(bytes(torn)).events(0, {}), Events(made.rows()[:1], True))
            torn[place] = after[place]
        self.assertEqual(bytes(torn), after)
        self.assertEqual(Spooled(after).events(0, {}), Events(made.rows(), True))

    def test_registration(self) -> None:
        texts = len(b"10.0.0.5\x0010.0.0.1\x0010.0.0.9\x00" + b"GET a%20b")
        self.check_every_byte(lambda made: made.register(), texts)

    def test_relaying(self) -> None:
        self.check_every_byte(lambda made: made.traffic.relay(self.entry), 0)

    def test_removal(self) -> None:
        def act(made: Spooling) -> None:
            made.traffic.table.remove(self.entry, Outcome.ERROR, "lost")

        self.check_every_byte(act, 4)

    def test_other_event(self) -> None:
        made = self.make()
        made.traffic.fail()
        size = Spooled(made.data).places[0].stop - HEADER - RECORDS[5].size
        made.spool.close(remove=True)
        self.check_every_byte(lambda made: made.traffic.fail(), size + 0)

    def test_damage_in_the_middle_is_not_taken_for_an_interruption(self) -> None:
        made = self.make()
        for port in range(50_000, 50_005):
            made.traffic.command(port)
        places = Spooled(made.data).places
        for number, place in enumerate(places[:-1]):
            for at in (place.at, place.at + 4, place.at + RECORDS[place.kind].size - 8):
                damaged = bytearray(made.data)
                damaged[at] ^= 0xFF
                rows, complete = Spooled(bytes(damaged)).events(0, {})
                self.assertEqual((rows, complete), (made.rows()[:number], False))

    def test_any_damage_is_read_without_an_error(self) -> None:
        made = self.make(SMALL)
        entry = made.register(identity="alice")
        made.traffic.remove(entry)
        made.traffic.fail()
        data, rows = made.data, made.rows()

        @settings(max_examples=100, deadline=None)
        @given(st.lists(st.tuples(st.integers(0, HEADER // 32 + SMALL), st.integers(0, 255))))
        def check(changes: list[tuple[int, int]]) -> None:
            damaged = bytearray(data)
            for place, value in changes:
                damaged[place if place < HEADER // 32 else place - HEADER // 32 + HEADER] = value
            try:
                found = Spooled(bytes(damaged)).events(0, {})
            except MalformedSpool:
                return
            self.assertLessEqual(len(found.rows), len(rows))

        check()

    def test_other_files_are_refused(self) -> None:
        made = self.make()
        data = made.data
        for wrong, reason in (
            (b"", "malformed"),
            (b"x" * HEADER, "not a spool"),
            (data[:-1], "bytes in place of"),
            (data[:8] + b"\x02" + data[9:], "it has version 2"),
            (data[: PREFIX.size] + b"[]" + data[PREFIX.size + 2 :], "malformed"),
        ):
            self.assertIn(reason, str(self.assertRaises(MalformedSpool, Spooled, wrong)))


class RegionTests(SpoolCase):
    def batch(self, made: Spooling) -> int:
        last = made.traffic.ring.next - 1
        made.spool.taken(last)
        return last

    def test_what_is_written_is_overwritten(self) -> None:
        made = self.make()
        made.traffic.command(50_000)
        last = self.batch(made)
        made.traffic.command(50_001)
        made.spool.written(last)
        self.assertEqual(made.events(last), Events(made.rows()[3:], True))
        made.spool.written(self.batch(made))
        self.assertEqual(set(made.data[HEADER:]), {0})
        self.assertNotIn(b"10.0.0.5", made.data)

    def test_events_remain_while_nothing_can_be_written(self) -> None:
        made = self.make()
        for port in range(50_000, 50_010):
            made.traffic.command(port)
            self.batch(made)
        self.assertEqual(made.events(), Events(made.rows(), True))
        made.spool.written(self.batch(made))
        made.traffic.command(50_011)
        made.spool.written(self.batch(made))
        made.spool.written(self.batch(made))
        self.assertEqual(set(made.data[HEADER:]), {0})

    def test_full_spool_is_not_complete_until_everything_is_written(self) -> None:
        made = self.make(SMALL)
        while made.spool.state is State.RECORDING:
            made.traffic.command(50_000)
        rows, complete = made.events()
        self.assertFalse(complete)
        self.assertEqual(rows, made.rows()[: len(rows)])
        self.assertGreater(len(rows), 10)
        last = self.batch(made)
        made.spool.written(last)
        made.traffic.command(50_001)
        self.assertEqual((made.spool.state, made.events(last).complete), (State.FULL, False))
        last = self.batch(made)
        made.traffic.command(50_002)
        self.assertEqual((made.spool.state, made.events(last).complete), (State.RESUMED, False))
        made.spool.written(last)
        self.assertEqual(made.events(last), Events(made.rows()[-3:], True))

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.sampled_from("cccrftwk"), max_size=80))
    def test_complete_spool_has_what_is_not_written(self, steps: list[str]) -> None:
        with tempfile.TemporaryDirectory() as directory:
            made = Spooling(directory, SMALL)
            taken: int | None = None
            written = 0
            open_entries: list[NATEntry] = []
            for step in steps:
                if step == "c":
                    made.traffic.command(50_000)
                elif step == "r":
                    open_entries.append(made.register())
                elif step == "f":
                    made.traffic.fail()
                elif step == "t":
                    taken = self.batch(made)
                elif step == "w" and taken is not None:
                    written, taken = taken, None
                    made.spool.written(written)
                elif step == "k" and open_entries:
                    made.traffic.remove(open_entries.pop(0))
                held, _ = made.traffic.ring.read(0, 1000)
                known = {row[2]: row for row in held if row[0] <= written and row[2] is not None}
                rows, complete = Spooled(made.data).events(written, known)
                expected = held[written:]
                self.assertEqual(rows, expected[: len(rows)])
                if complete:
                    self.assertEqual(rows, expected)
                self.assertEqual(complete, made.spool.state is State.RECORDING)
            made.spool.close(remove=True)

    def test_states(self) -> None:
        self.assertEqual(set(TRANSITIONS), set(State))
        self.assertRaises(IllegalTransition, lambda: TRANSITIONS[State.CLOSED][Input.WRITTEN])


class FileTests(SpoolCase):
    def test_closed_file_remains_for_the_next_start(self) -> None:
        made = self.make()
        made.traffic.command(50_000)
        made.spool.close(remove=False)
        made.spool.close(remove=True)
        made.traffic.command(50_001)
        self.assertEqual(made.events(), Events(made.rows()[:3], True))

    def test_nothing_remains_of_one_that_cannot_be_made(self) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        self.patch(spools.os, "posix_fallocate", full)
        self.assertRaises(OSError, self.make)
        self.assertEqual(os.listdir(self.directory), [])

    def test_space_is_left_to_others(self) -> None:
        def full(directory: str) -> None:
            raise Unwritable("only 1 KiB are free")

        self.patch(spools, "check_space", full)
        self.assertRaises(Unwritable, self.make)
        self.assertEqual(os.listdir(self.directory), [])

    def test_sizes_of_the_fixed_parts(self) -> None:
        # The format is that of files, which the next start reads.
        self.assertEqual((REGISTRATION.size, REMOVAL.size, PREFIX.size), (53, 70, 16))
