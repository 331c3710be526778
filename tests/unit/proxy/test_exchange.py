"""Commands whose upstreams die: at every byte of every reply, in every order."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import error
from twisted.logger import LogLevel, formatEvent

from natproxy.control.table import LocalTable
from natproxy.nat import Event, Failed, Outcome, Registered, Relaying, Removed
from natproxy.nat.events import total_of
from natproxy.nat.ring import EventRing
from natproxy.proxy.retries import MOST_LOSSES, TRANSITIONS, State
from natproxy.proxy.upstreams import Health, Target
from natproxy.records.record import Origin
from natproxy.server.state import IllegalTransition
from tests.support.played_replies import REPLIES, header_of, passed_on, reply_to
from tests.support.played_upstreams import VERSION_2
from tests.support.proxies import ProxyCase
from tests.support.state_diagrams import documented_diagrams, state_diagram

GET = b"GET a"
COMMANDS = (GET, *REPLIES)
REFUSED = -1
"""In place of the byte at which an upstream dies: it refuses the connection."""


class DyingCase(ProxyCase):
    options = {"resume_for": 30.0}

    def setUp(self) -> None:
        super().setUp()
        self.events: list[Event] = []
        self.table.subscribe(self.events.append)
        self.served = 0

    def use_servers(self, number: int) -> None:
        """Let the proxy have several upstreams, which are all this test."""
        upstreams = self.factory.resources.upstreams
        connector = next(iter(upstreams)).connector
        upstreams.use([Target(f"server-{each}", "", connector) for each in range(number)])

    def serve(self, death: int | None, pieces: int = 1) -> bool:
        """Reply to the next attempt, up to a byte; return whether there was one.

        :param death: ``None`` to send the whole reply.
        :param pieces: in which the reply arrives.
        """
        if len(self.endpoint.connections) == self.served:
            return False
        upstream = self.endpoint.connections[self.served]
        self.served += 1
        if death == REFUSED:
            upstream.refuse(error.ConnectionRefusedError())
            return True
        upstream.accept()
        line = upstream.wire.taken().removesuffix(b"\n")
        reply = reply_to(line)
        sent = reply if death is None else reply[: min(death, len(reply) - 1)]
        size = max(1, -(-len(sent) // pieces))
        for start in range(0, len(sent), size):
            upstream.send(sent[start : start + size])
        if death is not None and not upstream.wire.aborted:
            upstream.die()
        return True

    def play(self, line: bytes, deaths: Iterable[int], pieces: int = 1) -> bytes:
        """Send a command whose attempts end so, and then one that does not; return what came."""
        self.events.clear()
        self.wire.clear()
        self.protocol.dataReceived(line + b"\n")
        for death in (*deaths, None):
            if not self.serve(death, pieces):
                break
            self.clock.pump([0.0, *[0.1] * 21])
        self.assertFalse(self.serve(None))
        return bytes(self.wire.value())

    def check(self, received: bytes) -> None:
        """Check the events of one command: exact counts, and one end."""
        self.assertEqual(len(self.table), 0)
        self.assertEqual([each.active for each in self.factory.resources.upstreams], [0] * self.n)
        ends = [event for event in self.events if isinstance(event, (Removed, Failed))]
        outcomes = [event.outcome for event in ends]
        self.assertEqual(set(outcomes[:-1]) - {Outcome.RETRIED}, set())
        self.assertIsNot(outcomes[-1], Outcome.RETRIED)
        self.assertEqual(sum(event.sent for event in ends), len(received))
        self.assertEqual(total_of(ends[-1]), len(received))
        first = ends[0].serial
        passed = 0
        for number, event in enumerate(ends):
            if number:
                assert event.earlier is not None
                self.assertEqual(event.earlier, (first, number, passed))
            else:
                self.assertIsNone(event.earlier)
            passed += event.sent
        for event in ends:
            kinds = [type(each) for each in self.events if each.serial == event.serial]
            if isinstance(event, Failed):
                self.assertEqual(kinds, [Failed])
            else:
                self.assertIn(kinds, ([Registered, Relaying, Removed], [Registered, Removed]))

    @property
    def n(self) -> int:
        return len(list(self.factory.resources.upstreams))


class EveryByteTests(DyingCase):
    def test_one_death_at_every_byte_of_every_reply(self) -> None:
        for line in COMMANDS:
            whole = reply_to(line)
            header = header_of(line, whole)
            for death in range(len(whole)):
                with self.subTest(line=line, death=death):
                    received = self.play(line, [death])
                    self.check(received)
                    if death < header or line == GET:
                        self.assertEqual(received, passed_on(line))
                        self.assertTrue(self.wire.open)
                    else:
                        self.assertEqual(received, whole[:death])
                        self.assertFalse(self.wire.open)
                        self.wire.lose(self.protocol)
                        self.protocol, self.wire = self.new_client(43210)

    def test_two_deaths_at_every_two_bytes_of_a_body(self) -> None:
        whole = reply_to(GET)
        header = header_of(GET, whole)
        for first in range(header, len(whole)):
            rest = reply_to(b"GET a offset=%d length=%d" % (first - header, len(whole) - first))
            for second in range(first % 3, len(rest), 3):
                received = self.play(GET, [first, second])
                self.check(received)
                self.assertEqual(received, whole, (first, second))

    def test_range_of_a_file_is_continued_in_it(self) -> None:
        line = b"GET a offset=3 length=9 if-match=tag"
        whole = reply_to(line)
        for death in range(len(whole)):
            received = self.play(line, [death])
            self.check(received)
            self.assertEqual(received, whole, death)

    def test_pipelined_commands_wait_for_the_rest(self) -> None:
        whole = reply_to(GET)
        self.protocol.dataReceived(GET + b"\nSTAT a\n")
        self.serve(len(whole) - 1)
        self.assertEqual(len(self.endpoint.connections), 1)
        self.clock.advance(0.1)
        self.serve(None)
        self.serve(None)
        self.assertEqual(self.wire.value(), whole + REPLIES[b"STAT a"])


class SequenceTests(DyingCase):
    @settings(max_examples=120, deadline=None)
    @given(
        line=st.sampled_from(COMMANDS),
        deaths=st.lists(st.integers(REFUSED, 80), max_size=6),
        pieces=st.integers(1, 4),
        servers=st.integers(1, 3),
    )
    def test_any_order(self, line: bytes, deaths: list[int], pieces: int, servers: int) -> None:
        self.use_servers(servers)
        received = self.play(line, deaths, pieces)
        self.check(received)
        whole = passed_on(line)
        if received != whole:
            if received.startswith(b"ERR") and not whole.startswith(received):
                self.assertTrue(self.wire.open)
                self.assertEqual(received.count(b"\n"), 1)
            else:
                self.assertNotEqual(line, GET)
                self.assertTrue(whole.startswith(received))
                self.assertFalse(self.wire.open)
        if not self.wire.open:
            self.wire.lose(self.protocol)
            self.protocol, self.wire = self.new_client(43210)

    @settings(max_examples=60, deadline=None)
    @given(deaths=st.lists(st.integers(REFUSED, 80), max_size=5), steps=st.integers(0, 40))
    def test_client_that_goes_ends_everything_at_once(self, deaths: list[int], steps: int) -> None:
        self.events.clear()
        protocol, wire = self.new_client(43211)
        protocol.dataReceived(GET + b"\n")
        for death in deaths:
            if not self.serve(death):
                break
            self.clock.pump([0.1] * (steps % 8))
        before = len(self.endpoint.connections)
        wire.lose(protocol)
        self.assertEqual(len(self.table), 0)
        self.assertEqual([each.active for each in self.factory.resources.upstreams], [0] * self.n)
        self.served = len(self.endpoint.connections)
        self.clock.pump([1.0] * 40)
        self.assertEqual(len(self.endpoint.connections), before)
        ends = [event for event in self.events if isinstance(event, (Removed, Failed))]
        self.assertIsNot(ends[-1].outcome, Outcome.RETRIED)
        self.assertEqual(sum(event.outcome is not Outcome.RETRIED for event in ends), 1)


class LimitTests(DyingCase):
    def test_body_is_requested_for_the_whole_time(self) -> None:
        self.protocol.dataReceived(GET + b"\n")
        self.serve(70)
        begun = self.clock.seconds()
        while self.wire.open:
            self.clock.advance(0.05)
            self.serve(REFUSED)
        self.assertGreater(self.clock.seconds() - begun, 27)
        self.assertLessEqual(self.clock.seconds() - begun, 30)
        self.check(bytes(self.wire.value()))

    def test_server_that_hangs_is_not_waited_for_longer(self) -> None:
        self.protocol.dataReceived(GET + b"\n")
        self.serve(70)
        self.clock.advance(0.1)
        self.endpoint.last.accept()
        self.clock.advance(29.8)
        self.assertTrue(self.wire.open)
        self.clock.advance(0.2)
        self.assertFalse(self.wire.open)
        self.served += 1

    def test_body_of_a_later_attempt_takes_its_time(self) -> None:
        self.protocol.dataReceived(GET + b"\n")
        self.serve(0)
        self.clock.advance(0.1)
        upstream = self.endpoint.last
        upstream.accept()
        reply = reply_to(GET)
        for end in range(1, len(reply) - 10):
            upstream.send(reply[end - 1 : end])
            if b"\n" in reply[:end]:
                self.clock.advance(20)
        upstream.send(reply[len(reply) - 11 :])
        self.served += 1
        self.assertEqual(self.wire.value(), reply)
        self.check(reply)

    def test_single_server_that_refuses_is_reported_at_once(self) -> None:
        received = self.play(GET, [REFUSED])
        self.assertEqual(received, b"ERR 502 proxy error: the server refuses connections\n")
        self.check(received)

    def test_single_server_that_restarts_is_waited_for(self) -> None:
        received = self.play(GET, [0, REFUSED, REFUSED, REFUSED])
        self.assertEqual(received, reply_to(GET))
        self.check(received)

    def test_single_server_that_closes_twice_is_reported(self) -> None:
        received = self.play(b"FEAT", [0, 0])
        self.assertEqual(received, b"ERR 502 empty response from server\n")
        self.check(received)

    def test_command_that_each_server_dies_of_is_not_repeated_for_ever(self) -> None:
        self.use_servers(2)
        received = self.play(b"LIST", [0] * MOST_LOSSES)
        self.assertEqual(received, b"ERR empty response from server\n")
        self.check(received)

    def test_more_losses_than_servers(self) -> None:
        self.play(b"FEAT", [])
        for line in (b"LIST", GET):
            received = self.play(line, [0] * (MOST_LOSSES - 1))
            self.assertEqual(received, passed_on(line))
            self.check(received)

    def test_servers_that_refuse_are_waited_for_until_they_are_down(self) -> None:
        self.use_servers(2)
        upstreams = self.factory.resources.upstreams
        upstreams.set_health(Health(interval=1000, timeout=1000, failures=3))
        upstreams.start()
        self.addCleanup(upstreams.stop)
        self.clock.advance(0)
        self.served = len(self.endpoint.connections)
        self.protocol.dataReceived(GET + b"\n")
        refused = 0
        while self.serve(REFUSED):
            refused += 1
            self.clock.pump([0.0, *[0.1] * 21])
        self.assertEqual(refused, 6)
        self.assertIn(b"refuses connections", self.wire.value())

    def test_digest_is_not_repeated_after_five_seconds(self) -> None:
        for seconds, expected in ((4.9, True), (5.0, False)):
            self.served = len(self.endpoint.connections)
            self.protocol.dataReceived(b"HASH a\n")
            self.endpoint.last.accept()
            self.clock.advance(seconds)
            self.endpoint.last.die()
            self.served += 1
            self.clock.advance(0.1)
            self.assertIs(self.serve(None), expected)

    def test_unknown_verb_and_probe_are_not_repeated(self) -> None:
        for line in (b"WHO", b"VIA " + b"0" * 32):
            self.served = len(self.endpoint.connections)
            self.protocol.dataReceived(line + b"\n")
            self.endpoint.last.accept()
            self.endpoint.last.die()
            self.clock.advance(1)
            self.assertEqual(len(self.endpoint.connections), self.served + 1)

    def test_malformed_header_is_not_repeated(self) -> None:
        self.protocol.dataReceived(GET + b"\n")
        self.endpoint.last.accept()
        self.endpoint.last.send(b"OK abc\n")
        self.clock.advance(1)
        self.assertEqual(len(self.endpoint.connections), 1)
        self.assertTrue(self.wire.value().startswith(b"ERR 502 proxy error: malformed"))

    def test_other_server_is_tried_at_once(self) -> None:
        self.use_servers(2)
        self.protocol.dataReceived(GET + b"\n")
        self.serve(REFUSED)
        self.clock.advance(0)
        self.assertTrue(self.serve(70))
        self.clock.advance(0)
        self.assertTrue(self.serve(None))
        self.assertEqual(self.wire.value(), reply_to(GET))

    def test_busy_server_is_requested_again(self) -> None:
        self.protocol.dataReceived(GET + b"\n")
        self.serve(70)
        for reply in (b"ERR 503 busy\n", b"ERR 429 wait retry-after=7\n"):
            self.clock.advance(0.4)
            self.endpoint.last.accept()
            self.endpoint.last.send(reply)
            self.served += 1
        self.clock.advance(6.9)
        self.assertFalse(self.serve(None))
        self.clock.advance(0.2)
        self.assertTrue(self.serve(None))
        self.assertEqual(self.wire.value(), reply_to(GET))


class DownloadTests(DyingCase):
    def setUp(self) -> None:
        super().setUp()
        self.play(b"FEAT", [])

    def download(self, replies: list[bytes], line: bytes = b"DOWNLOAD a") -> list[bytes]:
        """Send a DOWNLOAD, reply to each attempt, and return what the upstreams received."""
        self.wire.clear()
        self.protocol.dataReceived(line + b"\n")
        received = []
        for reply in replies:
            upstream = self.endpoint.last
            upstream.accept()
            received.append(upstream.wire.taken())
            upstream.send(reply)
            self.clock.advance(0.1)
        self.served = len(self.endpoint.connections)
        return received

    def test_death_at_every_byte(self) -> None:
        whole = REPLIES[b"DOWNLOAD a"]
        header = header_of(GET, reply_to(GET))
        for death in range(header, len(reply_to(GET))):
            received = self.play(b"DOWNLOAD a", [death])
            self.check(received)
            self.assertEqual(received, whole, death)
            self.assertEqual({event.command.verb for event in self.events}, {b"DOWNLOAD"})

    def test_upstream_receives_a_get(self) -> None:
        received = self.download([reply_to(GET)], b"download a b%")
        self.assertEqual(received, [b"GET a%20b%25\n"])
        self.assertEqual(self.wire.value(), REPLIES[b"DOWNLOAD a"])

    def test_errors_are_those_of_version_1(self) -> None:
        for reply, expected in (
            (b"ERR 404 file not found\n", b"ERR file not found\n"),
            (b"ERR 502 proxy error: no\n", b"ERR proxy error: no\n"),
            (b"ERR 429 wait retry-after=3\n", b"ERR wait retry-after=3\n"),
        ):
            self.download([reply])
            self.assertEqual(self.wire.value(), expected)

    def test_each_try_decides_by_its_upstream(self) -> None:
        # Whatever has been lost before, the next body can be continued.
        for deaths in ([0], [0, REFUSED, 0, 60], [70, 0]):
            self.use_servers(2)
            for each in self.factory.resources.upstreams:
                each.abilities = VERSION_2
            for last in (60, 70):
                received = self.play(b"DOWNLOAD a", [*deaths, last])
                self.check(received)
                self.assertEqual(received, REPLIES[b"DOWNLOAD a"])

    def test_server_that_closes_on_a_get_twice_receives_the_download(self) -> None:
        self.protocol.dataReceived(b"DOWNLOAD a\n")
        for expected in (b"GET a\n", b"GET a\n", b"DOWNLOAD a\n"):
            self.endpoint.last.accept()
            self.assertEqual(self.endpoint.last.wire.taken(), expected)
            if expected.startswith(b"GET"):
                self.endpoint.last.die()
            self.clock.advance(0.2)
        self.endpoint.last.send(REPLIES[b"DOWNLOAD a"])
        self.served = len(self.endpoint.connections)
        self.assertTrue(self.wire.value().endswith(REPLIES[b"DOWNLOAD a"]))
        self.assertEqual(self.download([b"OK 0\n"]), [b"DOWNLOAD a\n"])

    def test_server_without_get_receives_the_download(self) -> None:
        for refusal in (b"ERR unknown command\n", b"ERR 403 forbidden\n"):
            self.play(b"FEAT", [])
            received = self.download([refusal, REPLIES[b"DOWNLOAD a"]])
            self.assertEqual(received, [b"GET a\n", b"DOWNLOAD a\n"])
            self.assertEqual(self.wire.value(), REPLIES[b"DOWNLOAD a"])
            self.assertEqual(self.download([b"OK 0\n"]), [b"DOWNLOAD a\n"])

    def test_nothing_is_rewritten_without_resumption(self) -> None:
        self.factory.resources.retries.resume_for = 0.0
        self.assertEqual(self.download([b"OK 0\n"]), [b"DOWNLOAD a\n"])

    def test_name_that_get_has_another_meaning_for(self) -> None:
        for name in (b".", b"x" * 4096):
            line = b"DOWNLOAD " + name
            self.assertEqual(self.download([b"OK 0\n"], line), [line + b"\n"])


class LogTests(DyingCase):
    def logged(self, least: LogLevel) -> list[str]:
        """Return the lines of a level, and above, without those about a command's end."""
        events = [event for event in self.journal.events if "outcome" not in event]
        return [formatEvent(event) for event in events if event["log_level"] >= least]

    def test_one_line_when_it_is_interrupted_and_one_when_it_goes_on(self) -> None:
        for line, deaths in (
            (b"LIST", [0]),
            (b"LIST", [0, REFUSED, REFUSED, REFUSED]),
            (GET, [70, REFUSED, REFUSED]),
        ):
            self.journal.events.clear()
            self.play(line, deaths)
            first, last = self.logged(LogLevel.info)
            self.assertRegex(first, "is tried again: upstream: empty|failed inside a reply")
            self.assertRegex(last, "is executed by upstream|continues at byte")
            self.assertEqual(len(self.logged(LogLevel.debug)), 1 + len(deaths))

    def test_command_that_fails(self) -> None:
        self.play(b"LIST", [0] * MOST_LOSSES)
        self.journal.line_with("has failed, and is not tried again: empty response from server")

    def test_command_whose_time_is_over_between_two_attempts(self) -> None:
        self.play(b"LIST", [0])
        self.journal.events.clear()
        self.protocol.dataReceived(b"LIST\n")
        self.serve(0)
        for _ in range(700):
            if not self.protocol.factory.table.waiting:
                break
            self.clock.advance(0.1)
        first, last = self.logged(LogLevel.info)
        self.assertIn("is tried again", first)
        self.assertIn("is not tried again", last)

    def test_single_attempt(self) -> None:
        self.play(b"LIST", [REFUSED])
        self.journal.line_with("cannot connect to the upstream for 127.0.0.1:43210: the server")


