"""Requests that a blocking session sends before it has received earlier replies."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

from natproxy.client import (
    Address,
    ClientError,
    ConnectionBroken,
    Interrupted,
    NotFound,
    NotUnderstood,
    Session,
    Unsupported,
    UsageError,
)
from natproxy.client.errors import ClosedWithoutReply
from natproxy.client.requests import Get, Pack, Request, Stat
from natproxy.protocol import Entry, PackRecord, abilities, format_packed
from tests.support.answering_server import Version2, metadata_of
from tests.support.blocking_sessions import FILES, SessionCase
from tests.support.scripted_server import Scene, ScriptedServer

REPLY = Version2(dict(FILES))
FEAT = (b"FEAT\n", b"OK\n" + abilities() + b"END\n")


def answered(line: bytes) -> tuple[bytes, bytes]:
    """Return a line and its reply, for a scene."""
    return line + b"\n", REPLY(line)


def together(*lines: bytes) -> tuple[bytes, bytes]:
    """Return lines that have to arrive before the reply to the first of them is sent."""
    return b"".join(line + b"\n" for line in lines), b"".join(map(REPLY, lines))


STAT_A = answered(b"STAT a")


class PipelineCase(SessionCase):
    def play(self, *scenes: Scene, linger: bool = False, timeout: float = 10) -> Session:
        """Return a session with a server that plays the scenes."""
        self.played = ScriptedServer(*scenes, linger=linger)
        session = Session(Address("127.0.0.1", self.played.port), timeout)
        self.addCleanup(self.played.close)
        self.addCleanup(session.close)
        return session

    def confirmed(self, *scenes: Scene, linger: bool = False, timeout: float = 10) -> Session:
        """Return a session that knows its server to speak version 2, with an idle connection."""
        first, *others = scenes
        session = self.play([FEAT, STAT_A, *first], *others, linger=linger, timeout=timeout)
        session.stat("a")
        return session


class OrderTests(PipelineCase):
    def test_commands_are_sent_before_the_reply_to_the_first(self) -> None:
        lines = [b"GET a", b"GET b%20c", b"GET a"]
        session = self.confirmed([together(*lines)])
        results = list(session.pipeline([Get("a"), Get("b c"), Get("a")], ahead=3))
        self.assertEqual([result for _, result in results], [b"the a", b"", b"the a"])

    def test_no_more_commands_are_ahead_than_allowed(self) -> None:
        session = self.confirmed([together(b"GET a", b"GET a"), *[answered(b"GET a")] * 3])
        taken = 0

        def requests() -> Iterator[Request[bytes]]:
            nonlocal taken
            for _ in range(5):
                taken += 1
                yield Get("a")

        for number, (_, result) in enumerate(session.pipeline(requests()), 1):
            self.assertEqual(result, b"the a")
            self.assertLessEqual(taken, number + 1)
        self.assertEqual(taken, 5)

    def test_replies_in_pieces_belong_to_their_commands(self) -> None:
        lines = [b"GET s/%FF%0A", b"STAT nothing", b"GET b%20c", b"GET a"]
        replies = b"".join(map(REPLY, lines))
        for size in (1, 7, 100, len(replies)):
            pieces = [replies[at : at + size] for at in range(0, len(replies), size)]
            scene = [(b"GET a\n", pieces[0]), *((b"", piece) for piece in pieces[1:])]
            session = self.confirmed(scene)
            requests: list[Request[object]] = [Get(b"s/\xff\n"), Stat("nothing"), Get("b c")]
            results = [result for _, result in session.pipeline([*requests, Get("a")], ahead=4)]
            self.assertEqual([results[0], *results[2:]], [FILES[b"s/\xff\n"], b"", b"the a"])
            self.assertIsInstance(results[1], NotFound)

    def test_connection_is_used_again_afterwards(self) -> None:
        session = self.confirmed([together(b"GET a", b"GET a"), answered(b"GET b%20c")])
        self.assertEqual(len(list(session.pipeline([Get("a"), Get("a")]))), 2)
        self.assertEqual(session.read("b c"), b"")

    def test_request_may_depend_on_an_earlier_result(self) -> None:
        session = self.serve_files()
        found: list[bytes] = []

        def requests() -> Iterator[Request[bytes]]:
            yield Get("a")
            while len(found) < 3:
                yield Get("a", offset=len(found))

        for _, result in session.pipeline(requests(), ahead=1):
            assert isinstance(result, bytes)
            found.append(result)
        self.assertEqual(found, [b"the a", b"he a", b"e a"])

    def test_no_request_needs_no_connection(self) -> None:
        session = self.serve_files()
        self.assertEqual(list(session.pipeline([])), [])
        self.assertEqual(self.server.lines, [])


class SingleTests(PipelineCase):
    """A command that the peer may be unable to parse is sent alone."""

    def test_nothing_follows_the_first_command_of_version_2(self) -> None:
        session = self.play([FEAT], [STAT_A, together(b"STAT a", b"STAT a")])
        taken: list[bytes] = []
        names = iter([b"a", b"a", b"a"])

        def requests() -> Iterator[Request[object]]:
            for name in names:
                taken.append(name)
                yield Stat(name)

        results = session.pipeline(requests(), ahead=3)
        next(results)
        self.assertEqual(len(taken), 1)
        self.assertEqual(len(list(results)), 2)

    def test_server_of_version_1_is_detected(self) -> None:
        session = self.serve(lambda line: b"ERR unknown command\n")
        ((_, result),) = session.pipeline([Stat("a")])
        self.assertIsInstance(result, Unsupported)
        self.assertEqual(session.version, 1)

    def test_peer_that_closes_on_version_2_is_detected(self) -> None:
        closing = [(b"STAT a\n", b"")]
        listed = [(b"LIST\n", b"OK\nEND\n")]
        session = self.play([FEAT], closing, listed, closing, listed)
        ((_, result),) = session.pipeline([Stat("a")])
        self.assertIsInstance(result, Unsupported)


def packed(*names: bytes) -> bytes:
    """Return the reply to ``PACK`` with these names."""
    body = b"".join(
        format_packed(Entry(name, metadata_of(FILES[name]))) + FILES[name] for name in names
    )
    return b"OK %d\n%b" % (len(body), body)


class OptionalTests(PipelineCase):
    """A verb that a server of version 2, or a proxy before it, may lack."""

    def data_of(self, result: list[PackRecord] | ClientError) -> list[bytes]:
        assert isinstance(result, list), result
        return [bytes(record.data) for record in result]

    def test_first_use_on_a_connection_is_alone_and_the_next_ones_are_not(self) -> None:
        pack = b"PACK a\n"
        session = self.confirmed([(pack, packed(b"a")), (pack * 2, packed(b"a") * 2)])
        results = session.pipeline([Pack(["a"])] * 3, ahead=2)
        self.assertEqual([self.data_of(result) for _, result in results], [[b"the a"]] * 3)

    def test_first_use_waits_for_earlier_replies(self) -> None:
        session = self.confirmed([answered(b"GET a"), (b"PACK a\n", packed(b"a")), STAT_A])
        requests: list[Request[object]] = [Get("a"), Pack(["a"]), Stat("a")]
        taken = 0

        def take() -> Iterator[Request[object]]:
            nonlocal taken
            for request in requests:
                taken += 1
                yield request

        seen = [taken for _ in session.pipeline(take(), ahead=3)]
        # Nothing is taken while the second request is alone.
        self.assertEqual(seen, [2, 2, 3])

    def test_malformed_reply_withdraws_the_verb(self) -> None:
        pack = b"PACK a\n"
        good, bad = packed(b"a"), packed(b"b c")
        session = self.confirmed([(pack, good), (pack * 2, good + bad)], [answered(b"GET a")])
        results = session.pipeline([Pack(["a"])] * 4)
        self.assertEqual(self.data_of(next(results)[1]), [b"the a"])
        self.assertEqual(self.data_of(next(results)[1]), [b"the a"])
        self.assertRaises(Unsupported, next, results)
        self.assertFalse(session.offers(b"PACK"))
        requests: list[Request[object]] = [Pack(["a"]), Get("a")]
        first, second = (result for _, result in session.pipeline(requests))
        self.assertIsInstance(first, Unsupported)
        self.assertEqual(second, b"the a")
        self.assertEqual(self.played.received.count(b"PACK"), 3)

    def test_verb_that_is_refused_is_a_result(self) -> None:
        session = self.confirmed([(b"PACK a\n", b"ERR unknown command\n"), answered(b"GET a")])
        requests: list[Request[object]] = [Pack(["a"]), Pack(["a"]), Get("a")]
        first, second, third = (result for _, result in session.pipeline(requests))
        self.assertIsInstance(first, Unsupported)
        self.assertIsInstance(second, Unsupported)
        self.assertEqual(third, b"the a")
        self.assertEqual(self.played.received.count(b"PACK"), 1)

    def test_loss_after_a_good_reply_does_not_withdraw_the_verb(self) -> None:
        pack = b"PACK a\n"
        cut = packed(b"a")[:-1]
        session = self.confirmed([(pack, packed(b"a")), (pack * 2, cut)], [(pack, packed(b"a"))])
        results = session.pipeline([Pack(["a"])] * 3)
        next(results)
        self.assertRaises(ConnectionBroken, next, results)
        self.assertEqual(
            [self.data_of(each) for _, each in session.pipeline([Pack(["a"])])], [[b"the a"]]
        )


class FailureTests(PipelineCase):
    def test_name_that_cannot_be_sent_is_a_result_in_its_place(self) -> None:
        session = self.confirmed([together(b"GET a", b"GET a")])
        requests = [Get("a"), Get(b"x" * 20_000), Get("a")]
        first, second, third = (result for _, result in session.pipeline(requests, ahead=3))
        self.assertEqual((first, third), (b"the a", b"the a"))
        self.assertIsInstance(second, UsageError)

    def test_reused_connection_that_is_lost_is_replaced_once(self) -> None:
        # Nothing is received: all commands are sent again.
        session = self.confirmed([(b"GET a\nGET b%20c\n", b"")], [together(b"GET a", b"GET b%20c")])
        results = [result for _, result in session.pipeline([Get("a"), Get("b c")])]
        self.assertEqual(results, [b"the a", b""])

    def test_commands_after_a_reply_are_sent_again_if_none_of_theirs_was_received(self) -> None:
        session = self.confirmed(
            [(b"GET a\nGET b%20c\n", REPLY(b"GET a"))], [answered(b"GET b%20c")]
        )
        results = [result for _, result in session.pipeline([Get("a"), Get("b c")])]
        self.assertEqual(results, [b"the a", b""])
        self.assertEqual(self.played.received.count(b"GET a\n"), 1)

    def test_loss_inside_a_reply_is_raised_and_the_rest_not_yielded(self) -> None:
        cut = REPLY(b"GET a")[:-1]
        session = self.confirmed([(b"GET a\nGET a\n", REPLY(b"GET a") + cut)], [])
        results = session.pipeline([Get("a"), Get("a")])
        self.assertEqual(next(results)[1], b"the a")
        self.assertRaises(ConnectionBroken, next, results)
        self.assertRaises(StopIteration, next, results)

    def test_new_connection_that_is_lost_is_not_replaced(self) -> None:
        session = self.confirmed([(b"GET a\nGET a\n", b"")], [(b"GET a\nGET a\n", b"")], [])
        self.assertRaises(ClosedWithoutReply, list, session.pipeline([Get("a"), Get("a")]))

    def test_malformed_reply_is_raised_and_closes_the_connection(self) -> None:
        session = self.confirmed([(b"GET a\nGET a\n", b"OK what\n" + REPLY(b"GET a"))], [STAT_A])
        self.assertRaises(NotUnderstood, list, session.pipeline([Get("a"), Get("a")]))
        self.assertEqual(session.stat("a").size, 5)

    def test_reply_to_another_command_is_malformed(self) -> None:
        session = self.confirmed([(b"GET a if-match=x\n", REPLY(b"GET b%20c"))])
        self.assertRaises(NotUnderstood, list, session.pipeline([Get("a", if_match="x")]))

    def test_surplus_after_the_last_reply_closes_the_connection(self) -> None:
        session = self.confirmed([(b"GET a\n", REPLY(b"GET a") + b"more")], [STAT_A])
        self.assertEqual([result for _, result in session.pipeline([Get("a")])], [b"the a"])
        self.assertEqual(session.stat("a").size, 5)

    def test_iterator_that_is_closed_discards_outstanding_replies(self) -> None:
        session = self.confirmed([together(b"GET a", b"GET b%20c")], [STAT_A])
        results = session.pipeline([Get("a"), Get("b c")])
        next(results)
        results.close()  # type: ignore[attr-defined]
        self.assertEqual(session.stat("a").size, 5)

    def test_silence_ends(self) -> None:
        session = self.confirmed([], [(b"GET a\n", b"")], linger=True, timeout=0.1)
        self.played.close_current()
        error = self.assertRaises(ConnectionBroken, list, session.pipeline([Get("a"), Get("a")]))
        self.assertIn("silent for 0.1 s", str(error))


class InterruptionTests(PipelineCase):
    def test_interrupt_ends_the_wait_for_a_reply(self) -> None:
        received = threading.Event()

        def reply(line: bytes) -> bytes:
            if line == b"GET a":
                received.set()
                released.wait(10)
            return REPLY(line)

        released = threading.Event()
        session = self.serve(reply)
        self.addCleanup(released.set)
        raised: list[ClientError] = []

        def run() -> None:
            try:
                list(session.pipeline([Get("a"), Get("a")]))
            except ClientError as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        self.assertTrue(received.wait(10))
        session.interrupt()
        thread.join(10)
        self.assertEqual([type(error) for error in raised], [Interrupted])


class BackpressureTests(PipelineCase):
    def test_server_that_reads_nothing_while_it_writes_stops_neither_side(self) -> None:
        # Commands and replies each exceed what both kernels hold.
        content = bytes(200_000)
        names = [b"x" * 12_000 + b"%d" % number for number in range(120)]
        version2 = Version2(dict.fromkeys(names, content))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

            def serve() -> None:
                accepted, _ = listener.accept()
                accepted.settimeout(20)
                with accepted, accepted.makefile("rb") as lines:
                    for line in lines:
                        accepted.sendall(version2(line.rstrip(b"\n")))

            thread = threading.Thread(target=serve)
            thread.start()
            with Session(Address("127.0.0.1", listener.getsockname()[1]), 20) as session:
                session.stat(names[0])
                with session.connection() as connection:
                    assert connection._socket is not None
                    connection._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                requests = [Get(name) for name in names]
                results = [result for _, result in session.pipeline(requests, ahead=120)]
            thread.join(10)
        self.assertEqual(
            [len(result) for result in results if isinstance(result, bytes)], [len(content)] * 120
        )
