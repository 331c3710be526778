"""The tables of a connection's states: every pair, paths through them, and their diagram."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from twisted.trial.unittest import SynchronousTestCase

from natproxy.server.state import (
    ENDING,
    INPUT_TRANSITIONS,
    OPEN,
    TRANSITIONS,
    Event,
    IllegalTransition,
    Input,
    InputEvent,
    State,
    transition_table,
)
from tests.support.state_diagrams import documented_diagrams, state_diagram

LEGAL = {
    State.IDLE: "DISPATCH SHARE_USED HALF_CLOSE CLOSE",
    State.DISPATCHING: "REPLIED DISPATCHED UNFINISHED DELAY DRAIN HALF_CLOSE CLOSE",
    State.REPLYING: "REPLIED DRAIN",
    State.WAITING: "TURN HALF_CLOSE CLOSE",
    State.DELAYED: "RETRY HALF_CLOSE CLOSE",
    State.DRAINING: "REPLIED DRAIN HALF_CLOSE CLOSE",
    State.FLUSHING: "FLUSHED CLOSE",
    State.LINGERING: "CLOSE",
    State.CLOSING: "CLOSE",
    State.CLOSED: "REPLIED",
}
"""The events of each state, beside the end of the connection."""


class TableTests(SynchronousTestCase):
    def test_every_state_has_a_row(self) -> None:
        self.assertEqual(set(TRANSITIONS), set(State))
        self.assertEqual(set(INPUT_TRANSITIONS), set(Input))

    def test_every_pair_is_legal_or_raises(self) -> None:
        for state in State:
            legal = {Event[name] for name in LEGAL[state].split()} | {Event.ABORT, Event.LOST}
            for event in Event:
                if event in legal:
                    self.assertIsInstance(TRANSITIONS[state][event], State)
                else:
                    with self.assertRaises(IllegalTransition) as raised:
                        TRANSITIONS[state][event]
                    self.assertIn(event.name, str(raised.exception))
                    self.assertIn(state.name, str(raised.exception))

    def test_connection_can_end_in_every_state(self) -> None:
        for state in State:
            for event in (Event.ABORT, Event.LOST):
                self.assertIs(TRANSITIONS[state][event], State.CLOSED)

    def test_every_state_is_reached(self) -> None:
        reached = {State.IDLE}
        while more := {t for s in reached for t in TRANSITIONS[s].values()} - reached:
            reached |= more
        self.assertEqual(reached, set(State))

    def test_no_command_begins_after_the_end_has_begun(self) -> None:
        for state in ENDING | {State.DRAINING}:
            for target in TRANSITIONS[state].values():
                self.assertIn(target, ENDING | {State.DRAINING})
        self.assertEqual(OPEN | ENDING | {State.DRAINING}, set(State))
        self.assertFalse(OPEN & ENDING)

    def test_input_is_legal_in_every_state_and_never_opens_again(self) -> None:
        for state in Input:
            for event in InputEvent:
                self.assertIsNot(INPUT_TRANSITIONS[state][event], Input.OPEN)
        self.assertEqual(set(INPUT_TRANSITIONS[Input.TOO_LONG].values()), {Input.TOO_LONG})

    def test_table_is_looked_up_without_a_call_of_python(self) -> None:
        # Enum's own hash is a Python function; a lookup is made for each command.
        for member in (*State, *Event, *Input, *InputEvent):
            self.assertEqual(hash(member), object.__hash__(member))

    def test_row_is_a_copy(self) -> None:
        events = {Event.ABORT: State.CLOSED}
        table = transition_table({State.IDLE: events})
        events.clear()
        self.assertIs(table[State.IDLE][Event.ABORT], State.CLOSED)


class Walk(RuleBasedStateMachine):
    """Random legal events; the rules that every path through the table keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State.IDLE
        self.draining = self.ending = self.closed = False

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(sorted(TRANSITIONS[self.state], key=lambda e: e.name)))
        self.state = TRANSITIONS[self.state][event]
        self.draining |= event is Event.DRAIN
        self.ending |= event in (Event.HALF_CLOSE, Event.CLOSE, Event.ABORT, Event.LOST)
        self.closed |= event in (Event.ABORT, Event.LOST)

    @invariant()
    def ends_are_final(self) -> None:
        assert self.ending == (self.state in ENDING)
        assert self.closed == (self.state is State.CLOSED)
        assert not (self.draining and self.state in OPEN)


class WalkTests(SynchronousTestCase):
    def test_paths(self) -> None:
        run_state_machine_as_test(Walk, settings=settings(stateful_step_count=20, deadline=None))

    @given(st.lists(st.sampled_from(list(InputEvent))))
    def test_input_is_too_long_once_a_line_was(self, events: list[InputEvent]) -> None:
        state = Input.OPEN
        for event in events:
            state = INPUT_TRANSITIONS[state][event]
        expected = Input.ENDED if events else Input.OPEN
        if InputEvent.LINE_TOO_LONG in events:
            expected = Input.TOO_LONG
        self.assertIs(state, expected)


class DiagramTests(SynchronousTestCase):
    def test_documentation_shows_the_table(self) -> None:
        diagram = state_diagram(TRANSITIONS, State.IDLE)
        self.assertIn(diagram, documented_diagrams(), f"generated:\n{diagram}")

    def test_diagram_of_a_small_table(self) -> None:
        table = {
            State.IDLE: {
                Event.DISPATCH: State.REPLYING,
                Event.DRAIN: State.REPLYING,
                Event.LOST: State.CLOSED,
            },
            State.REPLYING: {Event.REPLIED: State.REPLYING, Event.LOST: State.CLOSED},
            State.CLOSED: {Event.LOST: State.CLOSED},
        }
        self.assertEqual(
            state_diagram(table, State.IDLE).splitlines(),
            [
                "stateDiagram-v2",
                "    [*] --> idle",
                "    idle --> replying: dispatch, drain",
                "    closed --> [*]",
                "    note right of closed: from every state: lost",
            ],
        )
