"""The metrics of the file server: a subscriber of its commands, and the families that it shows."""

from __future__ import annotations

from typing import Any

from natproxy.fileserver.factory import FileServerFactory
from natproxy.metrics.commands import CommandCounters
from natproxy.metrics.daemon import DaemonMetrics
from natproxy.metrics.families import Family, Kind, labelled
from natproxy.records.record import Origin
from natproxy.server.events import Finished


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
        }
