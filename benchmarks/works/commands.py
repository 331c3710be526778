"""Short commands, as many as will go through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.plan import KIB, Plan, count_text
from benchmarks.works.base import Case, Metric, Running, Work, download

SMALL = 4 * KIB
"""Bytes of the file that short commands ask for."""
SMALL_NAME = "small"


class Commands(Work):
    """Small files, one upstream connection for each."""

    name = "commands"
    title = "Short commands"
    note = (
        "Each command downloads 4 KiB over an upstream connection of its own. The clients of "
        "natproxy keep their connections; the other proxies translate connection by "
        "connection, so that their clients connect again for each command. HAProxy's log goes to a "
        "syslog daemon, whose CPU time is not counted; natproxy writes its own."
    )
    peers = (
        "natproxy",
        "natproxy-log",
        "natproxy-limits",
        "natproxy-observed",
        "natproxy-workers",
        "natproxy-defaults",
        "haproxy-splice",
        "haproxy-splice-always",
        "haproxy-log",
        "nginx-stream",
        "portforward",
        "threads",
    )
    metrics = (
        Metric("cpu_us_per_command", "CPU µs/command", 1),
        Metric("commands_per_s", "commands/s", 0),
    )

    def cases(self, plan: Plan) -> Sequence[Case]:
        """Give the one case."""
        return [Case(f"4 KiB files, {count_text(plan.clients, 'client')}", plan.clients)]

    def files(self, plan: Plan) -> Mapping[str, tuple[int, bool]]:
        """Give the small file."""
        return {SMALL_NAME: (SMALL, True)}

    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Send commands, a few for nothing and then for the record."""
        return send_commands(running, case.value, running.plan.commands)


def send_commands(running: Running, clients: int, total: int) -> dict[str, float]:
    """Let clients send commands, and give the cost of one."""
    download(running, SMALL_NAME, SMALL, clients, max(1, 160 // clients))
    times = max(1, total // clients)
    tally, cpu = download(running, SMALL_NAME, SMALL, clients, times)
    return {
        "cpu_us_per_command": cpu / tally.replies * 1e6,
        "commands_per_s": tally.replies / tally.seconds,
    }
