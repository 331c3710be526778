"""The table of the states of a worker."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from natproxy.daemon.workers.state import (
    POOL_TRANSITIONS,
    TRANSITIONS,
    Event,
    PoolEvent,
    PoolState,
    State,
)
from natproxy.server.state import IllegalTransition
from tests.support.state_diagrams import documented_diagrams, state_diagram

LEGAL = {
    State.STARTING: "READY DRAIN LOSE END",
    State.SERVING: "DRAIN LOSE END",
    State.DRAINING: "READY DRAIN LOSE END",
    State.LOST: "READY DRAIN LOSE END",
    State.ENDED: "",
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

    def test_worker_that_was_lost_never_serves_again(self) -> None:
        for event in (Event.READY, Event.DRAIN, Event.LOSE):
            self.assertIs(TRANSITIONS[State.LOST][event], State.LOST)

    def test_worker_that_drains_never_serves_again(self) -> None:
        self.assertIs(TRANSITIONS[State.DRAINING][Event.READY], State.DRAINING)

    def test_every_process_ends(self) -> None:
        for state in set(State) - {State.ENDED}:
            self.assertIs(TRANSITIONS[state][Event.END], State.ENDED)

    def test_documented_diagram_is_this_table(self) -> None:
        table: Any = TRANSITIONS
        diagram = state_diagram(table, State.STARTING)
        self.assertIn(diagram, documented_diagrams(), f"generated:\n{diagram}")


class PoolTableTests(SynchronousTestCase):
    def test_every_state_has_a_row(self) -> None:
        self.assertEqual(set(POOL_TRANSITIONS), set(PoolState))

    def test_every_pair_is_legal_or_raises(self) -> None:
        legal = {
            PoolState.NEW: "START RESUME LEAVE",
            PoolState.STARTING: "STARTED FAIL LEAVE",
            PoolState.SERVING: "LEAVE",
            PoolState.LEAVING: "LEAVE EMPTY",
            PoolState.ENDED: "LEAVE",
        }
        for state in PoolState:
            for event in PoolEvent:
                if event.name in legal[state].split():
                    self.assertIsInstance(POOL_TRANSITIONS[state][event], PoolState)
                else:
                    with self.assertRaises(IllegalTransition):
                        POOL_TRANSITIONS[state][event]

    def test_documented_diagram_is_this_table(self) -> None:
        table: Any = POOL_TRANSITIONS
        diagram = state_diagram(table, PoolState.NEW)
        self.assertIn(diagram, documented_diagrams(), f"generated:\n{diagram}")
