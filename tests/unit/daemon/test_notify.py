"""Messages to the service manager, with a socket in memory."""

from __future__ import annotations

import os
from collections import deque

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon import notify
from natproxy.daemon.notify import RETRY, TRANSITIONS, WAITING, Event, Notifier, State
from natproxy.daemon.notify import take_notifier as take
from tests.support.doubles import Journal


class Datagrams:
    """A socket that can fail as if its receiver were full or missing."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self.addresses: set[str] = set()
        self.errors: deque[OSError] = deque()
        self.closed = False

    def __call__(self, *arguments: int) -> Datagrams:
        return self

    def sendto(self, message: bytes, address: str) -> None:
        assert not self.closed
        if self.errors:
            raise self.errors.popleft()
        self.received.append(message.decode())
        self.addresses.add(address)

    def close(self) -> None:
        self.closed = True


class NotifierCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.socket = Datagrams()
        self.patch(notify.socket, "socket", self.socket)
        self.clock = Clock()
        self.notifier = Notifier("/run/notify", self.clock, 30.0)

    def received(self) -> list[str]:
        received, self.socket.received = self.socket.received, []
        return received


class MessagesTests(NotifierCase):
    def test_start_reload_and_stop(self) -> None:
        self.clock.advance(2.5)
        self.notifier.ready("listens")
        self.notifier.reloading()
        self.notifier.reloaded("listens still")
        self.notifier.stopping("draining")
        self.assertEqual(
            self.received(),
            [
                "READY=1\nSTATUS=listens",
                "WATCHDOG=1",
                "RELOADING=1\nMONOTONIC_USEC=2500000",
                "READY=1\nSTATUS=listens still",
                "STOPPING=1\nSTATUS=draining",
            ],
        )
        self.assertEqual(self.socket.addresses, {"/run/notify"})

    def test_status_is_one_line(self) -> None:
        self.notifier.ready("two\nREADY=0")
        self.assertEqual(self.received()[0], "READY=1\nSTATUS=two\\nREADY=0")

    def test_reload_before_the_start_is_not_notified_of(self) -> None:
        self.notifier.reloading()
        self.notifier.reloaded("listens")
        self.assertEqual(self.received(), [])

    def test_nothing_follows_the_stop(self) -> None:
        self.notifier.ready("listens")
        self.notifier.reloading()
        self.notifier.stopping("draining")
        self.received()
        self.notifier.reloaded("listens")
        self.notifier.stopping("draining")
        self.clock.advance(100)
        self.assertEqual(self.received(), [])

    def test_stop_before_the_start(self) -> None:
        self.notifier.stopping("draining")
        self.notifier.ready("listens")
        self.assertEqual(self.received(), ["STOPPING=1\nSTATUS=draining"])

    @given(st.lists(st.sampled_from(Event)))
    def test_states_follow_the_table(self, events: list[Event]) -> None:
        notifier = Notifier("/run/notify", Clock())
        calls = {
            Event.READY: lambda: notifier.ready(""),
            Event.RELOAD: notifier.reloading,
            Event.RELOADED: lambda: notifier.reloaded(""),
            Event.STOP: lambda: notifier.stopping(""),
        }
        expected = State.STARTING
        for event in events:
            calls[event]()
            expected = TRANSITIONS[expected].get(event, expected)
            self.assertIs(notifier.state, expected)


class WatchdogTests(NotifierCase):
    def test_signs_of_life_come_at_half_of_the_period(self) -> None:
        self.clock.advance(100)
        self.assertEqual(self.received(), [])
        self.notifier.ready("listens")
        self.received()
        for _ in range(3):
            self.clock.advance(14.9)
            self.assertEqual(self.received(), [])
            self.clock.advance(0.1)
            self.assertEqual(self.received(), ["WATCHDOG=1"])

    def test_without_a_period_there_is_none(self) -> None:
        Notifier("/run/notify", self.clock).ready("listens")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_end_cancels_all_calls(self) -> None:
        self.notifier.ready("listens")
        self.socket.errors.append(BlockingIOError())
        self.notifier.stopping("draining")
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertEqual(self.notifier.closed("result"), "result")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.socket.closed)


class FailureTests(NotifierCase):
    def test_message_without_room_is_sent_later_in_order(self) -> None:
        self.socket.errors.extend([BlockingIOError(), BlockingIOError()])
        self.notifier.ready("listens")
        self.notifier.reloading()
        self.assertEqual(self.received(), [])
        self.clock.advance(RETRY)
        self.assertEqual(self.received(), [])
        self.clock.advance(RETRY)
        begun = [one.partition("=")[0] for one in self.received()]
        self.assertEqual(begun, ["READY", "RELOADING"])

    def test_few_messages_wait(self) -> None:
        self.socket.errors.extend(BlockingIOError() for _ in range(10_000))
        self.notifier.ready("listens")
        for _ in range(100):
            self.notifier.reloading()
            self.notifier.reloaded("listens")
        self.socket.errors.clear()
        self.clock.advance(RETRY)
        self.assertEqual(len(self.received()), WAITING)

    def test_error_is_logged_once_until_a_message_is_sent(self) -> None:
        journal = Journal(self)
        gone = ConnectionRefusedError(111, "Connection refused")
        self.socket.errors.extend([gone, gone])
        self.notifier.ready("listens")
        self.assertEqual(
            journal.line_with("cannot notify"),
            "cannot notify the service manager at /run/notify ($NOTIFY_SOCKET): Connection refused",
        )
        self.clock.advance(15)
        self.assertEqual(self.received(), ["WATCHDOG=1"])


class EnvironmentTests(NotifierCase):
    def test_without_the_variable_there_is_no_notifier(self) -> None:
        for address in ({}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}):
            self.assertIsNone(take(dict(address), self.clock))

    def test_variables_are_removed_for_the_children(self) -> None:
        environment = {
            "NOTIFY_SOCKET": "/run/n",
            "WATCHDOG_USEC": "1",
            "WATCHDOG_PID": "1",
            "A": "",
        }
        removed = {name: text for name, text in environment.items() if name != "A"}
        notifier = take(environment, self.clock)
        assert notifier is not None
        self.assertEqual(environment, {"A": ""})
        # A program that replaces the daemon has them.
        self.assertEqual(notifier.variables, removed)

    def test_name_in_the_abstract_namespace(self) -> None:
        notifier = take({"NOTIFY_SOCKET": "@/org/notify"}, self.clock)
        assert notifier is not None
        notifier.ready("listens")
        self.assertEqual(self.socket.addresses, {"\0/org/notify"})

    def test_period_of_this_process(self) -> None:
        own, other = str(os.getpid()), str(os.getpid() + 1)
        for period, process, seconds in [
            ("4000000", "", [2.0]),
            ("4000000", own, [2.0]),
            ("4000000", other, []),
            ("", own, []),
            ("x", own, []),
            ("0", own, []),
        ]:
            clock = Clock()
            variables = {"WATCHDOG_USEC": period, "WATCHDOG_PID": process}
            notifier = take({"NOTIFY_SOCKET": "/run/n", **variables}, clock)
            assert notifier is not None
            notifier.ready("listens")
            self.assertEqual([call.getTime() for call in clock.getDelayedCalls()], seconds)
