"""Records for people and for programs."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.cli.records import time_text


class TimeTests(SynchronousTestCase):
    def test_time_that_no_calendar_has_is_a_number_of_seconds(self) -> None:
        self.assertEqual(time_text(10**18 * 9 * 10**9), f"@{9 * 10**18}")
