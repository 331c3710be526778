"""The gate of the limits: each limit in each scope, what they count, and equal shares."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.access import PROCEED, Action, Bandwidth, Caller, Limits, ScopeLimits, Verdict
from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.protocol import Command, parse_command

ALICE = Caller.at(Address("10.0.0.1", 1), "alice")
BOB = Caller.at(Address("10.0.0.2", 1), "bob")
ALICE_ELSEWHERE = Caller.at(Address("10.0.0.2", 2), "alice")
LOCAL = Caller.at(Address("unix", FIRST_STAND_IN_PORT))


def command(line: bytes) -> Command:
    parsed = parse_command(line)
    assert parsed is not None
    return parsed


class LimitsCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.bandwidth = Bandwidth(self.clock)
        self.limits = Limits(self.clock.seconds, self.bandwidth)

    def admit(self, line: bytes = b"STAT a", client: Caller = ALICE) -> Verdict:
        return self.limits.admit(command(line), client)

    def end(self, line: bytes = b"STAT a", client: Caller = ALICE) -> None:
        self.limits.ended(command(line), client)

    def assert_proceeds(self, line: bytes = b"STAT a", client: Caller = ALICE) -> None:
        self.assertIs(self.admit(line, client), PROCEED)

    def assert_delayed(
        self, reason: str, line: bytes = b"STAT a", client: Caller = ALICE
    ) -> Verdict:
        verdict = self.admit(line, client)
        self.assertEqual((verdict.action, verdict.reason), (Action.DELAY, reason))
        return verdict


class AtATimeTests(LimitsCase):
    def test_commands_of_a_client(self) -> None:
        self.limits.set(ScopeLimits(commands=2))
        self.assert_proceeds()
        self.assert_proceeds(b"LIST")
        verdict = self.assert_delayed("client.commands")
        self.assertEqual(
            (verdict.code, verdict.text, verdict.outcome.value, verdict.at_end),
            (429, "too many commands of this client at a time retry-after=1", "limited", True),
        )
        self.assert_proceeds(client=BOB)
        self.end(b"LIST")
        self.assert_proceeds()

    def test_each_kind_has_a_limit(self) -> None:
        kinds = {"digests": b"HASH a", "packs": b"PACK a b", "listings": b"LS"}
        for key, line in kinds.items():
            self.limits.set(ScopeLimits(**{key: 1}))
            self.assert_proceeds(line)
            self.assert_delayed(f"client.{key}", line)
            self.assert_proceeds(b"STAT a")
            self.end(line)
            self.assert_proceeds(line)
            self.end(line)

    def test_both_verbs_that_list_are_counted_together(self) -> None:
        self.limits.set(ScopeLimits(listings=1))
        self.assert_proceeds(b"LIST")
        self.assert_delayed("client.listings", b"LS")

    def test_scopes(self) -> None:
        one = ScopeLimits(commands=1)
        self.limits.set(identity=one)
        self.assert_proceeds(client=ALICE)
        self.assert_delayed("identity.commands", client=ALICE_ELSEWHERE)
        self.assert_proceeds(client=BOB)
        self.assert_proceeds(client=LOCAL)
        self.limits.set(total=ScopeLimits(commands=4))
        self.assert_proceeds(client=LOCAL)
        self.assert_delayed("total.commands", client=LOCAL)

    def test_clients_of_a_unix_socket_have_no_host(self) -> None:
        self.limits.set(ScopeLimits(commands=1))
        self.assert_proceeds(client=LOCAL)
        self.assert_proceeds(client=LOCAL)

    def test_commands_that_began_before_the_limits_are_counted(self) -> None:
        self.limits.set(total=ScopeLimits(commands_per_second=1000.0))
        self.assert_proceeds(b"HASH a")
        self.limits.set(total=ScopeLimits(digests=1))
        self.assert_delayed("total.digests", b"HASH a")
        self.end(b"HASH a")
        self.assert_proceeds(b"HASH a")

    def test_without_limits_every_command_proceeds(self) -> None:
        for _ in range(1000):
            self.assert_proceeds(b"HASH a")


class RateTests(LimitsCase):
    def test_commands_a_second(self) -> None:
        self.limits.set(ScopeLimits(commands_per_second=2.0))
        self.assert_proceeds()
        self.assert_proceeds()
        verdict = self.assert_delayed("client.commands-per-second")
        self.assertEqual((verdict.seconds, verdict.at_end), (0.5, False))
        self.assertEqual(verdict.text, "too many commands of this client retry-after=1")
        self.clock.advance(0.5)
        self.assert_proceeds()
        self.assert_delayed("client.commands-per-second")

    def test_burst(self) -> None:
        self.limits.set(identity=ScopeLimits(commands_per_second=1.0, burst=5))
        for _ in range(5):
            self.assert_proceeds()
        self.assert_delayed("identity.commands-per-second")
        self.assert_proceeds(client=BOB)

    def test_pack_counts_as_its_names(self) -> None:
        self.limits.set(ScopeLimits(commands_per_second=10.0))
        self.assert_proceeds(b"PACK " + b"a " * 30)
        verdict = self.assert_delayed("client.commands-per-second")
        self.assertApproximates(verdict.seconds, 2.1, 0.001)
        self.assertIn("retry-after=3", verdict.text)

    def test_delayed_command_takes_nothing(self) -> None:
        self.limits.set(ScopeLimits(commands_per_second=1.0), total=ScopeLimits(commands=1))
        self.assert_proceeds()
        self.end()
        for _ in range(5):
            self.assert_delayed("client.commands-per-second")
        self.clock.advance(1)
        self.assert_proceeds()

    def test_bytes_in_debt_delay_the_next_command(self) -> None:
        self.limits.set(ScopeLimits(bytes_per_second=10_000))
        self.bandwidth.meter(ALICE).charge(30_000)
        verdict = self.assert_delayed("client.bytes-per-second")
        self.assertApproximates(verdict.seconds, 3.0, 0.05)
        self.assert_proceeds(client=BOB)
        self.clock.advance(3)
        self.assert_proceeds()

    def test_bytes_of_all_delay_only_who_had_more_than_a_share(self) -> None:
        self.limits.set(total=ScopeLimits(bytes_per_second=100_000))
        self.bandwidth.meter(ALICE).charge(50_000)
        self.assert_delayed("total.bytes-per-second", client=ALICE)
        self.assert_proceeds(client=BOB)


class EqualShareTests(LimitsCase):
    """The hosts share what all clients have together, however many commands each sends."""

    def served(self, seconds: int, waiting: dict[Caller, int]) -> dict[str, int]:
        """Return how many commands of each client begin; each has so many that wait always."""
        served = {caller.host: 0 for caller in waiting}
        for _ in range(seconds * 100):
            self.clock.advance(0.01)
            for caller, number in waiting.items():
                for _ in range(number):
                    if self.admit(client=caller) is PROCEED:
                        served[caller.host] += 1
                        self.end(client=caller)
        return served

    def test_commands_a_second(self) -> None:
        self.limits.set(total=ScopeLimits(commands_per_second=20.0, burst=3))
        served = self.served(10, {ALICE: 20, BOB: 1})
        self.assertApproximates(sum(served.values()), 200, 5)
        self.assertApproximates(served["10.0.0.1"], served["10.0.0.2"], 3)

    def test_commands_in_flight(self) -> None:
        self.limits.set(total=ScopeLimits(commands=1))
        self.assert_proceeds(client=ALICE)
        self.assert_delayed("total.commands", client=ALICE)
        self.assert_delayed("total.commands", client=BOB)
        self.end(client=ALICE)
        # Another connection of the host that has been served already comes first.
        self.assert_delayed("total.commands", client=ALICE)
        self.assert_proceeds(client=BOB)
        self.end(client=BOB)
        self.assert_proceeds(client=ALICE)

    def test_lost_client_does_not_stop_the_others(self) -> None:
        self.limits.set(total=ScopeLimits(commands=1))
        self.assert_proceeds(client=ALICE)
        self.assert_delayed("total.commands", client=BOB)
        self.end(client=ALICE)
        self.assert_delayed("total.commands", client=ALICE)
        self.clock.advance(1)
        self.assert_proceeds(client=ALICE)
