"""How a journal is, for ``/v1/status`` and the metrics."""

from __future__ import annotations

from typing import Any, NamedTuple

from natproxy.records.record import format_time


class JournalStatus(NamedTuple):
    """How a journal is at one moment.

    :ivar directory: of the journal.
    :ivar complete_to: until when it is complete, in microseconds since the epoch.
    :ivar lag: seconds since the oldest event that is not durable; 0 if all are.
    :ivar rows: translations and failed commands written since the start.
    :ivar gaps: gaps recorded since the start.
    :ivar segments: number of segments, as of the last maintenance.
    :ivar bytes: of all files, likewise.
    :ivar error: why it cannot be written; ``None`` if it can.
    """

    directory: str
    complete_to: int
    lag: float
    rows: int
    gaps: int
    segments: int
    bytes: int
    error: str | None

    def json(self) -> dict[str, Any]:
        """Return the object of ``/v1/status``."""
        shown = self._replace(lag=round(self.lag, 3))._asdict()
        return {**shown, "complete_to": format_time(self.complete_to)}
