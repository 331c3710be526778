"""The benchmark's relay with a delay: when bytes leave it, and in what order."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.daemons.delay import LIMIT, DelayLine, Ending, Far, Near
from benchmarks.processes import free_port, module
from tests.support.paths import ROOT


class Transport(StringTransport):
    """Records how it was ended."""

    ended = ""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """There is no delay."""

    def loseWriteConnection(self) -> None:
        self.ended += "half "

    def loseConnection(self) -> None:
        self.ended += "closed "

    def abortConnection(self) -> None:
        self.ended += "aborted "


class DelayLineTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.integers(0, 5), st.binary(min_size=1)), max_size=20))
    def test_everything_arrives_in_order_after_the_delay(
        self, sent: list[tuple[int, bytes]]
    ) -> None:
        clock = Clock()
        arrived: list[tuple[float, bytes | Ending]] = []
        line = DelayLine(clock, 3, lambda item: arrived.append((clock.seconds(), item)))
        expected = []
        for pause, item in sent:
            for _ in range(pause):
                clock.advance(1)
            line.put(item)
            expected.append((clock.seconds() + 3, item))
        self.assertEqual(line.size, sum(len(item) for due, item in expected[len(arrived) :]))
        for _ in range(4):
            clock.advance(1)
        self.assertEqual(arrived, expected)
        self.assertEqual((line.size, clock.getDelayedCalls()), (0, []))

    def test_what_is_sent_before_the_handshake_ends_leaves_at_its_end(self) -> None:
        clock = Clock()
        arrived: list[bytes | Ending] = []
        line = DelayLine(clock, 1, arrived.append, 2)
        line.put(b"early")
        clock.advance(2.5)
        self.assertEqual(arrived, [])
        clock.advance(0.5)
        self.assertEqual(arrived, [b"early"])


class LinkTests(SynchronousTestCase):
    """A client and a server with a link of one second in each direction."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.connects: list[float] = []
        self.client, self.server = Transport(), Transport()
        self.near = Near(self.clock, 1, self.connect)
        self.near.makeConnection(self.client)

    def connect(self, far: Any) -> None:
        assert isinstance(far, Far)
        self.far = far
        self.connects.append(self.clock.seconds())
        far.makeConnection(self.server)

    def open(self) -> None:
        self.clock.advance(3)
        self.assertEqual(self.connects, [3])

    def test_server_is_connected_when_the_last_packet_of_the_handshake_arrives(self) -> None:
        self.clock.advance(2.9)
        self.assertEqual(self.connects, [])
        self.clock.advance(0.1)
        self.assertEqual(self.connects, [3])

    def test_first_reply_takes_two_round_trips_with_the_handshake(self) -> None:
        self.near.dataReceived(b"command")
        self.clock.advance(3)
        self.assertEqual(self.server.value(), b"command")
        self.far.dataReceived(b"reply")
        self.clock.advance(0.9)
        self.assertEqual(self.client.value(), b"")
        self.clock.advance(0.1)
        self.assertEqual(self.client.value(), b"reply")

    def test_half_close_follows_the_bytes_and_the_other_direction_goes_on(self) -> None:
        self.open()
        self.near.dataReceived(b"all")
        self.near.readConnectionLost()
        self.clock.advance(1)
        self.assertEqual((self.server.value(), self.server.ended), (b"all", "half "))
        self.far.dataReceived(b"reply")
        self.far.readConnectionLost()
        self.assertEqual(self.server.ended, "half closed ")
        self.clock.advance(1)
        self.assertEqual((self.client.value(), self.client.ended), (b"reply", "closed "))

    def test_reset_arrives_after_the_delay(self) -> None:
        self.open()
        self.near.connectionLost(Failure(ConnectionLost()))
        self.clock.advance(0.5)
        self.assertEqual(self.server.ended, "")
        self.clock.advance(0.5)
        self.assertEqual(self.server.ended, "aborted ")

    def test_close_arrives_after_the_delay(self) -> None:
        self.open()
        self.near.connectionLost(Failure(ConnectionDone()))
        self.clock.advance(1)
        self.assertEqual(self.server.ended, "half ")

    def test_reading_pauses_while_a_window_is_on_its_way(self) -> None:
        self.open()
        self.near.dataReceived(bytes(LIMIT + 1))
        self.assertEqual(self.client.producerState, "paused")
        self.clock.advance(1)
        self.assertEqual(self.client.producerState, "producing")
        self.assertEqual(len(self.server.value()), LIMIT + 1)

    def test_reading_pauses_while_the_other_end_takes_nothing(self) -> None:
        self.open()
        assert self.server.producer is not None
        self.server.producer.pauseProducing()
        self.assertEqual(self.client.producerState, "paused")
        self.server.producer.resumeProducing()
        self.assertEqual(self.client.producerState, "producing")


@contextmanager
def relay(target: int, seconds: float) -> Iterator[int]:
    """Run the relay in a process of its own."""
    port = free_port()
    with subprocess.Popen(module("daemons.delay", port, target, seconds), cwd=ROOT) as process:
        try:
            deadline = time.monotonic() + 20
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
            yield port
        finally:
            process.kill()


def test_reply_over_real_sockets_is_whole_and_no_sooner_than_two_round_trips() -> None:
    body = bytes(range(256)) * 20_000

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rb") as commands:
                if commands.read() == b"all of it":
                    connection.sendall(body)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        with relay(listener.getsockname()[1], 0.02) as port:
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", port), 20) as client:
                client.sendall(b"all of it")
                client.shutdown(socket.SHUT_WR)
                received = b"".join(iter(lambda: client.recv(1 << 16), b""))
            seconds = time.monotonic() - began
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(20)
    assert received == body
    assert seconds >= 0.08
