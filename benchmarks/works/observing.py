"""What it costs to be observed: journal, metrics and watchers, beside none of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from benchmarks.load.watchers import watchers
from benchmarks.plan import MIB, Plan, count_text
from benchmarks.works.base import Case, Metric, Running, Work
from benchmarks.works.commands import SMALL, SMALL_NAME, send_commands

IDLE_WATCHERS = 50


class Observing(Work):
    """Short commands, with journal, metrics and watchers, or without."""

    name = "observing"
    title = "The cost of being observed"
    note = (
        "Short commands as in `commands`. `natproxy` has neither control socket nor journal "
        "nor metrics; `natproxy-observed` has all three. A watcher follows every event. The CPU "
        "time is that of the proxy's process, the journal's thread included; the memory is what "
        "its resident set grows while the watchers that do not read are connected."
    )
    peers = ("natproxy", "natproxy-observed")
    metrics = (
        Metric("cpu_us_per_command", "CPU µs/command", 1),
        Metric("commands_per_s", "commands/s", 0),
        Metric("growth_mib", "MiB grown", 2),
    )

    def cases(self, plan: Plan) -> Sequence[Case]:
        """Return the cases: no watcher, one that reads, many that do not."""
        clients = count_text(plan.clients, "client")
        return [
            Case(f"{clients}, no watcher", (0, False)),
            Case(f"{clients}, 1 watcher of everything", (1, True)),
            Case(f"{clients}, {IDLE_WATCHERS} watchers that do not read", (IDLE_WATCHERS, False)),
        ]

    def files(self, plan: Plan) -> Mapping[str, tuple[int, bool]]:
        """Return the small file."""
        return {SMALL_NAME: (SMALL, True)}

    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Send commands while the watchers are connected."""
        count, reads = case.value
        plan = running.plan
        if running.control is None and count:
            return {}
        # The ring is full before: what it holds does not belong to the watchers.
        send_commands(running, plan.clients, plan.commands)
        if not count:
            return send_commands(running, plan.clients, plan.commands)
        assert running.control is not None
        before = running.processes.resident_bytes()
        with watchers(running.control, count, reads, plan.patience) as crew:
            crew.ready()
            crew.go()
            time.sleep(plan.settle)
            found = send_commands(running, plan.clients, plan.commands)
            found["growth_mib"] = (running.processes.resident_bytes() - before) / MIB
        return found
