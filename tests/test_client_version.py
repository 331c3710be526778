"""How a session finds out which version of the protocol the server speaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from natproxy import wire
from natproxy.client import CannotConnect, Server, Session, Unavailable, Unsupported
from natproxy.client import session as session_module
from tests.answering_server import Version2
from tests.played_server import PlayedServer, Scene
from tests.test_client_session import FILES, SessionCase

FEAT = b"OK\n" + wire.abilities() + b"END\n"
LISTED = (b"LIST\n", b"OK\na\nEND\n")


class VersionTests(SessionCase):
    def setUp(self) -> None:
        self.patch(session_module, "FEAT_TIMEOUT", 0.1)

    def play(self, *scenes: Scene, linger: bool = False) -> Session:
        """Give a session with a server that plays the scenes."""
        self.played = PlayedServer(*scenes, linger=linger)
        session = Session(Server("127.0.0.1", self.played.port), 10)
        self.addCleanup(self.played.close)
        self.addCleanup(session.close)
        return session

    def assert_version_1(self, session: Session) -> None:
        """See that it is found out once, and that the session works."""
        for _ in range(2):
            self.assertEqual(session.version, 1)
            self.assertEqual(list(session.list()), [b"a"])

    def test_answer_says_which(self) -> None:
        for lines, version in (
            (wire.abilities(), 2),
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

    def test_error_means_version_1(self) -> None:
        for error in (
            b"ERR unknown command\n",
            b"ERR file not found\n",
            b"ERR\n",
            b"ERR empty response from server\n",
            b"ERR proxy error: malformed reply header 'what?'\n",
            b"ERR proxy error: reply header too long\n",
            b"ERR proxy error: the server was silent for 1 s\n",
        ):
            self.assert_version_1(self.play([(b"FEAT\n", error), LISTED, LISTED]))
            self.assert_version_1(self.play([(b"FEAT\n", error)], [LISTED], [LISTED]))

    def test_closed_connection_means_version_1(self) -> None:
        for part in (b"", b"OK", b"OK\nNATPROXY 2\n"):
            self.assert_version_1(self.play([(b"FEAT\n", part)], [LISTED], [LISTED]))

    def test_silence_and_half_an_answer_mean_version_1(self) -> None:
        for part in (b"", b"OK", b"OK\nNATPROXY 2\nGET off"):
            session = self.play([(b"FEAT\n", part)], [LISTED, LISTED], linger=True)
            began = time.monotonic()
            self.assertEqual(session.version, 1)
            self.assertLess(time.monotonic() - began, 5)
            self.played.close_current()
            self.assert_version_1(session)

    def test_garbage_means_version_1(self) -> None:
        for garbage in (b"hello\n", b"\0" * 20_000, b"OK 5\nhello", b"OK\n" + b"x" * 20_000):
            self.assert_version_1(self.play([(b"FEAT\n", garbage)], [LISTED], [LISTED]))

    def test_answer_without_end_means_version_1(self) -> None:
        endless = b"OK\nNATPROXY 2\n" + b"GET\n" * 10**6
        self.patch(session_module, "FEAT_TIMEOUT", 10)
        began = time.monotonic()
        session = self.serve(lambda line: endless if line == b"FEAT" else LISTED[1])
        self.assert_version_1(session)
        self.assertLess(time.monotonic() - began, 5)

    def test_proxy_that_could_not_ask_says_nothing_about_the_server(self) -> None:
        failure = b"ERR proxy error: the server refuses connections\n"
        session = self.play([(b"FEAT\n", failure), (b"FEAT\n", FEAT)])
        error = self.assertRaises(Unavailable, lambda: session.version)
        self.assertEqual(str(error), "proxy error: the server refuses connections")
        self.assertEqual(session.version, 2)

    def test_text_of_a_server_that_is_not_understood_is_no_failure_of_the_proxy(self) -> None:
        session = self.play([(b"FEAT\n", b"proxy error: x\n")], [LISTED, LISTED])
        self.assert_version_1(session)

    def test_server_that_is_not_there_says_nothing_about_it_either(self) -> None:
        session = self.play([])
        self.played.close()
        self.assertRaises(CannotConnect, lambda: session.version)

    def test_it_is_asked_once_by_many_threads(self) -> None:
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

    def test_time_out_of_the_question_is_not_that_of_the_answers(self) -> None:
        session = self.serve(Version2(dict(FILES)))
        self.assertEqual(session.version, 2)
        with session.connection() as connection:
            self.assertIsNone(connection.deadline)


class NeedsTests(SessionCase):
    def test_what_version_1_cannot_do_is_said_in_one_line(self) -> None:
        session = self.serve(lambda line: b"ERR unknown command\n")
        asked: list[tuple[Callable[[], object], str]] = [
            (lambda: list(session.ls()), "tell more than the names in its top folder"),
            (lambda: list(session.walk("a")), "tell more than the names in its top folder"),
            (lambda: session.stat("a"), "tell a file's size and time"),
            (lambda: session.open("a"), "tell a file's size and time"),
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
        self.assertEqual(self.server.lines, [b"FEAT"])
