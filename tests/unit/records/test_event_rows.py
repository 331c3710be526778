"""Rows of events."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.nat import Outcome
from natproxy.records.event_rows import RETRIED


class OutcomeTests(SynchronousTestCase):
    def test_outcome_of_an_attempt_that_is_retried_is_that_of_the_table(self) -> None:
        self.assertEqual(RETRIED, Outcome.RETRIED.value)
