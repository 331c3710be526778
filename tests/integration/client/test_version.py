"""How a session finds out which version of the protocol the server speaks."""

from __future__ import annotations

import threading
from collections.abc import Callable

from natproxy.client import (
    Address,
    CannotConnect,
    ConnectionBroken,
    Interrupted,
    NotUnderstood,
    ServerError,
    Session,
    Unavailable,
    Unsupported,
)
from natproxy.client.version import Features
from natproxy.protocol import abilities
from tests.support.answering_server import Version2
from tests.support.blocking_sessions import FILES, SessionCase
from tests.support.scripted_server import Scene, ScriptedServer

FEAT = b"OK\n" + abilities() + b"END\n"
LISTED = (b"LIST\n", b"OK\na\nEND\n")


class VersionTests(SessionCase):
    def play(self, *scenes: Scene, linger: bool = False, timeout: float = 10) -> Session:
        """Return a session with a server that plays the scenes."""
        self.played = ScriptedServer(*scenes, linger=linger)
        session = Session(Address("127.0.0.1", self.played.port), timeout)
        self.addCleanup(self.played.close)
        self.addCleanup(session.close)
        return session

    def assert_version_1(self, session: Session) -> None:
        """Check that the version is found out once, and that the session works."""
        for _ in range(2):
            self.assertEqual(session.version, 1)
            self.assertEqual(list(session.list()), [b"a"])

    def test_version_follows_from_the_reply(self) -> None:
        for lines, version in (
            (abilities(), 2),
            (b"NATPROXY 2\n", 2),
            (b"NATPROXY 2\r\nGET\r\n", 2),
            (b"NATPROXY 2 and more\nNEW thing\n", 2),
            (b"NATPROXY 1\n", 1),
            (b"NATPROXY 20\n", 1),
            (b"GET\nNATPROXY 2\n", 1),
            (b"\n", 1),
            (b"", 1),
        ):
            session = self.serve(lambda line, lines=lines: b"OK\n" + lines + b"END\n")  # type: ignore[misc]
            self.assertEqual((session.version, session.version), (version, version), lines)
            self.assertEqual(self.server.lines, [b"FEAT"])
            self.assertEqual(self.server.connections, 1)

    def test_reply_that_is_none_of_version_2_means_version_1(self) -> None:
        for error in (
            b"ERR unknown command\n",
            b"ERR file not found\n",
            b"ERR\n",
        ):
            self.assert_version_1(self.play([(b"FEAT\n", error), LISTED, LISTED]))
            self.assert_version_1(self.play([(b"FEAT\n", error)], [LISTED], [LISTED]))

    def test_garbage_means_version_1(self) -> None:
        for garbage in (b"hello\n", b"\0" * 20_000, b"OK 5\nhello", b"OK\n" + b"x" * 20_000):
            self.assert_version_1(self.play([(b"FEAT\n", garbage)], [LISTED], [LISTED]))

    def test_listing_of_other_lines_means_version_1_before_its_end(self) -> None:
        self.assert_version_1(self.play([(b"FEAT\n", b"OK\na\n")], [LISTED], [LISTED]))

    def test_peer_that_twice_closes_and_replies_to_list_is_of_version_1(self) -> None:
        for part in (b"", b"OK", b"ERR empty response from server\n"):
            closing = [(b"FEAT\n", part)]
            self.assert_version_1(self.play(closing, [LISTED], closing, [LISTED], *[[LISTED]] * 2))

    def test_malformed_reply_that_a_proxy_reports_twice_means_version_1(self) -> None:
        for text in (
            b"ERR proxy error: malformed reply header 'what?'\n",
            b"ERR 502 malformed reply header 'what?'\n",
            b"ERR 502 proxy error: reply header too long\n",
            b"ERR 502 empty response from server\n",
        ):
            session = self.play([(b"FEAT\n", text), LISTED] * 2 + [LISTED] * 2)
            self.assert_version_1(session)
            self.assertEqual(self.played.received.count(b"FEAT"), 2)

    def test_feat_is_sent_again_after_one_close(self) -> None:
        for part in (b"", b"OK", b"ERR empty response from server\n"):
            session = self.play([(b"FEAT\n", part)], [LISTED], [(b"FEAT\n", FEAT)])
            self.assertEqual(session.version, 2)

    def test_peer_that_closes_without_replying_to_list_is_a_temporary_failure(
        self,
    ) -> None:
        lack = b"ERR proxy error: the server refuses connections\n"
        session = self.play(
            [(b"FEAT\n", b"")],
            [(b"LIST\n", lack)],
            [(b"FEAT\n", b"")],
            [(b"LIST\n", b"")],
            [(b"FEAT\n", FEAT)],
        )
        for _ in range(2):
            error = self.assertRaises(ConnectionBroken, lambda: session.version)
            self.assertTrue(error.passing)
        self.assertEqual(session.version, 2)

    def test_reply_that_breaks_off_is_a_passing_failure(self) -> None:
        for part in (b"OK\nNATPR", b"OK\nNATPROXY 2\nGET off"):
            session = self.play([(b"FEAT\n", part)], [(b"FEAT\n", FEAT)])
            self.assertRaises(ConnectionBroken, lambda: session.version)  # noqa: B023
            self.assertEqual(session.version, 2)

    def test_silence_is_a_passing_failure(self) -> None:
        for part in (b"", b"OK", b"OK\nNATPROXY 2\nGET off"):
            session = self.play([(b"FEAT\n", part)], [(b"FEAT\n", FEAT)], linger=True, timeout=0.1)
            error = self.assertRaises(ConnectionBroken, lambda: session.version)  # noqa: B023
            self.assertTrue(error.passing)
            self.played.close_current()
            session.timeout = 10
            self.assertEqual(session.version, 2)

    def test_error_with_a_code_and_an_error_of_the_proxy_are_not_remembered(self) -> None:
        for reply in (
            b"ERR 502 x\n",
            b"ERR 503 x\n",
            b"ERR 504 x\n",
            b"ERR 429 x\n",
            b"ERR proxy error: the server was silent for 1 s\n",
            b"ERR proxy error: the server refuses connections\n",
        ):
            session = self.play([(b"FEAT\n", reply), (b"FEAT\n", FEAT)])
            error = self.assertRaises(Unavailable, lambda: session.version)  # noqa: B023
            self.assertTrue(error.passing)
            self.assertEqual(session.version, 2)
        for reply in (b"ERR 403 x\n", b"ERR 404 file not found\n", b"ERR 500 x\n"):
            session = self.play([(b"FEAT\n", reply), (b"FEAT\n", FEAT)])
            self.assertRaises(ServerError, lambda: session.version)  # noqa: B023
            self.assertEqual(session.version, 2)

    def test_listing_without_an_end_is_not_held_in_memory(self) -> None:
        endless = b"OK\nNATPROXY 2\n" + b"GET\n" * 10**6
        session = self.serve(lambda line: endless)
        error = self.assertRaises(NotUnderstood, lambda: session.version)
        self.assertIn("a reply to FEAT of more than 1048576 bytes", str(error))

    def test_endless_reply_to_feat_fails_after_the_time_out(self) -> None:
        session = self.play([(b"FEAT\n", b"OK\nNATPROXY 2\n")], linger=True, timeout=0.1)
        self.assertRaises(ConnectionBroken, lambda: session.version)

    def test_features_are_parsed_and_unknown_lines_ignored(self) -> None:
        listing = b"NATPROXY 2\nGET offset length\n\nVIA natproxy/2.1\nVIA\nVIA x/3 y\n"
        session = self.serve(lambda line: b"OK\n" + listing + b"END\n")
        self.assertEqual(
            session.features,
            Features(2, {b"GET": frozenset((b"offset", b"length"))}, ("natproxy/2.1", "x/3")),
        )

    def test_error_of_the_proxy_leaves_the_version_unknown(self) -> None:
        failure = b"ERR proxy error: the server refuses connections\n"
        session = self.play([(b"FEAT\n", failure), (b"FEAT\n", FEAT)])
        error = self.assertRaises(Unavailable, lambda: session.version)
        self.assertEqual(str(error), "proxy error: the server refuses connections")
        self.assertEqual(session.version, 2)

    def test_text_of_a_server_that_is_not_understood_is_no_failure_of_the_proxy(self) -> None:
        session = self.play([(b"FEAT\n", b"proxy error: x\n")], [LISTED, LISTED])
        self.assert_version_1(session)

    def test_failed_connect_leaves_the_version_unknown(self) -> None:
        session = self.play([])
        self.played.close()
        self.assertRaises(CannotConnect, lambda: session.version)

    def test_feat_is_sent_once_for_many_threads(self) -> None:
        session = self.serve(Version2(dict(FILES)))
        versions: list[int] = []
        threads = [
            threading.Thread(target=lambda: versions.append(session.version)) for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        self.assertEqual(versions, [2] * 10)
        self.assertEqual(self.server.lines, [b"FEAT"])

    def test_interrupt_ends_the_waits_of_all_threads_for_it(self) -> None:
        received = threading.Event()
        released = threading.Event()
        self.addCleanup(released.set)

        def answer(line: bytes) -> bytes:
            received.set()
            released.wait(10)
            return b""

        session = self.serve(answer, timeout=1000)
        ended: list[Exception] = []
        begun = threading.Barrier(4, timeout=10)

        def ask() -> None:
            begun.wait()
            try:
                session.stat("a")
            except Interrupted as error:
                ended.append(error)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        begun.wait()
        received.wait(10)
        for thread in threads:
            while thread.is_alive():
                session.interrupt()
                thread.join(0.05)
        released.set()
        self.assertEqual(len(ended), 3)

    def test_page_without_words_in_its_header_leaves_the_doubt(self) -> None:
        # A proxy of version 1 passes it on, and closes the connection on other headers.
        version2 = Version2(dict(FILES))

        def answer(line: bytes) -> bytes:
            reply = version2(line)
            return b"" if len(reply.split(b"\n")[0].split()) > 2 else reply

        session = self.serve(answer)
        self.assertEqual(len(list(session.walk())), len(FILES))
        self.assertRaises(Unsupported, session.stat, "a")
        self.assertEqual(session.version, 1)

    def test_time_out_of_feat_does_not_limit_later_replies(self) -> None:
        session = self.serve(Version2(dict(FILES)))
        self.assertEqual(session.version, 2)
        with session.connection() as connection:
            self.assertIsNone(connection.deadline)


class NeedsTests(SessionCase):
    def test_message_names_what_version_1_cannot_do(self) -> None:
        session = self.serve(lambda line: b"ERR unknown command\n")
        asked: list[tuple[Callable[[], object], str]] = [
            (lambda: list(session.ls()), "list more than the served directory's files"),
            (lambda: list(session.walk("a")), "list more than the served directory's files"),
            (lambda: session.stat("a"), "report a file's size and time"),
            (lambda: session.open("a"), "report a file's size and time"),
            (lambda: session.hash("a"), "compute digests"),
            (lambda: session.read("a"), "send a part of a file"),
        ]
        for ask, what in asked:
            error = self.assertRaises(Unsupported, ask)
            self.assertEqual(
                str(error),
                f"{self.server.server_address} speaks version 1 of the protocol only:"
                f" it cannot {what}",
            )
        # The first command is in the same write as FEAT: the server may still be reading it.
        self.server.close()
        self.assertEqual(self.server.lines, [b"FEAT", b"LS"])


class DoubtTests(SessionCase):
    """A proxy of version 1 that relays ``FEAT``, and closes on a header with words in it."""

    def verbs(self, session: Session) -> tuple[tuple[bytes, Callable[[], object]], ...]:
        return (
            (b"STAT", lambda: session.stat("a")),
            (b"HASH", lambda: session.hash("a")),
            (b"GET", lambda: session.read("a")),
        )

    def serve_doubtful(self, *failing: bytes, via: bool = False) -> Session:
        """Return a session with a server that sends these replies in turn, then good ones."""
        version2 = Version2(dict(FILES))
        replies = list(failing)

        def answer(line: bytes) -> bytes:
            if line == b"FEAT" and via:
                return FEAT.replace(b"END\n", b"VIA natproxy/2.1\nEND\n")
            if line in (b"FEAT", b"LIST"):
                return version2(line)
            return replies.pop(0) if replies else version2(line)

        return self.serve(answer)

    def test_peer_that_twice_closes_on_a_verb_and_replies_to_list_is_of_version_1(self) -> None:
        for number in range(3):
            session = self.serve_doubtful(b"", b"", b"")
            verb, ask = self.verbs(session)[number]
            self.assertRaises(Unsupported, ask)
            self.assertEqual(session.version, 1)
            words = [line.split()[0] for line in self.server.lines]
            # The first is repeated, since it was sent on the connection of ``FEAT``.
            self.assertEqual(words, [b"FEAT", verb, verb, b"LIST", verb, b"LIST"])

    def test_one_closed_connection_is_no_proof(self) -> None:
        for failures in ((b"", b""), (b"ERR empty response from server\n",)):
            for number in range(3):
                session = self.serve_doubtful(*failures)
                self.verbs(session)[number][1]()
                self.assertEqual(session.version, 2)

    def test_server_with_a_reply_of_version_2_is_not_doubted(self) -> None:
        session = self.serve_doubtful()
        self.assertEqual(session.stat("a").size, 5)
        self.server._reply = lambda line: b""
        self.assertRaises(ConnectionBroken, session.stat, "a")
        self.assertEqual(session.version, 2)
        self.assertNotIn(b"LIST", self.server.lines)

    def test_proxy_of_version_2_is_not_doubted(self) -> None:
        failure = b"ERR 502 empty response from server\n"
        session = self.serve_doubtful(failure, failure, via=True)
        self.assertEqual(session.version, 2)
        self.assertRaises(Unavailable, session.stat, "a")
        self.assertRaises(Unavailable, session.stat, "a")
        self.assertEqual(session.stat("a").size, 5)
        self.assertNotIn(b"LIST", self.server.lines)
