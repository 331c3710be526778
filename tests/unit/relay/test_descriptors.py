"""A relay's own descriptor: what it waits for, and whom it believes."""

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
        self.acted = 0
        self.watched = WatchedDescriptor(self.reactor, ours.fileno(), self.act)
        self.addCleanup(self.reactor.advance, 0)
        self.addCleanup(self.watched.close)
        self.original = ours.fileno()

    def act(self) -> None:
        self.acted += 1

    def give_up(self) -> None:
        """Do as the reactor does on a hang-up."""
        self.reactor.removeReader(self.watched)
        self.reactor.removeWriter(self.watched)
        self.watched.connectionLost(Failure(ConnectionLost()))

    def test_it_has_a_number_of_its_own(self) -> None:
        self.assertNotEqual(self.watched.fileno(), self.original)
        self.assertTrue(
            os.path.sameopenfile(self.watched.fileno(), self.original)  # one socket
        )

    def test_closed_its_number_is_not_used_again_in_the_same_turn(self) -> None:
        # An event of this number may have been collected: it would end a new connection.
        number = self.watched.fileno()
        self.watched.wait_writable()
        self.watched.close()
        new = os.dup(self.original)
        self.addCleanup(os.close, new)
        self.assertNotEqual(new, number)
        os.fstat(number)
        self.reactor.advance(0)
        with self.assertRaises(OSError):
            os.fstat(number)

    def test_hang_up_makes_it_look_and_wait_on_for_what_it_waited_for(self) -> None:
        for wait, waiting in (
            (self.watched.wait_readable, self.reactor.getReaders),
            (self.watched.wait_writable, self.reactor.getWriters),
        ):
            self.watched.stop_waiting()
            wait()
            before = self.acted
            self.give_up()
            self.assertEqual(waiting(), [self.watched])
            self.assertEqual(self.acted, before + 1)

    def test_hang_up_while_it_rests_does_not_make_it_wait(self) -> None:
        self.watched.wait_readable()
        self.watched.stop_waiting()
        self.give_up()
        self.assertEqual(self.reactor.getReaders() + self.reactor.getWriters(), [])

    def test_number_is_not_free_before_the_next_turn(self) -> None:
        number = self.watched.fileno()
        self.watched.close()
        self.watched.close()
        os.fstat(number)
        self.reactor.advance(0)
        with self.assertRaises(OSError):
            os.fstat(number)
        self.assertEqual(self.reactor.getDelayedCalls(), [])

    def test_closed_it_waits_for_nothing_and_acts_no_more(self) -> None:
        self.watched.wait_readable()
        self.watched.wait_writable()
        self.watched.close()
        self.assertEqual(self.watched.fileno(), -1)
        self.give_up()
        self.assertEqual(self.reactor.getReaders() + self.reactor.getWriters(), [])
        self.assertEqual(self.acted, 0)
