"""Which client was behind a port: every promise about found, nobody and unknown."""

from __future__ import annotations

import os
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.journal.directory import JournalError
from natproxy.journal.files import SUFFIX
from natproxy.journal.schema import CATALOGUE_FILE
from natproxy.journal.search import Journal
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, WhoisQuery, WhoisReply
from tests.support.journal_runs import CLIENT, SECOND, START, RunsCase, Translations, query
from tests.support.journals import MEMORY

PORT = 50_000


def at(time: int, port: int = PORT) -> WhoisQuery:
    return WhoisQuery(port, since=time, until=time)


class WhoisTests(RunsCase):
    def ask(self, query: WhoisQuery) -> WhoisReply:
        with Journal(str(self.directory)) as journal:
            return journal.whois(query)

    def result(self, time: int, port: int = PORT) -> str:
        return self.ask(at(time, port)).result

    def translation(self, length: int = SECOND, client: str = CLIENT, port: int = PORT) -> int:
        """Have a translation now; return when it started."""
        started = self.daemon.now
        serial = self.daemon.register(port, client)
        self.daemon.wait(length)
        self.daemon.remove(serial)
        return started

    def test_gap_of_a_kill_is_listed_once(self) -> None:
        self.daemon.start()
        self.translation()
        self.daemon.flush()
        killed = self.daemon.now
        self.daemon.wait(SECOND)
        self.daemon.kill()
        self.daemon.wait(5 * SECOND)
        self.daemon.start()
        restarted = self.daemon.now
        self.daemon.flush()
        with Journal(str(self.directory)) as journal:
            gaps = journal.gaps(killed, restarted)
        self.assertEqual([gap.cause for gap in gaps], ["the daemon was killed"])

    def test_port_of_each_attempt_is_found_at_its_time(self) -> None:
        daemon = self.daemon
        daemon.start()
        first = daemon.register(PORT)
        daemon.wait(SECOND)
        daemon.remove(first, "retried")
        second = daemon.register(PORT + 1, earlier=(first, 1, 1000))
        daemon.flush()
        self.check_attempts(first, (1, "retried"), (2, None))
        daemon.seal()
        self.check_attempts(first, (1, "retried"), (2, None))
        daemon.wait(SECOND)
        daemon.remove(second)
        daemon.stop()
        self.check_attempts(first, (1, "retried"), (2, "completed"))

    def check_attempts(self, command: int, *expected: tuple[int, str | None]) -> None:
        """Look up the ports of the attempts, in the middle of the first and of the second."""
        for number, (attempt, outcome) in enumerate(expected):
            reply = self.ask(at(START + number * SECOND + SECOND // 2, PORT + number))
            if outcome is None:
                # The record ends where it began.
                self.assertEqual(reply.result, UNKNOWN)
            else:
                self.assertEqual(reply.result, FOUND)
            (found,) = reply.translations
            self.assertEqual(
                (found.command, found.attempt, found.outcome), (command, attempt, outcome)
            )
        self.assertNotEqual(self.result(START + SECOND // 2, PORT + 1), FOUND)

    def test_translation_is_found_from_its_start_to_its_end(self) -> None:
        self.daemon.start()
        self.daemon.wait(SECOND)
        started = self.translation()
        self.daemon.wait(SECOND)
        self.daemon.flush()
        for time, result in (
            (started - 1, NOBODY),
            (started, FOUND),
            (started + SECOND, FOUND),
            (started + SECOND + 1, NOBODY),
        ):
            self.assertEqual(self.result(time), result, time - started)
        self.assertEqual(self.result(started, PORT + 1), NOBODY)
        (record,) = self.ask(at(started)).translations
        self.assertEqual((record.client, record.nat_port, record.state), (CLIENT, PORT, "removed"))
        self.assertEqual((record.started, record.ended), (started, started + SECOND))

    def test_nobody_comes_with_the_last_translation_of_the_port(self) -> None:
        self.daemon.start()
        self.translation(client="10.0.0.1")
        started = self.translation(client="10.0.0.2")
        self.daemon.wait(SECOND)
        for action in (self.daemon.flush, self.daemon.seal):
            action()
            reply = self.ask(at(started + SECOND + 9))
            assert reply.last is not None
            self.assertEqual((reply.result, reply.last.client), (NOBODY, "10.0.0.2"))

    def test_open_translation_is_found_until_the_last_write_and_then_may_be_there(self) -> None:
        self.daemon.start()
        started = self.daemon.now
        self.daemon.register(PORT)
        self.daemon.wait(SECOND)
        self.daemon.flush()
        written = self.daemon.now
        self.assertEqual(self.result(written - 1), FOUND)
        # What happens in the same microsecond may come later.
        self.assertEqual(self.result(written, PORT + 1), UNKNOWN)
        reply = self.ask(at(written + 1))
        self.assertEqual((reply.result, len(reply.translations)), (UNKNOWN, 1))
        assert reply.gap is not None
        self.assertEqual((reply.gap.since, reply.gap.until), (written, None))
        self.assertEqual(reply.translations[0].started, started)
        # The other ports, too: the journal does not reach so far.
        self.assertEqual(self.result(written + 1, PORT + 1), UNKNOWN)

    def test_time_before_the_oldest_segment_is_unknown(self) -> None:
        self.daemon.start()
        reply = self.ask(at(START - 1))
        self.assertEqual(reply.result, UNKNOWN)
        assert reply.gap is not None
        self.assertEqual((reply.gap.since, reply.gap.until), (None, START - 1))

    def test_empty_journal_is_unknown(self) -> None:
        reply = self.ask(at(START))
        assert reply.gap is not None
        self.assertEqual((reply.result, reply.gap.cause), (UNKNOWN, "the journal is empty"))

    def test_stopped_daemon_has_nobody_until_it_starts_again_and_later(self) -> None:
        self.daemon.start()
        self.translation()
        self.daemon.stop()
        stopped = self.daemon.now
        self.assertEqual(self.result(stopped + 3600 * SECOND), NOBODY)
        self.daemon.wait(100 * SECOND)
        self.daemon.start()
        self.assertEqual(self.result(stopped + 1), NOBODY)
        self.daemon.wait(1)
        self.daemon.flush()
        self.assertEqual(self.result(self.daemon.now - 1), NOBODY)

    def test_between_kill_and_next_start_is_unknown_with_what_may_have_been_there(self) -> None:
        self.daemon.start()
        self.daemon.wait(SECOND)
        self.daemon.register(PORT)
        self.daemon.flush()
        written = self.daemon.now
        self.daemon.wait(SECOND)
        self.daemon.kill()
        self.assertEqual(self.result(written + 1), UNKNOWN)
        self.daemon.wait(10 * SECOND)
        self.daemon.start()
        started = self.daemon.now
        reply = self.ask(at(written + SECOND))
        self.assertEqual(reply.result, UNKNOWN)
        assert reply.gap is not None
        self.assertEqual(reply.gap.cause, "the daemon was killed")
        (record,) = reply.translations
        self.assertEqual((record.state, record.ended), ("lost", None))
        self.assertEqual(self.result(written), FOUND)
        self.assertEqual(self.result(started - 1), UNKNOWN)
        self.daemon.wait(SECOND)
        self.daemon.flush()
        self.assertEqual(self.result(started + 1), NOBODY)

    def test_lost_events_are_a_gap_for_every_port(self) -> None:
        self.daemon.start()
        kept = self.daemon.register(PORT)
        ended = self.daemon.register(PORT + 1)
        self.daemon.flush()
        written = self.daemon.now
        self.daemon.wait(SECOND)
        self.daemon.remove(ended)
        self.daemon.lose()
        self.daemon.wait(SECOND)
        self.daemon.flush()
        self.daemon.wait(SECOND)
        self.daemon.remove(kept)
        self.daemon.flush()
        inside = written + SECOND
        self.assertEqual(self.result(inside), FOUND)
        reply = self.ask(at(inside, PORT + 1))
        self.assertEqual((reply.result, len(reply.translations)), (UNKNOWN, 1))
        self.assertEqual(self.result(inside, PORT + 2), UNKNOWN)
        self.assertEqual(self.result(written + 2 * SECOND + 1, PORT + 1), NOBODY)

    def test_translation_that_outlasts_a_gap_and_is_lost_in_another_may_be_between(self) -> None:
        self.daemon.start()
        self.daemon.register(PORT)
        self.daemon.lose()
        self.daemon.flush()
        self.daemon.wait(SECOND)
        self.daemon.flush()
        self.daemon.kill()
        self.daemon.wait(SECOND)
        self.daemon.start()
        reply = self.ask(at(START + SECOND // 2))
        self.assertEqual((reply.result, len(reply.translations)), (UNKNOWN, 1))

    def test_interval_is_found_if_one_is_certain_and_names_a_gap_all_the_same(self) -> None:
        self.daemon.start()
        self.daemon.wait(SECOND)
        for client in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
            self.translation(client=client)
            self.daemon.wait(SECOND)
        self.daemon.flush()
        reply = self.ask(WhoisQuery(PORT, since=START + SECOND + 5, until=START + 5 * SECOND + 10))
        self.assertEqual((reply.result, reply.gap), (FOUND, None))
        self.assertEqual(
            [record.client for record in reply.translations], ["10.0.0.2", "10.0.0.1", "10.0.0.3"]
        )
        reply = self.ask(WhoisQuery(PORT, since=START - 5, until=START + SECOND + 10))
        self.assertEqual((reply.result, len(reply.translations)), (FOUND, 1))
        assert reply.gap is not None
        self.assertEqual(reply.gap.until, START - 1)
        # The end of an interval is not included.
        reply = self.ask(WhoisQuery(PORT, since=START, until=START + SECOND))
        self.assertEqual(reply.result, NOBODY)

    def test_gap_nearer_to_the_time_than_a_translation_makes_it_unknown(self) -> None:
        self.daemon.start()
        self.daemon.wait(SECOND)
        started = self.translation(client="10.0.0.1")
        ended = self.daemon.now
        self.daemon.wait(SECOND)
        self.daemon.flush()
        complete = self.daemon.now
        # Another client has the port, of which the journal has nothing.
        self.daemon.wait(SECOND // 10)
        self.daemon.register(PORT, "10.0.0.2")
        self.daemon.wait(SECOND // 10)
        self.daemon.kill()
        for time, expected in (
            (complete + SECOND // 5, UNKNOWN),
            (complete - SECOND // 10, UNKNOWN),
            (ended + SECOND // 10, FOUND),
            (started, FOUND),
        ):
            within = 2 * SECOND
            reply = self.ask(WhoisQuery(PORT, since=time - within, until=time + within))
            found = [record.client for record in reply.translations]
            self.assertEqual((reply.result, found), (expected, ["10.0.0.1"]), time - complete)

    def test_nat_and_upstream_restrict_in_every_form_of_an_address(self) -> None:
        self.daemon.start()
        self.daemon.register(PORT, "10.0.0.1", upstream="::ffff:10.2.0.1", nat="2001:db8::1")
        self.daemon.register(PORT, "10.0.0.2", upstream="10.2.0.2", upstream_port=9002)
        self.daemon.flush()

        def clients(**restrictions: str) -> list[str | None]:
            reply = self.ask(at(START)._replace(**restrictions))  # type: ignore[arg-type]
            return [record.client for record in reply.translations]

        self.assertEqual(clients(), ["10.0.0.1", "10.0.0.2"])
        self.assertEqual(clients(upstream="10.2.0.1"), ["10.0.0.1"])
        self.assertEqual(clients(upstream="10.2.0.1:9001"), ["10.0.0.1"])
        self.assertEqual(clients(upstream="[::ffff:a02:2]:9002"), ["10.0.0.2"])
        self.assertEqual(clients(upstream="10.2.0.2:9001"), [])
        self.assertEqual(clients(nat="2001:DB8:0::1"), ["10.0.0.1"])

    def test_translation_that_lasts_over_seals_is_told_once(self) -> None:
        self.daemon.start()
        serial = self.daemon.register(PORT)
        for _ in range(3):
            self.translation(port=PORT + 1)
            self.daemon.seal()
        self.assertEqual(len(self.ask(at(START + 5)).translations), 1)
        self.daemon.remove(serial)
        self.daemon.seal()
        self.daemon.wait(SECOND)
        self.daemon.flush()
        reply = self.ask(at(START + 5))
        self.assertEqual([record.state for record in reply.translations], ["removed"])
        self.assertEqual(self.result(self.daemon.now - 1), NOBODY)

    def test_step_back_makes_what_may_be_of_its_overlap(self) -> None:
        self.daemon.start()
        self.daemon.wait(60 * SECOND)
        self.translation(client="10.0.0.1")
        self.daemon.wait(60 * SECOND)
        self.daemon.flush()
        self.daemon.step(-100 * SECOND)
        self.daemon.flush()
        self.daemon.wait(200 * SECOND)
        self.daemon.flush()
        reply = self.ask(at(START + 60 * SECOND))
        self.assertEqual((reply.result, len(reply.translations)), (UNKNOWN, 1))
        assert reply.gap is not None
        self.assertEqual(reply.gap.cause, "the clock was set back")
        self.assertEqual(self.result(START + 60 * SECOND, PORT + 1), NOBODY)

    def test_step_that_is_noticed_late_is_in_all_the_time_before(self) -> None:
        self.daemon.start()
        self.daemon.wait(200 * SECOND)
        serial = self.daemon.register(PORT)
        self.daemon.flush()
        # The disk hangs.
        self.daemon.step(-100 * SECOND)
        self.daemon.wait(SECOND)
        self.daemon.remove(serial)
        self.daemon.wait(200 * SECOND)
        self.daemon.flush()
        # It held its port there, by the clock after the step.
        self.assertEqual(self.result(START + 100 * SECOND + SECOND // 2), UNKNOWN)
        self.assertEqual(self.result(START + 50 * SECOND), NOBODY)

    def test_skipped_time_is_unknown(self) -> None:
        self.daemon.start()
        self.daemon.step(100 * SECOND)
        self.daemon.flush()
        reply = self.ask(at(START + 50 * SECOND))
        assert reply.gap is not None
        self.assertEqual((reply.result, reply.gap.cause), (UNKNOWN, "the clock was set forward"))

    def test_damaged_segment_is_a_gap_with_its_name(self) -> None:
        self.daemon.start()
        times = []
        for _ in range(3):
            self.daemon.wait(SECOND)
            times.append(self.translation())
            self.daemon.seal()
        name = sorted(name for name in os.listdir(self.directory) if name.endswith(SUFFIX))[1]
        path = self.directory / name
        path.write_bytes(b"x" * path.stat().st_size)
        # The catalogue lists it, and its size is right.
        reply = self.ask(at(times[1]))
        self.assertEqual(reply.result, UNKNOWN)
        assert reply.gap is not None
        self.assertIn(name, reply.gap.cause)
        self.assertEqual(self.result(times[0]), FOUND)
        self.assertEqual(self.result(times[2]), FOUND)
        # By the catalogue, nothing in the damaged one began so early.
        self.assertEqual(self.result(times[0], PORT + 1), NOBODY)
        (self.directory / CATALOGUE_FILE).unlink()
        self.assertEqual(self.result(times[0], PORT + 1), UNKNOWN)

    def test_missing_segment_in_the_middle_is_a_gap(self) -> None:
        self.daemon.start()
        for _ in range(3):
            self.daemon.wait(SECOND)
            time = self.translation()
            self.daemon.seal()
        name = sorted(name for name in os.listdir(self.directory) if name.endswith(SUFFIX))[1]
        (self.directory / name).unlink()
        self.assertEqual(self.result(START + 3 * SECOND), UNKNOWN)
        self.assertEqual(self.result(time), FOUND)

    def test_run_whose_segments_were_all_deleted_is_a_gap(self) -> None:
        times = []
        for _ in range(3):
            self.daemon.start()
            self.daemon.wait(SECOND)
            times.append(self.translation())
            self.daemon.seal()
            self.daemon.stop()
            self.daemon.wait(SECOND)
        names = sorted(name for name in os.listdir(self.directory) if name.endswith(SUFFIX))
        for name in names[2:4]:
            (self.directory / name).unlink()
        self.assertEqual([self.result(time) for time in times], [FOUND, UNKNOWN, FOUND])
        # Without the older ones, the journal begins later.
        for name in names[:2]:
            (self.directory / name).unlink()
        self.assertEqual([self.result(time) for time in times], [UNKNOWN, UNKNOWN, FOUND])
        self.assertEqual(self.result(times[2] - SECOND // 2), NOBODY)

    def test_newer_schema_is_refused_by_name(self) -> None:
        self.daemon.start()
        self.translation()
        self.daemon.stop()
        (name,) = (name for name in os.listdir(self.directory) if name.endswith(SUFFIX))
        query(str(self.directory / name), "pragma user_version = 99")
        reply = self.ask(at(START))
        assert reply.gap is not None
        self.assertEqual(reply.result, UNKNOWN)
        self.assertIn(name, reply.gap.cause)
        self.assertIn("version 99", reply.gap.cause)

    def test_catalogue_is_used_only_if_it_agrees(self) -> None:
        self.daemon.start()
        started = self.translation()
        self.daemon.seal()
        catalogue = self.directory / CATALOGUE_FILE
        content = catalogue.read_bytes()
        for damaged in (None, b"", b"x" * 5000, content[:4096]):
            if damaged is None:
                catalogue.unlink()
            else:
                catalogue.write_bytes(damaged)
            self.assertEqual(self.result(started), FOUND)

    def test_directory_that_cannot_be_read_is_named(self) -> None:
        for path in (self.directory / "absent", self.directory / "file"):
            (self.directory / "file").touch()
            with self.assertRaisesRegex(JournalError, str(path)):
                Journal(str(path)).whois(at(START))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("register"), st.integers(0, 2)),
        st.tuples(st.just("remove"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.integers(1, 20)),
        st.tuples(st.sampled_from(["flush", "seal", "restart", "kill", "lose"]), st.just(0)),
        st.tuples(st.just("step"), st.sampled_from([-30, -3, 5, 40])),
    ),
    min_size=4,
    max_size=25,
)


class ModelTests(SynchronousTestCase):
    """Whatever happens, the result is right, or unknown."""

    @settings(max_examples=60, deadline=None)
    @given(steps=STEPS, closed=st.booleans())
    def test_never_a_wrong_client_and_never_nobody_where_there_was_one(
        self, steps: list[tuple[str, int]], closed: bool
    ) -> None:
        with TemporaryDirectory(dir=MEMORY) as directory:
            daemon = Translations(directory)
            exact = play(daemon, steps)
            if closed and daemon.writer is not None:
                daemon.stop()
            live = None if daemon.writer is None else daemon.writer.ports
            with Journal(directory) as journal, Journal(directory, live=live) as own:
                self.check(daemon, journal, own, exact and closed)
            daemon.close()

    def check(self, daemon: Translations, journal: Journal, own: Journal, exact: bool) -> None:
        walls = {START - SECOND, daemon.now, daemon.now + SECOND}
        for wall in range(START, daemon.now + 40 * SECOND, SECOND):
            walls |= {wall, wall + 500_000}
        queries = [at(wall, PORT + port) for wall in sorted(walls) for port in range(3)]
        for number, (each, reply) in enumerate(
            zip(queries, journal.whois_all(queries), strict=True)
        ):
            assert each.since is not None
            if number % 11 == 0:
                # The process that writes it finds the same.
                one, same = journal.whois(each), own.whois(each)
                self.assertEqual(same, one)
                self.assertEqual(same._replace(last=None), reply)
            moments = daemon.holders(each.port, each.since)
            there = {
                (translation.client, translation.port)
                for moment in moments
                for translation in moment
            }
            found = {(record.client, record.nat_port) for record in reply.translations}
            if reply.result == FOUND:
                self.assertLessEqual(found, there, each)
                self.assertTrue(found)
            elif reply.result == NOBODY:
                self.assertEqual(there, set(), each)
            else:
                self.assertIsNotNone(reply.gap)
                self.assertFalse(exact and each.since >= START, each)


def play(daemon: Translations, steps: list[tuple[str, int]]) -> bool:
    """Have things happen; return whether the journal is complete of them."""
    daemon.start()
    exact = True
    # Each translation has a client of its own.
    number = 0
    ports: dict[int, int] = {}
    for action, value in steps:
        if action == "wait":
            daemon.wait(value * SECOND // 2)
        elif action == "register" and value not in ports:
            number += 1
            ports[value] = daemon.register(PORT + value, f"10.9.0.{number}")
        elif action == "remove" and value in ports:
            daemon.remove(ports.pop(value))
        elif action == "flush":
            daemon.flush()
        elif action == "seal":
            daemon.seal()
        elif action == "lose":
            daemon.lose()
            exact = False
        elif action in ("restart", "kill"):
            (daemon.stop if action == "restart" else daemon.kill)()
            exact = exact and action == "restart"
            daemon.wait(SECOND)
            daemon.start()
            ports = {}
        elif action == "step":
            daemon.flush()
            daemon.step(value * SECOND)
            daemon.flush()
            exact = False
    return exact
