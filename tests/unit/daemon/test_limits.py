"""The tables of limits in a settings file: what they may have, and how errors are named."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.access import ScopeLimits
from natproxy.address import Address
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.limits import LimitSettings, LimitTables, divided
from natproxy.daemon.parts import prepare_limits
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.server.factory import CommandFactory
from natproxy.server.gates import LimitGate
from natproxy.settings import SettingError
from tests.support.gates import PlayedGate

TABLES = {
    "client": {"commands": 4, "commands-per-second": 10.0, "burst": 20, "digests": 1},
    "identity": {"listings": 2, "packs": 3},
    "total": {"bytes-per-second": 10 << 20},
}
LIMITS = LimitSettings(
    ScopeLimits(commands=4, commands_per_second=10.0, burst=20, digests=1),
    ScopeLimits(listings=2, packs=3),
    ScopeLimits(bytes_per_second=10 << 20),
)


class TableTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.rule = LimitTables()

    def test_all_keys(self) -> None:
        self.assertEqual(self.rule.check(TABLES), LIMITS)
        self.assertEqual(self.rule.check({"total": {"bytes-per-second": "10M"}})[2], LIMITS.total)
        self.assertIs(self.rule.check(LIMITS), LIMITS)

    def test_it_is_shown_as_it_is_written(self) -> None:
        self.assertEqual(self.rule.plain(LIMITS), TABLES)
        self.assertEqual(self.rule.plain(LimitSettings()), {})

    def test_errors_name_the_key(self) -> None:
        wrong: list[tuple[Any, str]] = [
            (3, "limits: must be tables: limits.client, limits.identity, limits.total"),
            ({"clients": {}}, "limits.clients: unknown key; did you mean limits.client?"),
            ({"client": 3}, "limits.client: must be a table, such as commands = 100"),
            ({"client": {"pack": 3}}, "limits.client.pack: unknown key; did you mean"),
            ({"total": {"commands": 0}}, "limits.total.commands 0: must be a whole number"),
            ({"total": {"burst": True}}, "limits.total.burst true: must be a whole number"),
            ({"client": {"bytes-per-second": 9}}, "limits.client.bytes-per-second 9: must be"),
            (
                {"client": {"commands-per-second": 0}},
                "limits.client.commands-per-second 0: must be a number from 0.001 to 1000000000",
            ),
            (
                {"total": {"connections-per-second": 3}},
                "limits.total.connections-per-second: only limits.client may have it",
            ),
            ({"client": {"commands-per-second": "3"}}, "limits.client.commands-per-second"),
        ]
        for value, message in wrong:
            error = self.assertRaises(ValueError, self.rule.check, value)
            self.assertTrue(str(error).startswith(message), f"{error} is not {message}")

    def test_both_daemons_have_them(self) -> None:
        for kind in (ProxyConfig, FileServerConfig):
            self.assertEqual(kind(limits=LIMITS).limits, LIMITS)
            self.assertEqual(kind().limits, LimitSettings())
            self.assertRaises(SettingError, kind, max_delay=-1.0)


class DividedTests(SynchronousTestCase):
    @given(
        st.integers(1, 16),
        st.builds(
            ScopeLimits,
            commands=st.none() | st.integers(1, 1000),
            commands_per_second=st.none() | st.floats(0.001, 1000),
            burst=st.none() | st.integers(1, 1000),
            bytes_per_second=st.none() | st.integers(1024, 1 << 30),
            digests=st.none() | st.integers(1, 1000),
            listings=st.none() | st.integers(1, 1000),
            packs=st.none() | st.integers(1, 1000),
            connections_per_second=st.none() | st.floats(0.001, 1000),
        ),
    )
    def test_workers_together_exceed_a_limit_by_less_than_their_number(
        self, workers: int, limits: ScopeLimits
    ) -> None:
        for limit, share in zip(limits, divided(limits, workers), strict=True):
            if limit is None or share is None:
                self.assertEqual(limit, share)
            elif isinstance(limit, float):
                self.assertAlmostEqual(share * workers, limit)
            else:
                self.assertTrue(limit <= share * workers < limit + workers)

    def test_one_process_has_all(self) -> None:
        limits = ScopeLimits(commands=3)
        self.assertIs(divided(limits, 1), limits)


class EffectTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.factory = CommandFactory(Clock(), 600.0)
        self.gate = LimitGate(self.factory)

    def prepare(self, limits: LimitSettings = LIMITS, max_delay: float = 5.0) -> None:
        prepare_limits(self.gate, 1, ProxyConfig(limits=limits, max_delay=max_delay))()

    def test_without_limits_there_is_no_gate(self) -> None:
        self.prepare(LimitSettings())
        self.assertEqual((self.factory.gates, self.factory.bandwidth), ((), None))

    def test_limits_are_the_last_gate_once(self) -> None:
        rules = PlayedGate()
        self.factory.gates = (rules,)
        self.prepare()
        self.prepare()
        self.assertEqual(len(self.factory.gates), 2)
        self.assertIs(self.factory.gates[0], rules)
        self.assertIsNotNone(self.factory.bandwidth)
        self.prepare(LimitSettings(ScopeLimits(commands=1)))
        self.assertIsNone(self.factory.bandwidth)
        self.prepare(LimitSettings())
        self.assertEqual(self.factory.gates, (rules,))

    def test_limit_of_new_connections_needs_no_gate(self) -> None:
        self.prepare(LimitSettings(ScopeLimits(connections_per_second=0.5)))
        self.assertEqual(self.factory.gates, ())
        client = Address("192.0.2.1", 1)
        self.assertEqual([self.factory.too_fast(client) for _ in range(2)], [False, True])
        self.prepare(LimitSettings())
        self.assertFalse(self.factory.too_fast(client))

    def test_longest_delay(self) -> None:
        self.prepare(max_delay=0.5)
        self.assertEqual(self.factory.delays.longest, 0.5)

    def test_nothing_changes_before_the_effect(self) -> None:
        prepare_limits(self.gate, 1, ProxyConfig(limits=LIMITS))
        self.assertEqual(self.factory.gates, ())
