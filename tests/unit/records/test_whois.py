"""Which translations a query about a port concerns, and what it replies in JSON."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.records.whois import NOBODY, UNKNOWN, Ends, Gap, WhoisQuery, WhoisReply


class EndsTests(SynchronousTestCase):
    def matches(self, nat: str | None = None, upstream: str | None = None) -> list[int]:
        """Return the numbers of the translations below that a query concerns."""
        translations = (
            ("10.0.0.1", "10.9.0.1", 9001),
            ("fe80::1%eth0", "::ffff:10.9.0.2", 9002),
            ("10.0.0.1", "unix:/run/a.sock", None),
            (None, None, None),
        )
        ends = Ends.of(WhoisQuery(40_000, nat, upstream))
        return [place for place, each in enumerate(translations) if ends.match(*each)]

    def test_nothing_selects_all(self) -> None:
        self.assertEqual(self.matches(), [0, 1, 2, 3])

    def test_host_of_the_proxy(self) -> None:
        self.assertEqual(self.matches(nat="10.0.0.1"), [0, 2])
        self.assertEqual(self.matches(nat="::ffff:10.0.0.1"), [0, 2])
        self.assertEqual(self.matches(nat="fe80:0::1"), [1])
        self.assertEqual(self.matches(nat="10.0.0.2"), [])

    def test_upstream_with_and_without_a_port(self) -> None:
        self.assertEqual(self.matches(upstream="10.9.0.1"), [0])
        self.assertEqual(self.matches(upstream="10.9.0.1:9001"), [0])
        self.assertEqual(self.matches(upstream="10.9.0.1:9002"), [])
        self.assertEqual(self.matches(upstream="[::ffff:a09:2]:9002"), [1])
        self.assertEqual(self.matches(upstream="10.9.0.2"), [1])

    def test_upstream_that_is_no_address(self) -> None:
        self.assertEqual(self.matches(upstream="unix:/run/a.sock"), [2])
        self.assertEqual(self.matches(upstream="unix:/run/b.sock"), [])


class JSONTests(SynchronousTestCase):
    def test_gap_without_an_end(self) -> None:
        reply = WhoisReply(UNKNOWN, gap=Gap(1_500_000, None, "the daemon was killed"))
        gap = {"from": "1970-01-01T00:00:01.500000Z", "to": None, "cause": "the daemon was killed"}
        expected = {"result": "unknown", "translations": [], "gap": gap, "last": None}
        self.assertEqual(reply.json(), expected)
        self.assertIsNone(WhoisReply(NOBODY).json()["gap"])
