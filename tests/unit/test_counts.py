"""Numbers with their nouns."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.counts import byte_count, counted


class CountsTests(SynchronousTestCase):
    def test_singular_and_plural(self) -> None:
        for number, text in ((0, "0 lines"), (1, "1 line"), (1500, "1,500 lines")):
            self.assertEqual(counted(number, "line"), text)
        self.assertEqual(counted(1, "entry", "entries"), "1 entry")
        self.assertEqual(counted(2, "entry", "entries"), "2 entries")

    def test_bytes_are_exact(self) -> None:
        found = [byte_count(number) for number in (0, 1, 1500)]
        self.assertEqual(found, ["0 bytes", "1 byte", "1500 bytes"])