class KillTests(DyingCase):
    def setUp(self) -> None:
        super().setUp()
        ring = EventRing(self.table, Origin("a", 0, "b"))
        self.records = LocalTable(self.table, ring, self.clock.seconds)

    def test_kill_between_two_attempts(self) -> None:
        self.protocol.dataReceived(GET + b"\n")
        self.serve(70)
        self.assertEqual([*self.records.records()], [])
        (record,) = self.records.waiting()
        self.assertEqual((record.serial, record.outcome), (1, "retried"))
        self.assertEqual(len(self.records.kill([record], "by a test")), 1)
        self.assertFalse(self.wire.open)
        self.assertEqual(self.records.waiting(), [])
        self.check(bytes(self.wire.value()))
        last = self.events[-1]
        assert isinstance(last, Failed)
        self.assertEqual((last.outcome, last.reason), (Outcome.KILLED, "by a test"))
        self.clock.advance(40)
        self.assertEqual(len(self.endpoint.connections), 1)

    def test_kill_of_a_command_by_the_record_of_an_earlier_attempt(self) -> None:
        self.protocol.dataReceived(GET + b"\n")
        self.endpoint.last.accept()
        (record,) = self.records.records()
        self.endpoint.last.send(reply_to(GET)[:70])
        self.endpoint.last.die()
        self.clock.advance(0.1)
        self.assertEqual(len(self.records.waiting()), 1)
        self.endpoint.last.accept()
        self.assertEqual(self.records.waiting(), [])
        (killed,) = self.records.kill([record], "by a test")
        self.assertEqual((killed.command, killed.attempt, killed.serial), (1, 2, 2))
        self.assertFalse(self.wire.open)
        self.served = 2


