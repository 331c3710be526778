"""The metrics of the file server: a subscriber of its commands, and the families that it shows."""

from __future__ import annotations

from typing import Any

from natproxy.fileserver.factory import FileServerFactory
from natproxy.metrics.commands import CommandCounters
from natproxy.metrics.daemon import DaemonMetrics
from natproxy.metrics.families import Family, Kind, counter, gauge, labelled
from natproxy.records.record import Origin
from natproxy.server.events import Finished
from natproxy.storage import ObjectStorage

_CACHE_COUNTERS = (
    ("hits", "hits", "Blocks of objects that were read from the cache"),
    ("misses", "misses", "Blocks of objects that the cache did not have"),
    ("hit_bytes", "hit_bytes", "Bytes that were read from the cache"),
    ("written_bytes", "written_bytes", "Bytes that were written to the cache"),
    ("evicted", "evicted", "Blocks that were removed from the cache for others"),
    ("refused", "refused", "Blocks not added to the cache because too little of its disk is free"),
    ("errors", "errors", "Blocks of the cache that could not be read or written, or were damaged"),
)


class FileServerMetrics(DaemonMetrics):
    """The metrics of a file server; it subscribes at once.

    :param factory: the file server.
    :param origin: the daemon's name, worker and boot.
    :ivar commands: counters by verb.
    """

    prefix = "natproxy_fileserver"

    def __init__(self, factory: FileServerFactory, origin: Origin) -> None:
        super().__init__(factory, factory.services.relays, origin)
        self.commands = CommandCounters()
        self._executors = factory.executors
        self._storage = factory.services.storage
        self._ends.append(factory.subscribe(self._finished))

    def _finished(self, event: Finished) -> None:
        commands = self.commands
        counters = commands.by_verb.get(event.command.verb, commands.other)
        counters.count(event.outcome, event.sent, event.ended_at - event.started_at)

    def families(self) -> list[Family]:
        """Return all families."""
        prefix, executors = self.prefix, self._executors
        figures = (
            (Kind.GAUGE, "threads_busy", "Threads that work, by the kind of the work", "running"),
            (
                Kind.GAUGE,
                "threads_hanging",
                "Threads that have worked for longer than the time-out",
                "hanging",
            ),
            (Kind.GAUGE, "work_queued", "Pieces of work that wait for a thread", "queued"),
            (Kind.COUNTER, "work", "Pieces of work that a thread has taken", "begun"),
            (
                Kind.COUNTER,
                "work_refused",
                "Pieces of work refused because the queue was full",
                "overloads",
            ),
            (
                Kind.COUNTER,
                "work_timeouts",
                "Pieces of work that failed because threads hang or it took too long",
                "timeouts",
            ),
        )
        return [
            *self._common_families(),
            *self.commands.families(prefix, first_byte=False),
            labelled(
                Kind.GAUGE,
                f"{prefix}_threads",
                "Threads at most, by the kind of the work",
                "kind",
                {kind: executor.limits.running for kind, executor in executors.items()},
            ),
            *(
                labelled(
                    of,
                    f"{prefix}_{name}",
                    text,
                    "kind",
                    {kind: getattr(executor, value) for kind, executor in executors.items()},
                )
                for of, name, text, value in figures
            ),
            *self._object_families(),
        ]

    def counters(self) -> dict[str, Any]:
        """Return the counters for ``/v1/status``."""
        return {
            **self._common_counters(),
            "commands": self.commands.json(),
            "threads": {
                kind: {
                    "limit": executor.limits.running,
                    "busy": executor.running,
                    "hanging": executor.hanging,
                    "queued": executor.queued,
                    "refused": executor.overloads,
                    "timeouts": executor.timeouts,
                }
                for kind, executor in self._executors.items()
            },
            **self._object_counters(),
        }

    def _object_families(self) -> list[Family]:
        """Return the families of an object store and its cache; none for a local directory."""
        storage, prefix = self._storage, self.prefix
        if not isinstance(storage, ObjectStorage):
            return []
        families = [
            gauge(
                f"{prefix}_object_memory_bytes",
                "Memory for ranges of objects that are being received or sent",
                storage.memory.held,
            )
        ]
        if storage.cache is not None:
            figures = storage.cache.figures
            families += [
                counter(f"{prefix}_cache_{name}", text, getattr(figures, field))
                for name, field, text in _CACHE_COUNTERS
            ]
            families.append(
                gauge(f"{prefix}_cache_bytes", "Bytes in the cache of objects", figures.bytes)
            )
        return families

    def _object_counters(self) -> dict[str, Any]:
        storage = self._storage
        if not isinstance(storage, ObjectStorage):
            return {}
        cache = storage.cache
        shown = {"objects": {"memory": storage.memory.held}}
        return shown if cache is None else {**shown, "cache": cache.figures._asdict()}
