"""Sockets that were reset, or only half-closed."""

from __future__ import annotations

import socket
import struct
from types import SimpleNamespace
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.trial.unittest import SynchronousTestCase

from natproxy.nat import Outcome
from natproxy.server import resets
from natproxy.server.resets import CHECKS, POLL_INTERVAL, ResetWatch, is_reset


class Watched:
    """A connection that is watched."""

    def __init__(self, transport: object) -> None:
        self.transport = transport

    def abort(self, outcome: Outcome) -> None:
        raise AssertionError("it is not reset")


class WatchTests(SynchronousTestCase):
    """Connections that are checked at intervals."""

    def test_connection_that_is_watched_while_others_are_checked(self) -> None:
        clock = Clock()
        watch = ResetWatch(clock)

        class Replaced(Watched):
            def abort(self, outcome: Outcome) -> None:
                watch.unwatch(self)
                watch.watch(second)

        first, second = Replaced("first"), Watched("second")
        self.patch(resets, "is_reset", lambda transport: transport == "first")
        watch.watch(first)
        clock.advance(POLL_INTERVAL)
        self.assertEqual(len(clock.getDelayedCalls()), 1)
        watch.unwatch(second)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_checks_of_one_turn_are_bounded(self) -> None:
        checked: list[object] = []
        scheduled: list[tuple[float, int]] = []

        class Turns(Clock):
            def callLater(self, when: float, *call: Any, **named: Any) -> Any:
                scheduled.append((when, len(checked)))
                return super().callLater(when, *call, **named)

        clock = Turns()
        watch = ResetWatch(clock)
        self.patch(resets, "is_reset", checked.append)
        watched = [Watched(number) for number in range(2 * CHECKS + 1)]
        for connection in watched:
            watch.watch(connection)
        clock.advance(POLL_INTERVAL)
        # The last turn of a round schedules the next round.
        expected = [(0.0, CHECKS), (0.0, 2 * CHECKS), (POLL_INTERVAL, len(watched))]
        self.assertEqual(scheduled, [(POLL_INTERVAL, 0), *expected])
        self.assertEqual(checked, list(range(len(watched))))
        for connection in watched:
            watch.unwatch(connection)
        self.assertEqual(clock.getDelayedCalls(), [])


class ResetTests(SynchronousTestCase):
    """Resets of sockets that are not read from."""

    def test_half_closed_is_not_reset_and_reset_is(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(listening.getsockname())
        server, _ = listening.accept()
        transport = SimpleNamespace(getHandle=lambda: server)
        with listening, client, server:
            self.assertFalse(is_reset(transport))
            client.shutdown(socket.SHUT_WR)
            self.assertFalse(is_reset(transport))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            self.assertTrue(is_reset(transport))
        self.assertFalse(is_reset(transport))
        self.assertFalse(is_reset(object()))

    def test_below_tls_and_the_proxy_header(self) -> None:
        class TLS(ProtocolWrapper):
            def getHandle(self) -> object:
                # OpenSSL's connection: it has no descriptor.
                return object()

        client, server = socket.socketpair()
        inner = TLS(WrappingFactory(Factory()), Protocol())
        inner.transport = SimpleNamespace(getHandle=lambda: server)
        outer = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
        outer.transport = inner
        with client, server:
            for transport in (inner, outer):
                self.assertFalse(is_reset(transport))
            client.close()
            for transport in (inner, outer):
                self.assertTrue(is_reset(transport))
        inner.transport = SimpleNamespace(getHandle=object)
        self.assertFalse(is_reset(outer))
