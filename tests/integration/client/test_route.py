"""How a connection to a host with several addresses is made (RFC 8305)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.client import CannotConnect, Connection, Interrupted, Session
from natproxy.client.blocking.route import Candidate, interleave
from tests.support.answering_server import AnsweringServer

FOREVER = 10_000.0
"""Seconds that no test waits for."""


def candidate(port: int) -> Candidate:
    return Candidate(socket.AF_INET, socket.SOCK_STREAM, 0, ("127.0.0.1", port))


@contextmanager
def dead_port() -> Iterator[int]:
    """Return a port with a full backlog, where connections are neither made nor refused."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


class InterleaveTests(SynchronousTestCase):
    def test_families_take_turns(self) -> None:
        found = [
            Candidate(family, socket.SOCK_STREAM, 6, (name, 1))
            for family, name in ((6, "a"), (6, "b"), (6, "a"), (6, "c"), (4, "d"), (4, "e"))
        ]
        names = [one.address[0] for one in interleave(found)]
        self.assertEqual(names, ["a", "d", "b", "e", "c"])
        self.assertEqual(interleave([]), [])


class RouteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.server = AnsweringServer(lambda line: b"OK\na\nEND\n")
        self.addCleanup(self.server.close)
        self.ports: list[int] = []

        def resolve(*_: object, **__: object) -> list[object]:
            return [(*candidate(port)[:3], "", candidate(port).address) for port in self.ports]

        self.patch(socket, "getaddrinfo", resolve)

    def list_with(self, connection: Connection) -> None:
        self.addCleanup(connection.close)
        self.assertEqual(b"".join(connection.request(b"LIST")), b"a\nEND\n")

    def test_dead_first_address_does_not_cost_the_whole_time_out(self) -> None:
        with dead_port() as dead:
            self.ports = [dead, self.server.port]
            # With one attempt after the other, this would not end.
            self.list_with(Connection(Address("h", 1), FOREVER, FOREVER))

    def test_refused_address_is_passed_over_at_once(self) -> None:
        self.ports = [closed_port(), closed_port(), self.server.port]
        with mock.patch("natproxy.client.blocking.route.ATTEMPT_DELAY", FOREVER):
            self.list_with(Connection(Address("h", 1), FOREVER, FOREVER))

    def test_winner_is_tried_first_by_all_connections_of_a_session(self) -> None:
        with dead_port() as dead, Session(Address("h", 1), FOREVER, FOREVER) as session:
            self.ports = [dead, self.server.port]
            session.connect()
            self.assertEqual(session._route.candidates()[0], candidate(self.server.port))
            # The dead one is not even begun with.
            with (
                mock.patch("natproxy.client.blocking.route.ATTEMPT_DELAY", FOREVER),
                session.connection() as one,
                session.connection() as two,
            ):
                two.connect()
                self.assertIsNot(one, two)
            # What is not an address of the host any more is forgotten.
            self.ports = [dead]
            self.assertEqual(session._route.candidates(), [candidate(dead)])

    def test_all_attempts_together_have_the_time_out_of_the_connect(self) -> None:
        with dead_port() as dead, dead_port() as other:
            self.ports = [dead, other]
            for options in ((FOREVER, 0.05), (0.05, None)):
                error = self.assertRaises(
                    CannotConnect, Connection(Address("h", 1), *options).connect
                )
                self.assertEqual(str(error), "cannot connect to h:1: no reply in time")

    def test_time_out_of_the_connect_limits_the_resolver(self) -> None:
        self.silence_resolver()
        for options in ((FOREVER, 0.05), (0.05, None)):
            connection = Connection(Address("h", 1), *options)
            error = self.assertRaises(CannotConnect, connection.connect)
            self.assertEqual(str(error), "cannot connect to h:1: no reply in time")

    def test_wait_for_a_resolver_is_ended_from_another_thread(self) -> None:
        asked = self.silence_resolver()
        session = Session(Address("h", 1), FOREVER, FOREVER)
        failures: list[Exception] = []

        def connect() -> None:
            try:
                session.connect()
            except Interrupted as error:
                failures.append(error)

        thread = threading.Thread(target=connect)
        thread.start()
        asked.wait(10)
        session.interrupt()
        thread.join(10)
        self.assertEqual(len(failures), 1)

    def test_address_is_resolved_without_a_thread(self) -> None:
        threads: list[threading.Thread] = []

        def resolve(*_: object, **__: object) -> list[object]:
            threads.append(threading.current_thread())
            raise OSError("x")

        self.patch(socket, "getaddrinfo", resolve)
        for host in ("127.0.0.1", "::1", "fe80::1%eth0", "h"):
            self.assertRaises(CannotConnect, Connection(Address(host, 1)).connect)
        here = threading.current_thread()
        self.assertEqual([thread is here for thread in threads], [True, True, True, False])

    def test_name_is_resolved_where_no_thread_can_be_had(self) -> None:
        self.ports = [self.server.port]
        # Only this module's threads: the server starts one for the connection.
        with mock.patch("natproxy.client.blocking.route.threading", wraps=threading) as threads:
            threads.Thread.side_effect = RuntimeError
            connection = Connection(Address("h", 1))
            self.addCleanup(connection.close)
            connection.connect()

    def silence_resolver(self) -> threading.Event:
        """Block all name resolution; return an event that is set when it is attempted."""
        asked = threading.Event()
        ended = threading.Event()
        self.addCleanup(ended.set)

        def resolve(*_: object, **__: object) -> list[object]:
            asked.set()
            ended.wait(60)
            return []

        self.patch(socket, "getaddrinfo", resolve)
        return asked

    def test_message_has_the_refusal_of_all_addresses(self) -> None:
        self.ports = [closed_port(), closed_port()]
        error = self.assertRaises(CannotConnect, Connection(Address("h", 1)).connect)
        self.assertEqual(str(error), "cannot connect to h:1: Connection refused")

    def test_no_socket_is_left_open(self) -> None:
        made: list[socket.socket] = []
        create = socket.socket

        def noted(*arguments: int, **options: Any) -> socket.socket:
            one = create(*arguments, **options)
            if not options:
                # Those with options are the server's.
                made.append(one)
            return one

        with dead_port() as dead:
            self.ports = [dead, closed_port(), self.server.port]
            connection = Connection(Address("h", 1), FOREVER, FOREVER)
            with mock.patch("natproxy.client.blocking.route.socket.socket", noted):
                self.list_with(connection)
            self.assertEqual([one for one in made if one.fileno() >= 0], [connection._socket])
