"""What a worker's process uses: prometheus_client shows that of the master only."""

from __future__ import annotations

import os
import resource

from natproxy.metrics.families import Family, Kind


def process_families(prefix: str, worker: int) -> list[Family]:
    """Return the CPU time and the memory of this process, with the number of the worker."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return [
        _of_worker(
            Kind.COUNTER,
            f"{prefix}_worker_cpu_seconds",
            "CPU time of the worker's process, of the user and of the system",
            worker,
            used.ru_utime + used.ru_stime,
        ),
        _of_worker(
            Kind.GAUGE,
            f"{prefix}_worker_resident_memory_bytes",
            "Resident memory of the worker's process",
            worker,
            resident_memory(),
        ),
    ]


def resident_memory() -> int | None:
    """Return the resident memory of this process, in bytes; ``None`` if it is not known."""
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _of_worker(kind: Kind, name: str, text: str, worker: int, value: float | None) -> Family:
    return Family(name, kind, text, ("worker",), [] if value is None else [((str(worker),), value)])
