"""Subscribers of the NAT table that cancel entries and end connections in their callbacks."""

from __future__ import annotations

import gc
import weakref

from twisted.internet import error

from natproxy.nat import Event, Failed, Outcome, Registered, Relaying, Removed
from natproxy.proxy.attempt import UpstreamFactory
from tests.support.proxies import ProxyCase


class SubscriberCase(ProxyCase):
    def setUp(self) -> None:
        super().setUp()
        self.events: list[Event] = []
        self.table.subscribe(self.events.append)

    def kinds(self) -> list[type[Event]]:
        return [type(event) for event in self.events]

    def cancel_entries(self, event: Event) -> None:
        for entry in self.table:
            self.table.cancel(entry, Outcome.DRAINED)

    def abort_client(self, event: Event) -> None:
        self.protocol.abort(Outcome.DRAINED)

    def assert_ended(self, *kinds: type[Event]) -> None:
        """Check the events, and that the client's connection is reset."""
        self.assertEqual(self.kinds(), list(kinds))
        self.assertEqual({event.serial for event in self.events}, {1})
        self.assertTrue(self.wire.aborted)
        self.assertEqual(len(self.endpoint.connections), 1)


class EndsInCallbackTests(SubscriberCase):
    def test_when_it_is_registered(self) -> None:
        for callback in (self.cancel_entries, self.abort_client):
            self.setUp()
            self.table.subscribe(callback, (Registered,))
            self.protocol.dataReceived(b"LIST\nLIST\n")
            self.endpoint.last.accept()
            self.assertEqual(self.endpoint.last.wire.taken(), b"")
            self.assert_ended(Registered, Removed)
            self.lose_clients()

    def test_when_it_is_relaying(self) -> None:
        for callback in (self.cancel_entries, self.abort_client):
            for reply in (b"OK 9\nab", b"OK 2\nab", b"ERR file not found\n"):
                self.setUp()
                self.table.subscribe(callback, (Relaying,))
                self.travelling(b"DOWNLOAD a\nLIST\n").send(reply)
                self.assert_ended(Registered, Relaying, Removed)
                self.assertEqual(self.wire.taken(), b"")
                self.lose_clients()

    def test_when_it_is_removed(self) -> None:
        for reply in (b"OK 2\nab", b"ERR file not found\n", b"OK x\n"):
            self.setUp()
            self.table.subscribe(self.abort_client, (Removed,))
            self.travelling(b"DOWNLOAD a\nLIST\n").send(reply)
            self.assertIs(self.kinds()[-1], Removed)
            self.assertEqual(self.kinds().count(Removed), 1)
            self.assertTrue(self.wire.aborted)
            self.lose_clients()

    def test_when_it_has_failed(self) -> None:
        self.table.subscribe(self.abort_client, (Failed,))
        self.protocol.dataReceived(b"LIST\nLIST\n")
        self.endpoint.last.refuse(error.ConnectionRefusedError())
        self.assert_ended(Failed)


class CancelledEntryTests(SubscriberCase):
    def test_client_is_reset_in_every_state(self) -> None:
        for reply in (b"", b"O", b"OK 9\nabc"):
            self.setUp()
            self.travelling(b"GET a\nLIST\n").send(reply)
            self.cancel_entries(self.events[0])
            self.assertIs(self.kinds()[-1], Removed)
            self.assertTrue(self.wire.aborted)
            self.lose_clients()


class MemoryTests(ProxyCase):
    def test_idle_connection_does_not_keep_its_last_command(self) -> None:
        kept: list[weakref.ref[UpstreamFactory]] = []
        connect = UpstreamFactory.connect

        def note(factory: UpstreamFactory) -> None:
            kept.append(weakref.ref(factory))
            connect(factory)

        self.patch(UpstreamFactory, "connect", note)
        self.travelling(b"STAT %s\n" % (b"a" * 16_000)).send(b"OK type=file\n")
        self.endpoint.connections.clear()
        gc.collect()
        self.assertIsNone(kept[0]())
