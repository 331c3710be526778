"""Commands that a gate of the proxy refuses or delays: events, and the upstream connection."""

from __future__ import annotations

from natproxy.nat import Failed, Outcome
from tests.support.gates import DENIED, PlayedGate, limited
from tests.support.proxies import ProxyCase


class GateTests(ProxyCase):
    def setUp(self) -> None:
        super().setUp()
        self.gate = PlayedGate()
        self.factory.gates = (self.gate,)

    def test_refused_command_is_one_event_without_an_upstream_connection(self) -> None:
        failed: list[Failed] = []
        self.table.subscribe(failed.append, (Failed,))
        self.gate.verdicts.append(DENIED)
        self.protocol.dataReceived(b"STAT a\n")
        self.assertEqual(self.wire.taken(), b"ERR 403 forbidden\n")
        self.assertEqual(self.endpoint.connections, [])
        (event,) = failed
        self.assertEqual((event.outcome, event.sent, event.reason), (Outcome.DENIED, 18, "rule 1"))
        self.assertEqual(self.journal.ends, ["denied"])

    def test_delayed_command_connects_when_its_delay_is_over(self) -> None:
        self.gate.verdicts.append(limited(2.0))
        self.protocol.dataReceived(b"LIST\n")
        self.assertEqual(self.endpoint.connections, [])
        self.clock.advance(2)
        self.assertEqual(len(self.endpoint.connections), 1)
        upstream = self.endpoint.last
        upstream.accept()
        upstream.send(b"OK\nEND\n")
        self.assertEqual(self.wire.taken(), b"OK\nEND\n")
        self.assertEqual(self.gate.ends, [b"LIST"])

    def test_end_is_noted_when_the_reply_is_broken_off(self) -> None:
        upstream = self.travelling(b"DOWNLOAD a\n")
        upstream.send(b"OK 9\nabc")
        (entry,) = self.table
        self.table.cancel(entry, Outcome.KILLED)
        self.assertTrue(self.wire.aborted)
        self.assertEqual(self.gate.ends, [b"DOWNLOAD a"])
