"""A duplicated descriptor: what it waits for, and when its number is free again."""

from __future__ import annotations

import os
import socket

from twisted.internet.error import ConnectionLost
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from natproxy.relay.descriptors import WatchedDescriptor


class WatchedDescriptorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        self.calls = 0
        self.watched = WatchedDescriptor(self.reactor, ours.fileno(), self.ready)
        self.addCleanup(self.reactor.advance, 0)
        self.addCleanup(self.watched.close)
        self.original = ours.fileno()

    def ready(self) -> None:
        self.calls += 1

    def hang_up(self) -> None:
        """Do what the reactor does on a hang-up."""
        self.reactor.removeReader(self.watched)
        self.reactor.removeWriter(self.watched)
        self.watched.connectionLost(Failure(ConnectionLost()))

    def test_duplicate_has_a_number_of_its_own(self) -> None:
        self.assertNotEqual(self.watched.fileno(), self.original)
        self.assertTrue(os.path.sameopenfile(self.watched.fileno(), self.original))

    def test_number_of_a_closed_descriptor_is_free_in_the_next_turn(self) -> None:
        # An event of this number may have been collected: it would close a new connection.
        number = self.watched.fileno()
        self.watched.wait_writable()
        self.watched.close()
        self.watched.close()
        new = os.dup(self.original)
        self.addCleanup(os.close, new)
        self.assertNotEqual(new, number)
        os.fstat(number)
        self.reactor.advance(0)
        with self.assertRaises(OSError):
            os.fstat(number)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_hang_up_calls_ready_and_the_wait_is_resumed(self) -> None:
        for wait, waiting in (
            (self.watched.wait_readable, self.reactor.getReaders),
            (self.watched.wait_writable, self.reactor.getWriters),
        ):
            self.watched.stop_waiting()
            wait()
            before = self.calls
            self.hang_up()
            self.assertEqual(waiting(), [self.watched])
            self.assertEqual(self.calls, before + 1)

    def test_hang_up_without_a_wait_starts_none(self) -> None:
        self.watched.wait_readable()
        self.watched.stop_waiting()
        self.hang_up()
        self.assertEqual(self.reactor.getReaders() + self.reactor.getWriters(), [])

    def test_closed_descriptor_waits_for_nothing_and_calls_nothing(self) -> None:
        self.watched.wait_readable()
        self.watched.wait_writable()
        self.watched.close()
        self.assertEqual(self.watched.fileno(), -1)
        self.hang_up()
        self.assertEqual(self.reactor.getReaders() + self.reactor.getWriters(), [])
        self.assertEqual(self.calls, 0)
