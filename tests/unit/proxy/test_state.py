"""The table of an upstream connection's states, and its diagram in the documentation."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.proxy.state import TRANSITIONS, Event, State
from natproxy.server.state import IllegalTransition
from tests.support.state_diagrams import documented_diagrams, state_diagram

LEGAL = {
    State.NEW: "REGISTERED SUPERSEDED CANCELLED",
    State.WAITING: "HEADER_BEGUN FEATURES_BEGUN BODY_BEGUN FINISHED FAILED CANCELLED",
    State.HEADER: "HEADER_BEGUN FEATURES_BEGUN BODY_BEGUN FINISHED FAILED CANCELLED",
    State.FEATURES: "FINISHED FAILED CANCELLED",
    State.BODY: "FINISHED BROKEN_OFF CANCELLED",
    State.CLOSED: "",
}
"""The events of each state."""


class TableTests(SynchronousTestCase):
    def test_every_state_has_a_row(self) -> None:
        self.assertEqual(set(TRANSITIONS), set(State))

    def test_every_pair_is_legal_or_raises(self) -> None:
        for state in State:
            for event in Event:
                if event.name in LEGAL[state].split():
                    self.assertIsInstance(TRANSITIONS[state][event], State)
                else:
                    with self.assertRaises(IllegalTransition):
                        TRANSITIONS[state][event]

    def test_error_never_follows_a_part_of_the_reply(self) -> None:
        self.assertNotIn(Event.FAILED, TRANSITIONS[State.BODY])

    def test_every_open_state_can_be_cancelled(self) -> None:
        for state in set(State) - {State.CLOSED}:
            self.assertIs(TRANSITIONS[state][Event.CANCELLED], State.CLOSED)


class DiagramTests(SynchronousTestCase):
    def test_documentation_shows_the_table(self) -> None:
        diagram = state_diagram(TRANSITIONS, State.NEW)
        self.assertIn(diagram, documented_diagrams(), f"generated:\n{diagram}")
