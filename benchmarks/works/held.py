"""What clients cost in memory: those that do nothing, and those that read slowly."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping, Sequence

from benchmarks.errors import BenchmarkError
from benchmarks.load.held import idle_clients, slow_readers
from benchmarks.plan import KIB, MIB, Plan, count_text, size_text
from benchmarks.works.base import Case, Metric, Running, Work, download
from benchmarks.works.commands import SMALL, SMALL_NAME

_SPARE = 400
"""Descriptors that a peer needs for other things than clients."""
_SLOW = "slow"


class Idle(Work):
    """Clients that connect and say nothing."""

    name = "idle"
    title = "Idle clients"
    note = (
        "Growth of the resident memory of the peer's processes. HAProxy, nginx and portforward "
        "open an upstream connection as soon as a client connects, so that they hold two "
        "sockets for each idle client; natproxy holds one. HAProxy and nginx allocate "
        "tables for all their connections before the first one, which is not growth. The "
        "kernel's memory for sockets is not counted."
    )
    peers = ("natproxy", "haproxy-splice", "nginx-stream", "portforward")
    metrics = (
        Metric("kib_per_client", "KiB/client", 2),
        Metric("before_mib", "MiB before", 1),
        Metric("after_mib", "MiB with them", 1),
    )
    fresh = True

    def cases(self, plan: Plan) -> Sequence[Case]:
        """Give the one case, with as many clients as there are descriptors for."""
        count = self._count(plan)
        fewer = "" if count == plan.idle else f" (not {plan.idle:,}: too few descriptors)"
        return [Case(count_text(count, "idle client") + fewer, count)]

    def clients(self, plan: Plan) -> int:
        """Leave room for the one that is served first and last."""
        return self._count(plan) + 20

    @staticmethod
    def _count(plan: Plan) -> int:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # natproxy admits a client for each three descriptors, and keeps some for pipes.
        return max(1, min(plan.idle, (limit - _SPARE) // 4))

    def files(self, plan: Plan) -> Mapping[str, tuple[int, bool]]:
        """Give the small file."""
        return {SMALL_NAME: (SMALL, True)}

    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Connect the clients, see that the peer has all of them, and look at its memory."""
        count: int = case.value
        processes = running.processes
        download(running, SMALL_NAME, SMALL, 16, 10)
        before = processes.resident_bytes()
        sockets = processes.descriptors() + count * (1 if running.target.keeps else 2)
        with idle_clients(running.target.port, count, running.plan.patience) as crew:
            crew.ready()
            end = time.monotonic() + running.plan.patience
            while processes.descriptors() < sockets - _SPARE // 20:
                if time.monotonic() > end:
                    raise BenchmarkError(f"the peer has not accepted {count} clients")
                time.sleep(0.1)
            time.sleep(5 * running.plan.settle)
            after = processes.resident_bytes()
            download(running, SMALL_NAME, SMALL, 1, 1)
        return {
            "kib_per_client": (after - before) / KIB / count,
            "before_mib": before / MIB,
            "after_mib": after / MIB,
        }


class Memory(Work):
    """Clients that read a huge file slowly."""

    name = "memory"
    title = "Slow readers"
    note = (
        "The most that the resident memory of the proxy's processes grows while the readers "
        "each take 16 KiB five times a second. Bytes in pipes and in the sockets' buffers "
        "belong to the kernel and are not counted."
    )
    peers = (
        "natproxy",
        "natproxy-copy",
        "haproxy-splice",
        "haproxy-splice-always",
        "nginx-stream",
        "portforward",
    )
    metrics = (Metric("growth_mib", "MiB grown", 1), Metric("before_mib", "MiB before", 1))
    fresh = True

    def cases(self, plan: Plan) -> Sequence[Case]:
        """Give the one case."""
        readers = count_text(plan.readers, "slow reader")
        return [Case(f"{readers} of a {size_text(plan.slow_file)} file", plan.readers)]

    def files(self, plan: Plan) -> Mapping[str, tuple[int, bool]]:
        """Give the huge file, which has holes and is read only where readers get to."""
        return {_SLOW: (plan.slow_file, False), SMALL_NAME: (SMALL, True)}

    def measure(self, case: Case, running: Running) -> dict[str, float]:
        """Let them read, and look at the peer's memory all the while."""
        plan = running.plan
        download(running, SMALL_NAME, SMALL, 16, 10)
        before = most = running.processes.resident_bytes()
        readers = slow_readers(running.target.port, _SLOW, case.value, plan.reading, plan.patience)
        with readers as crew:
            crew.ready()
            crew.go()
            end = time.monotonic() + plan.reading
            while time.monotonic() < end:
                time.sleep(0.05)
                most = max(most, running.processes.resident_bytes())
            if not sum(crew.results()):
                raise BenchmarkError("the readers got nothing")
        return {"growth_mib": (most - before) / MIB, "before_mib": before / MIB}
