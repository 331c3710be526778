"""Calling several gates about one command."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from natproxy.access import PROCEED, Caller, admit, ended
from natproxy.address import Address
from natproxy.protocol import Command, parse_command
from tests.support.gates import DENIED, PlayedGate, limited
from tests.support.logged_errors import LoggedErrorsCase

CLIENT = Caller.at(Address("10.0.0.1", 1))


def command(line: bytes = b"LIST") -> Command:
    parsed = parse_command(line)
    assert parsed is not None
    return parsed


class AdmitTests(SynchronousTestCase):
    def test_without_a_gate_a_command_proceeds(self) -> None:
        self.assertIs(admit((), command(), CLIENT), PROCEED)

    def test_all_gates_are_asked_in_order(self) -> None:
        gates = PlayedGate(), PlayedGate()
        self.assertIs(admit(gates, command(), CLIENT), PROCEED)
        self.assertEqual([gate.asked for gate in gates], [[b"LIST"], [b"LIST"]])
        self.assertEqual([gate.ends for gate in gates], [[], []])

    def test_first_verdict_that_is_not_to_proceed_is_the_verdict_of_all(self) -> None:
        for verdict in (DENIED, limited(2.0)):
            gates = PlayedGate(), PlayedGate(verdict), PlayedGate()
            self.assertIs(admit(gates, command(), CLIENT), verdict)
            # The command that the first one has counted has ended for it, and only for it.
            self.assertEqual([gate.ends for gate in gates], [[b"LIST"], [], []])
            self.assertEqual(gates[2].asked, [])

    def test_command_has_ended_for_the_gates_before_one_that_fails(self) -> None:
        def fail(*arguments: object) -> None:
            raise ZeroDivisionError

        gates = PlayedGate(), PlayedGate()
        self.patch(gates[1], "admit", fail)
        self.assertRaises(ZeroDivisionError, admit, gates, command(), CLIENT)
        self.assertEqual([gate.ends for gate in gates], [[b"LIST"], []])


class EndedTests(LoggedErrorsCase):
    def test_gate_that_fails_does_not_keep_the_end_from_the_others(self) -> None:
        def fail(*arguments: object) -> None:
            raise ZeroDivisionError

        gates = PlayedGate(), PlayedGate()
        self.patch(gates[0], "ended", fail)
        ended(gates, command(), CLIENT)
        self.assertEqual(gates[1].ends, [b"LIST"])
        self.assertEqual(self.flush(ZeroDivisionError), 1)
