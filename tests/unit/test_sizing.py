"""The script behind the tables of ``docs/scaling.md``."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.sizing import (
    LOCAL_PORTS,
    TABLES,
    Load,
    Machine,
    fleet,
    spare,
    unevenness,
    value,
    waiting,
    with_tables,
)
from natproxy.kernel.ports import PortRange
from tests.support.paths import ROOT

PAGE = (ROOT / "docs/scaling.md").read_text()


class PageTests(SynchronousTestCase):
    def test_tables_are_those_of_the_script(self) -> None:
        """After a change of a cost: ``python -m benchmarks.sizing --write docs/scaling.md``."""
        self.assertEqual(with_tables(PAGE), PAGE)

    def test_every_table_is_on_the_page(self) -> None:
        for name in TABLES:
            self.assertIn(f"<!-- sizing: {name} -->\n|", PAGE)

    def test_unknown_table_is_an_error(self) -> None:
        self.assertRaises(KeyError, with_tables, "<!-- sizing: other -->\n<!-- end -->")


class FleetTests(SynchronousTestCase):
    def test_ports_are_those_of_the_kernels_range(self) -> None:
        self.assertEqual(PortRange(32768, 60999, frozenset()).size, LOCAL_PORTS)

    def test_cores_and_bytes_are_added(self) -> None:
        one = fleet(Load(clients=10_000, rate=1.0, size=1e6, line=1e6))
        self.assertAlmostEqual(
            one.proxy_cores,
            10_000 * value("proxy_command") / 1e6 * value("workers") + 10 * value("proxy_byte"),
        )
        self.assertAlmostEqual(one.in_flight, 10_500)

    def test_one_machine_has_no_spare(self) -> None:
        self.assertEqual([spare(need) for need in (0.0, 0.9, 1.0, 1.1, 2.0)], [1, 1, 1, 3, 3])

    def test_network_may_decide(self) -> None:
        load = Load(clients=100_000)
        self.assertGreater(fleet(load, Machine(network=1e8)).proxies, fleet(load).proxies)

    @settings(max_examples=50)
    @given(st.integers(1, 10**6), st.integers(1, 10**6))
    def test_more_clients_need_no_fewer_machines(self, first: int, second: int) -> None:
        few, many = (fleet(Load(clients)) for clients in sorted((first, second)))
        self.assertLessEqual(few.proxies, many.proxies)
        self.assertLessEqual(few.database, many.database)


class SimulationTests(SynchronousTestCase):
    def test_waiting_is_near_the_formula_of_pollaczek_and_khinchine(self) -> None:
        """Times are those of a queue with one server, whose median is below its mean."""
        busy = 0.5
        short = value("proxy_command") / 1000
        bulk = short + (1 << 20) / 1e9 * value("proxy_byte") * 1000
        mean = 0.9 * short + 0.1 * bulk
        square = 0.9 * short**2 + 0.1 * bulk**2
        expected = mean + busy / mean * square / (2 * (1 - busy))
        p50, p99, p999 = waiting(busy, 20_000)
        self.assertLess(p50, expected)
        self.assertGreater(p99, expected)
        self.assertGreater(p999, p99)

    def test_commands_of_a_busier_worker_wait_longer(self) -> None:
        self.assertLess(waiting(0.3, 20_000), waiting(0.9, 20_000))

    def test_many_clients_are_spread_evenly(self) -> None:
        self.assertLess(unevenness(3_000, 2), unevenness(30, 2))
        self.assertGreaterEqual(unevenness(30, 2), 1.0)
