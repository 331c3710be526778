"""Translations as events of RFC 8158."""

from __future__ import annotations

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from natproxy.records.ipfix import ELEMENTS, ipfix_events
from natproxy.records.record import Record, parse_time
from tests.support.filters import records

TRANSLATION = Record(
    serial=1,
    started=parse_time("2026-11-26T14:03:07.123456Z"),
    ended=parse_time("2026-11-26T14:03:08.999999Z"),
    client="192.0.2.7",
    client_port=50_000,
    nat="198.51.100.1",
    nat_port=40_000,
    upstream="203.0.113.9",
    upstream_port=9001,
    verb="GET",
    name="a",
    bytes=1234,
    state="removed",
    outcome="completed",
)


class IpfixTests(SynchronousTestCase):
    def test_translation_is_a_create_and_a_delete_event(self) -> None:
        both = {
            "protocolIdentifier": 6,
            "sourceIPv4Address": "192.0.2.7",
            "sourceTransportPort": 50_000,
            "postNATSourceIPv4Address": "198.51.100.1",
            "postNAPTSourceTransportPort": 40_000,
            "postNATDestinationIPv4Address": "203.0.113.9",
            "postNAPTDestinationTransportPort": 9001,
        }
        self.assertEqual(
            list(ipfix_events(TRANSLATION)),
            [
                {"natEvent": 4, "observationTimeMilliseconds": 1_795_701_787_123, **both},
                {
                    "natEvent": 5,
                    "observationTimeMilliseconds": 1_795_701_788_999,
                    **both,
                    "responderOctets": 1234,
                },
            ],
        )

    def events(self, **members: object) -> list[int]:
        return [each["natEvent"] for each in ipfix_events(TRANSLATION._replace(**members))]

    def test_event_that_is_not_known_is_left_out(self) -> None:
        self.assertEqual(self.events(ended=None, outcome=None, state="relaying"), [4])
        self.assertEqual(self.events(ended=None, outcome="lost", state="lost"), [4])
        self.assertEqual(self.events(nat=None, nat_port=None, state="failed"), [])

    def test_record_of_an_event_is_one_event(self) -> None:
        self.assertEqual(self.events(event="registered", ended=None), [4])
        self.assertEqual(self.events(event="relaying", ended=None), [])
        self.assertEqual(self.events(event="removed"), [5])
        self.assertEqual(list(ipfix_events(Record(event="drain", time=1))), [])

    def test_versions_of_addresses(self) -> None:
        self.assertEqual(self.events(client="2001:db8::1"), [6, 7])
        self.assertEqual(self.events(client="2001:db8::1", nat="2001:db8::2"), [1, 2])
        self.assertEqual(self.events(client="unix"), [1, 2])
        created = next(ipfix_events(TRANSLATION._replace(client="::ffff:192.0.2.7")))
        self.assertEqual((created["natEvent"], created["sourceIPv4Address"]), (4, "192.0.2.7"))
        created = next(ipfix_events(TRANSLATION._replace(client="fe80::1%eth0")))
        self.assertEqual(created["sourceIPv6Address"], "fe80::1")

    def test_stand_in_is_no_port(self) -> None:
        created = next(ipfix_events(TRANSLATION._replace(client="unix", client_port=65_536)))
        self.assertNotIn("sourceTransportPort", created)
        self.assertNotIn("sourceIPv4Address", created)

    def test_identity(self) -> None:
        self.assertEqual(
            [each["userName"] for each in ipfix_events(TRANSLATION._replace(identity="alice"))],
            ["alice", "alice"],
        )

    @given(records())
    def test_every_member_is_an_element(self, record: Record) -> None:
        for members in ipfix_events(record):
            self.assertEqual(set(members) - set(ELEMENTS), set())
