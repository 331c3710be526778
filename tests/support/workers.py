"""Workers whose processes are played."""

from __future__ import annotations

from natproxy.daemon.workers.process import WorkerProcess


class PlayedProcess(WorkerProcess):
    """A process that ends when the test has it end."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.signals: list[str] = []

    def poll(self) -> bool:
        return self.status is not None

    def kill(self) -> None:
        self.signals.append("KILL")

    def terminate(self) -> None:
        self.signals.append("TERM")
