"""CPU seconds and resident memory of a peer's own processes."""

from __future__ import annotations

import sys
import time
from typing import Any

from benchmarks.errors import BenchmarkError, MissingDependency


def _psutil() -> Any:
    try:
        import psutil
    except ImportError:
        raise MissingDependency("psutil") from None
    return psutil


def available() -> None:
    """See that this can be measured at all.

    :raises MissingDependency: if psutil is not there.
    """
    _psutil()


class Processes:
    """A process and all that it has started: nginx's workers belong to nginx.

    :param pid: of the first of them.
    :raises BenchmarkError: if it is not there.
    """

    def __init__(self, pid: int) -> None:
        self._psutil = _psutil()
        try:
            first = self._psutil.Process(pid)
            self._processes: list[Any] = [first, *first.children(recursive=True)]
        except self._psutil.NoSuchProcess:
            raise BenchmarkError("the peer has ended") from None

    def cpu_seconds(self) -> float:
        """Give the CPU seconds that they have used, in the program and in the kernel."""
        self._find()
        seconds = 0.0
        for process in self._processes:
            try:
                seconds += self._cpu_seconds(process)
            except (self._psutil.NoSuchProcess, ProcessLookupError):
                # The time of a child that has ended is its parent's.
                if process is self._processes[0]:
                    raise BenchmarkError("the peer has ended") from None
        return seconds

    def _find(self) -> None:
        """Find processes that were started since: a port may be open before its workers run."""
        try:
            children = self._processes[0].children(recursive=True)
        except self._psutil.NoSuchProcess:
            raise BenchmarkError("the peer has ended") from None
        self._processes += [one for one in children if one not in self._processes]

    @staticmethod
    def _cpu_seconds(process: Any) -> float:
        if sys.platform == "linux":
            # The clock of clock_getcpuclockid(3) counts nanoseconds, and the threads that
            # have ended; what /proc says, and so psutil, comes in steps of 10 ms.
            try:
                # Children that have ended, as rsync has one for each connection, are in /proc only.
                ended = process.cpu_times()
                own = time.clock_gettime((~process.pid << 3) | 2)
                return own + float(ended.children_user + ended.children_system)
            except OSError:
                if not process.is_running():
                    raise ProcessLookupError(process.pid) from None
        times = process.cpu_times()
        return float(times.user + times.system)

    def resident_bytes(self) -> int:
        """Give their resident memory; pages that they share are counted for each."""
        return self._sum("memory_info", lambda info: int(info.rss))

    def descriptors(self) -> int:
        """Give the number of files and sockets that they have open."""
        return self._sum("num_fds", int)

    def _sum(self, method: str, value: Any) -> int:
        try:
            return sum(value(getattr(process, method)()) for process in self._processes)
        except self._psutil.NoSuchProcess:
            raise BenchmarkError("the peer has ended") from None
