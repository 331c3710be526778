"""The client's connection, against a server played from a script."""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.client import (
    Address,
    CannotConnect,
    Connection,
    ConnectionBroken,
    Interrupted,
    NotFound,
    NotUnderstood,
    Reply,
    ServerError,
    Unavailable,
    UsageError,
)
from natproxy.client.rate import RateMonitor
from natproxy.protocol import Arguments
from tests.support.scripted_server import Scene, ScriptedServer

LISTED = (b"LIST\n", b"OK\na\nEND\n")
DOWNLOADED = (b"DOWNLOAD a\n", b"OK 2\nhi")


class PlayedCase(SynchronousTestCase):
    def play(self, *scenes: Scene, linger: bool = False, timeout: float = 10) -> Connection:
        """Return a connection to a server that plays the scenes."""
        self.server = ScriptedServer(*scenes, linger=linger)
        connection = Connection(Address("127.0.0.1", self.server.port), timeout)
        self.addCleanup(self.server.close)
        self.addCleanup(connection.close)
        return connection

    def list(self, connection: Connection) -> bytes:
        return b"".join(connection.request(b"LIST"))

    def ask(self, connection: Connection, name: bytes = b"a") -> Reply:
        return connection.request(b"DOWNLOAD", Arguments(name))

    def download(self, connection: Connection, name: bytes = b"a") -> bytes:
        return b"".join(self.ask(connection, name))

    def until_readable(self, connection: Connection) -> None:
        """Wait until bytes that belong to no command have been received."""
        assert connection._socket is not None
        self.assertTrue(select.select([connection._socket], [], [], 10)[0])