class ClockTests(DyingCase):
    def test_clocks_of_the_client_stand_still(self) -> None:
        self.factory.bodies.change(10.0)
        self.protocol.dataReceived(GET + b"\n")
        self.serve(70)
        self.wire.fill()
        self.protocol.idle_expired()
        self.clock.pump([0.1] * 250)
        self.assertTrue(self.wire.open)
        self.wire.empty()
        self.served = len(self.endpoint.connections) - 1
        self.assertTrue(self.serve(60))
        self.assertTrue(self.wire.open)
        self.clock.pump([0.1] * 21)
        self.assertTrue(self.serve(None))
        self.assertEqual(self.wire.value(), reply_to(GET))

    def test_time_of_the_body_runs_on_afterwards(self) -> None:
        self.factory.bodies.change(10.0)
        self.protocol.dataReceived(GET + b"\n")
        self.serve(70)
        self.clock.advance(0.1)
        self.clock.pump([0.1] * 40)
        upstream = self.endpoint.last
        upstream.accept()
        line = upstream.wire.taken()
        upstream.send(reply_to(line.removesuffix(b"\n"))[:-1])
        self.served = len(self.endpoint.connections)
        self.clock.pump([0.1] * 99)
        self.assertTrue(self.wire.open)
        self.clock.pump([0.1] * 3)
        self.assertFalse(self.wire.open)


class TableTests(DyingCase):
    def test_every_state_can_end(self) -> None:
        for state in set(State) - {State.ENDED}:
            self.assertIn(State.ENDED, TRANSITIONS[state].values())

    def test_ended_command_has_no_events(self) -> None:
        for event in TRANSITIONS[State.QUEUED]:
            with self.assertRaises(IllegalTransition):
                TRANSITIONS[State.ENDED][event]

    def test_documentation_shows_the_table(self) -> None:
        diagram = state_diagram(TRANSITIONS, State.QUEUED)
        self.assertIn(diagram, documented_diagrams(), f"generated:\n{diagram}")