class CommandTests(PlayedCase):
    def test_many_commands_share_a_connection(self) -> None:
        connection = self.play([LISTED, DOWNLOADED, (b"LIST\n", b"OK\nEND\n")])
        self.assertEqual(self.list(connection), b"a\nEND\n")
        self.assertEqual(self.download(connection), b"hi")
        self.assertEqual(self.list(connection), b"END\n")

    def test_reconnects_to_a_peer_that_closes_after_one_reply(self) -> None:
        connection = self.play([LISTED], [DOWNLOADED], [])
        self.assertEqual(self.list(connection), b"a\nEND\n")
        self.assertEqual(self.download(connection), b"hi")
        self.assertEqual(self.server.received, b"LIST\nDOWNLOAD a\n")

    def test_reconnects_to_a_peer_that_closes_instead_of_a_second_reply(self) -> None:
        connection = self.play([LISTED, (b"DOWNLOAD a\n", b"")], [DOWNLOADED])
        self.assertEqual(self.list(connection), b"a\nEND\n")
        self.assertEqual(self.download(connection), b"hi")
        self.assertEqual(self.server.received, b"LIST\nDOWNLOAD a\nDOWNLOAD a\n")

    def test_reconnects_if_the_connection_was_lost_before_the_command(self) -> None:
        connection = self.play([], [LISTED])
        connection.connect()
        self.until_readable(connection)
        self.assertEqual(self.list(connection), b"a\nEND\n")

    def test_reconnects_after_a_reset(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            connection = Connection(Address(*listener.getsockname()), 10)
            self.addCleanup(connection.close)
            connection.connect()
            peer, _ = listener.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
            self.until_readable(connection)
            # It is in the backlog, with its command, before it is accepted.
            with mock.patch.object(connection, "receive", side_effect=lambda: LISTED[1]):
                self.assertEqual(self.list(connection), b"a\nEND\n")
            with listener.accept()[0] as peer:
                self.assertEqual(peer.recv(100), b"LIST\n")

    def test_refusal_that_comes_before_the_command_is_its_reply(self) -> None:
        connection = self.play([(b"", b"ERR proxy error: too many clients\n")], linger=True)
        connection.connect()
        self.until_readable(connection)
        error = self.assertRaises(Unavailable, connection.request, b"LIST")
        self.assertEqual(str(error), "proxy error: too many clients")

    def test_reply_that_came_in_one_piece_need_not_be_read(self) -> None:
        connection = self.play([DOWNLOADED, LISTED])
        reply = self.ask(connection)
        self.assertTrue(reply.clean)
        self.assertEqual(self.list(connection), b"a\nEND\n")
        self.assertEqual(list(reply), [b"hi"])

    def test_reply_that_is_not_read_to_its_end_closes_the_connection(self) -> None:
        connection = self.play([(b"DOWNLOAD a\n", b"OK 3\nhi")], [LISTED])
        reply = self.ask(connection)
        self.assertFalse(reply.clean)
        self.assertEqual(self.list(connection), b"a\nEND\n")

    def test_unfinished_reply_does_not_read_the_next_one(self) -> None:
        connection = self.play(
            [(b"DOWNLOAD a\n", b"OK 9\nhi")], [(b"DOWNLOAD b\n", b"OK 9\nho")], linger=True
        )
        first = self.ask(connection)
        self.server.close_current()
        second = self.ask(connection, b"b")
        self.assertEqual(next(iter(first)), b"hi")
        for take in (lambda: b"".join(first), lambda: first.receive_into(memoryview(bytearray(9)))):
            error = self.assertRaises(ConnectionBroken, take)
            self.assertIn("discarded: 7 bytes missing", str(error))
        self.assertEqual(second.receive_into(memoryview(bytearray(9))), 2)

    def test_bytes_after_a_reply_are_not_taken_for_the_next_one(self) -> None:
        connection = self.play(
            [(b"DOWNLOAD a\n", b"OK 2\nhiOK 4\nevil")], [(b"DOWNLOAD b\n", b"OK 2\nho")]
        )
        self.assertEqual(self.download(connection), b"hi")
        self.assertEqual(self.download(connection, b"b"), b"ho")

    def test_bytes_that_come_late_are_not_taken_for_the_next_reply(self) -> None:
        connection = self.play([DOWNLOADED, (b"", b"OK 4\nevil")], [(b"DOWNLOAD b\n", b"OK 2\nho")])
        self.assertEqual(self.download(connection), b"hi")
        self.until_readable(connection)
        self.assertEqual(self.download(connection, b"b"), b"ho")

    def test_connection_is_still_good_after_an_error(self) -> None:
        connection = self.play([(b"DOWNLOAD a\n", b"ERR file not found\n"), LISTED])
        error = self.assertRaises(NotFound, self.ask, connection)
        self.assertEqual(str(error), "a: file not found")
        self.assertEqual(self.list(connection), b"a\nEND\n")

    def test_error_with_surplus_bytes_closes_the_connection(self) -> None:
        connection = self.play([(b"LIST\n", b"ERR no\x1b[2J\nOK\n")], [LISTED])
        error = self.assertRaises(ServerError, connection.request, b"LIST")
        self.assertEqual(str(error), "no\\x1b[2J")
        self.assertEqual(self.list(connection), b"a\nEND\n")

    def test_replies_that_break_the_protocol_are_not_understood(self) -> None:
        for answer in (b"OK x\n", b"OK -1\n", b"hello\n", b"\n", b"\0\n", b"OK " + b"9" * 20_000):
            connection = self.play([(b"DOWNLOAD a\n", answer)], [LISTED])
            error = self.assertRaises(NotUnderstood, self.ask, connection)
            self.assertIn(f"{self.server.server_address} is not understood: ", str(error))
            self.assertNotIn("\n", str(error))
            self.assertEqual(self.list(connection), b"a\nEND\n")

    def test_server_that_closes_without_a_reply(self) -> None:
        for answer in (b"", b"OK"):
            connection = self.play([(b"LIST\n", answer)])
            error = self.assertRaises(ConnectionBroken, connection.request, b"LIST")
            self.assertIn("without a reply", str(error))

    def test_message_has_what_is_missing_of_a_reply(self) -> None:
        connection = self.play([(b"DOWNLOAD a\n", b"OK 5\nhi")])
        error = self.assertRaises(ConnectionBroken, self.download, connection)
        self.assertIn("inside the reply: 3 bytes missing", str(error))
        connection = self.play([(b"LIST\n", b"OK\na\n")])
        error = self.assertRaises(ConnectionBroken, self.list, connection)
        self.assertIn("the rest up to END missing", str(error))

    def test_names_that_would_break_a_line_are_refused_before_anything_is_sent(self) -> None:
        connection = Connection(Address("host.invalid", 1))
        for name in (b"a\nb", b"a\rb", b"a\0b", b"", b" a", b"x" * 16_384):
            self.assertRaises(UsageError, self.ask, connection, name)
        self.assertRaises(UsageError, connection.request, b"STAT", Arguments(b"\n" * 6000))

    def test_context_ends_with_the_connection(self) -> None:
        connection = self.play([LISTED], [LISTED], linger=True)
        for _ in range(2):
            with connection:
                self.list(connection)
            self.server.close_current()


class BodyTests(PlayedCase):
    @settings(deadline=None)
    @given(st.binary(max_size=300), st.lists(st.integers(1, 100), min_size=1))
    def test_body_is_received_into_memory_of_any_size(self, body: bytes, sizes: list[int]) -> None:
        connection = self.play([(b"DOWNLOAD a\n", b"OK %d\n%b" % (len(body), body)), LISTED])
        reply = self.ask(connection)
        received = b""
        while len(received) < len(body):
            buffer = memoryview(bytearray(sizes[len(received) % len(sizes)]))
            size = reply.receive_into(buffer)
            self.assertGreater(size, 0)
            received += buffer[:size]
        self.assertEqual(received, body)
        self.assertEqual(reply.receive_into(memoryview(bytearray(1))), 0)
        self.assertEqual(self.list(connection), b"a\nEND\n")
        self.server.close()

    def test_rest_of_a_body_may_be_iterated_over(self) -> None:
        connection = self.play([(b"DOWNLOAD a\n", b"OK 6\nabcdef")])
        reply = self.ask(connection)
        self.assertEqual(reply.receive_into(memoryview(bytearray())), 0)
        self.assertEqual(reply.receive_into(memoryview(bytearray(1))), 1)
        self.assertEqual(b"".join(reply), b"bcdef")
        self.assertEqual(b"".join(reply), b"")

    def test_no_byte_after_the_body_is_received_into_memory(self) -> None:
        connection = self.play([(b"DOWNLOAD a\n", b"OK 4\n"), (b"", b"hi..more")])
        reply = self.ask(connection)
        buffer = memoryview(bytearray(100))
        got = b""
        while size := reply.receive_into(buffer):
            got += buffer[:size]
        self.assertEqual(got, b"hi..")

    def test_message_has_what_is_missing_of_a_body(self) -> None:
        connection = self.play([(b"DOWNLOAD a\n", b"OK 5\nhi")])
        reply = self.ask(connection)
        buffer = memoryview(bytearray(9))
        self.assertEqual(reply.receive_into(buffer), 2)
        for problem in ("inside the reply", "discarded"):
            error = self.assertRaises(ConnectionBroken, reply.receive_into, buffer)
            self.assertIn(f"{problem}: 3 bytes missing", str(error))


class MemoryTests(PlayedCase):
    def test_size_that_is_claimed_is_not_allocated(self) -> None:
        connection = self.play([(b"DOWNLOAD a\n", b"OK %d\nhi" % 2**62)])
        self.assertRaises(ConnectionBroken, self.ask(connection).read)

    def test_small_pieces_use_no_more_memory_than_their_bytes(self) -> None:
        connection = self.play([(b"DOWNLOAD a\n", b"OK 400000\n")], linger=True)
        reply = self.ask(connection)
        pieces = (b"%02d" % (number % 100) for number in range(200_000))

        def receive() -> bytes:
            return next(pieces)

        with mock.patch.object(connection, "receive", receive):
            tracemalloc.start()
            try:
                self.assertEqual(len(reply.read()), 400_000)
                _, most = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        # As separate objects, they would take 9 MB.
        self.assertLess(most, 3_000_000)


class WaitingTests(PlayedCase):
    def test_silence_fails_after_the_time_out(self) -> None:
        connection = self.play([(b"LIST\n", b"OK\na\n")], linger=True, timeout=0.05)
        error = self.assertRaises(ConnectionBroken, self.list, connection)
        self.assertIn("silent for 0.05 s", str(error))
        connection = self.play([(b"DOWNLOAD a\n", b"OK 9\n")], linger=True, timeout=0.05)
        reply = self.ask(connection)
        buffer = memoryview(bytearray(9))
        error = self.assertRaises(ConnectionBroken, reply.receive_into, buffer)
        self.assertIn("silent for 0.05 s", str(error))

    def test_command_is_repeated_once_after_silence_on_a_used_connection(self) -> None:
        silent = (b"LIST\n", b"")
        connection = self.play([LISTED, silent], [LISTED], linger=True, timeout=0.2)
        self.list(connection)
        receive = connection._receive_reply

        def noted() -> Reply:
            try:
                return receive()
            except ConnectionBroken:
                # The next scene begins.
                self.server.close_current()
                connection.timeout = 10
                raise

        with mock.patch.object(connection, "_receive_reply", noted):
            self.assertEqual(self.list(connection), b"a\nEND\n")
        self.assertEqual(self.server.received, b"LIST\n" * 3)

    def test_command_is_not_repeated_after_silence_on_a_new_connection(self) -> None:
        connection = self.play([(b"LIST\n", b"")], [LISTED], linger=True, timeout=0.05)
        self.assertRaises(ConnectionBroken, connection.request, b"LIST")
        self.server.close()
        self.assertEqual(self.server.received, b"LIST\n")

    def test_silence_after_the_first_byte_of_a_reply_is_a_failure(self) -> None:
        connection = self.play([LISTED, (b"LIST\n", b"O")], [LISTED], linger=True, timeout=0.1)
        self.list(connection)
        self.assertRaises(ConnectionBroken, connection.request, b"LIST")

    def test_reconnects_after_long_idleness(self) -> None:
        clock = Clock()
        self.server = ScriptedServer([LISTED, LISTED], [LISTED], linger=True)
        self.addCleanup(self.server.close)
        connection = Connection(Address("127.0.0.1", self.server.port), 10, clock=clock.seconds)
        self.addCleanup(connection.close)
        self.list(connection)
        clock.advance(30)
        self.list(connection)
        first = connection._socket
        clock.advance(31)
        self.server.close_current()
        self.list(connection)
        self.assertIsNot(connection._socket, first)

    def test_reconnects_if_the_connection_is_old_and_unused(self) -> None:
        clock = Clock()
        self.server = ScriptedServer([], [LISTED])
        self.addCleanup(self.server.close)
        connection = Connection(Address("127.0.0.1", self.server.port), 10, clock=clock.seconds)
        self.addCleanup(connection.close)
        connection.connect()
        clock.advance(31)
        with mock.patch.object(connection, "_is_readable", return_value=False):
            self.assertEqual(self.list(connection), b"a\nEND\n")

    def test_keepalive_is_enabled(self) -> None:
        connection = self.play([LISTED])
        connection.connect()
        connected = connection._socket
        assert connected is not None
        self.assertTrue(connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        for option, value in (
            (socket.TCP_KEEPIDLE, 60),
            (socket.TCP_KEEPINTVL, 15),
            (socket.TCP_KEEPCNT, 4),
        ):
            self.assertEqual(connected.getsockopt(socket.IPPROTO_TCP, option), value)

    def test_close_resets_the_connection_only_if_a_reply_is_still_to_come(self) -> None:
        for reply, ends in ((b"OK\nEND\n", False), (b"OK\n", True), (b"", True)):
            with socket.create_server(("127.0.0.1", 0)) as listening:
                connection = Connection(Address("127.0.0.1", listening.getsockname()[1]), 0.2)
                self.addCleanup(connection.close)
                connection.connect()
                accepted, _ = listening.accept()
                with accepted:
                    accepted.sendall(reply)
                    with contextlib.suppress(ConnectionBroken):
                        self.list(connection)
                    connection.close()
                    self.assertEqual(accepted.recv(100), b"LIST\n")
                    if ends:
                        self.assertRaises(ConnectionResetError, accepted.recv, 100)
                    else:
                        self.assertEqual(accepted.recv(100), b"")

    def test_killed_process_resets_its_connection(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            connection = Connection(Address("127.0.0.1", listening.getsockname()[1]), 10)
            connection.connect()
            accepted, _ = listening.accept()
            with accepted:
                assert connection._socket is not None
                # What the kernel does for a process that is killed.
                connection._socket.close()
                self.assertRaises(ConnectionResetError, accepted.recv, 100)

    def test_failed_keepalive_is_not_reported_as_silence(self) -> None:
        connection = self.play([(b"LIST\n", b"OK\n")], linger=True)
        pieces = iter(connection.request(b"LIST"))
        dead = TimeoutError(errno.ETIMEDOUT, "Connection timed out")
        with mock.patch.object(connection, "_ready_socket", side_effect=dead):
            error = self.assertRaises(ConnectionBroken, next, pieces)
        self.assertIn("lost: Connection timed out", str(error))

    def test_time_out_may_be_changed_between_two_commands(self) -> None:
        connection = self.play([LISTED, (b"LIST\n", b"")], linger=True)
        self.list(connection)
        connection.timeout = 0.05
        error = self.assertRaises(ConnectionBroken, connection.request, b"LIST")
        self.assertIn("silent for 0.05 s", str(error))

    def test_deadline_limits_the_wait(self) -> None:
        connection = self.play([(b"LIST\n", b"OK\na\n")], linger=True)
        connection.deadline = time.monotonic() + 0.05
        error = self.assertRaises(ConnectionBroken, self.list, connection)
        self.assertIn("did not reply in time", str(error))

    def test_deadline_ends_the_wait_for_one_that_never_stops(self) -> None:
        connection = self.play([(b"LIST\n", b"OK\n" + b"a\n" * 10_000)], linger=True)
        pieces = iter(connection.request(b"LIST"))
        next(pieces)
        connection.deadline = time.monotonic()
        error = self.assertRaises(ConnectionBroken, next, pieces)
        self.assertIn("did not reply in time", str(error))

    def test_after_the_deadline_nothing_is_tried_again(self) -> None:
        connection = self.play([LISTED, (b"LIST\n", b"")], [LISTED])
        self.list(connection)
        connection.deadline = time.monotonic()
        self.assertRaises(ConnectionBroken, connection.request, b"LIST")
        connection.deadline = None
        self.assertEqual(self.list(connection), b"a\nEND\n")


class ConnectTests(SynchronousTestCase):
    def test_server_that_is_not_there(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        error = self.assertRaises(CannotConnect, Connection(Address("127.0.0.1", port)).connect)
        self.assertEqual(str(error), f"cannot connect to 127.0.0.1:{port}: Connection refused")

    def test_server_that_does_not_reply(self) -> None:
        # With a full backlog, the kernel accepts no further connection.
        with socket.socket() as listener, socket.socket() as other:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            other.connect(listener.getsockname())
            connection = Connection(Address(*listener.getsockname()), 0.05)
            error = self.assertRaises(CannotConnect, connection.connect)
        self.assertIn("no reply in time", str(error))

    def test_host_names_that_cannot_be(self) -> None:
        for host in ("a" * 70 + ".b", "a..b", "\udcff"):
            error = self.assertRaises(CannotConnect, Connection(Address(host, 1)).connect)
            self.assertIn("bad host name", str(error))

    def test_unknown_host(self) -> None:
        unknown = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        with mock.patch("socket.getaddrinfo", side_effect=unknown):
            error = self.assertRaises(CannotConnect, Connection(Address("h", 1)).connect)
        self.assertEqual(str(error), "cannot connect to h:1: Name or service not known")

    def test_every_address_of_a_host_is_tried(self) -> None:
        server = ScriptedServer([LISTED])
        self.addCleanup(server.close)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            closed = listener.getsockname()
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", address)
            for address in (closed, ("127.0.0.1", server.port))
        ]
        with (
            mock.patch("socket.getaddrinfo", return_value=addresses),
            Connection(Address("h", 1), 10) as connection,
        ):
            self.assertEqual(b"".join(connection.request(b"LIST")), b"a\nEND\n")


class InterruptTests(PlayedCase):
    def interrupted(
        self,
        connection: Connection,
        wait: Callable[[], object],
        ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """Interrupt the connection, once it is ready, repeatedly until it fails."""
        ended = threading.Event()

        def interrupt() -> None:
            while not ended.wait(0.01):
                if ready():
                    connection.interrupt()

        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            self.assertRaises(Interrupted, wait)
        finally:
            ended.set()
            thread.join()

    def test_wait_for_a_header_is_ended_from_another_thread(self) -> None:
        connection = self.play([(b"LIST\n", b"")], linger=True)
        self.interrupted(connection, lambda: connection.request(b"LIST"))

    def test_wait_on_a_used_connection_is_not_begun_again(self) -> None:
        connection = self.play([LISTED, (b"LIST\n", b"")], [LISTED], linger=True)
        self.list(connection)
        self.interrupted(
            connection,
            lambda: connection.request(b"LIST"),
            ready=lambda: self.server.received.count(b"LIST") == 2,
        )
        self.assertEqual(self.server.received.count(b"LIST"), 2)

    def test_wait_for_a_body_is_ended_from_another_thread(self) -> None:
        connection = self.play([(b"LIST\n", b"OK\na\n")], linger=True)
        self.interrupted(connection, lambda: self.list(connection))
        connection = self.play([(b"DOWNLOAD a\n", b"OK 9\n")], linger=True)
        buffer = memoryview(bytearray(9))
        reply = self.ask(connection)
        self.interrupted(connection, lambda: reply.receive_into(buffer))

    def test_wait_for_a_connection_is_ended_from_another_thread(self) -> None:
        with socket.socket() as listener, socket.socket() as other:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            other.connect(listener.getsockname())
            connection = Connection(Address(*listener.getsockname()), 30)
            self.interrupted(connection, connection.connect)

    def test_slow_header_fails_after_the_time_out(self) -> None:
        ended = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            connection = Connection(Address(*listener.getsockname()), 0.3)
            self.addCleanup(connection.close)

            def drip() -> None:
                peer, _ = listener.accept()
                with peer, contextlib.suppress(OSError):
                    while not ended.wait(0.02):
                        peer.sendall(b"O")

            thread = threading.Thread(target=drip)
            thread.start()
            self.addCleanup(thread.join, 10)
            self.addCleanup(ended.set)
            # Without a limit, the line would be complete, and too long, after minutes.
            error = self.assertRaises(ConnectionBroken, connection.request, b"LIST")
        self.assertTrue(str(error).endswith("did not reply in time"), error)

    def test_slow_body_fails(self) -> None:
        connection = self.play([(b"LIST\n", b"OK\na\nb\n")], linger=True)
        reply = connection.request(b"LIST")
        dripping = RateMonitor("h:1", 0)
        dripping.received(1, 60)
        with (
            mock.patch("natproxy.client.blocking.reply.RateMonitor", return_value=dripping),
            mock.patch.object(connection, "receive", return_value=b"x"),
        ):
            error = self.assertRaises(ConnectionBroken, list, reply)
        self.assertEqual(str(error), "h:1 sent less than 1024 bytes a second")
        self.assertIsNone(connection._socket)

    def test_header_that_has_begun_has_the_rest_of_the_time(self) -> None:
        connection = self.play([(b"LIST\n", b"O")], linger=True)
        connection.timeout = 0.3
        error = self.assertRaises(ConnectionBroken, connection.request, b"LIST")
        self.assertTrue(str(error).endswith("did not reply in time"), error)

    def test_nothing_is_begun_on_an_interrupted_connection(self) -> None:
        connection = self.play([LISTED])
        connection.interrupt()
        self.assertRaises(Interrupted, connection.request, b"LIST")
        connection.interrupt()

    def test_reply_that_ctrl_c_left_on_the_way_is_not_taken_for_the_next_one(self) -> None:
        connection = self.play([LISTED, (b"DOWNLOAD a\n", b"OK 4\nlate")], [LISTED])
        self.list(connection)
        with mock.patch.object(connection, "receive", side_effect=KeyboardInterrupt):
            self.assertRaises(KeyboardInterrupt, self.ask, connection)
        self.assertEqual(self.list(connection), b"a\nEND\n")

    def test_reconnects_after_an_interrupted_connect(self) -> None:
        connection = self.play([LISTED])
        with mock.patch("socket.socket.connect", side_effect=KeyboardInterrupt):
            self.assertRaises(KeyboardInterrupt, connection.connect)
        self.assertEqual(self.list(connection), b"a\nEND\n")

    def test_abort_reply_keeps_a_connection_without_an_outstanding_reply(self) -> None:
        connection = self.play([LISTED, LISTED, (b"DOWNLOAD a\n", b"OK 9\n")], [LISTED])
        connection.abort_reply()
        for _ in range(2):
            self.list(connection)
            connection.abort_reply()
        self.ask(connection)
        connection.abort_reply()
        self.assertEqual(self.list(connection), b"a\nEND\n")
