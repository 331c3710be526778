"""Where a reader of a daemon's events is: the last event of each of its processes."""

from __future__ import annotations

import re
from typing import NamedTuple

from natproxy.client.control.daemon import LostEvents
from natproxy.records.record import Record

_PART = re.compile(r"([0-9]{1,6}):([0-9]{1,18})(?::([0-9A-Za-z_-]{1,64}))?")


class Last(NamedTuple):
    """The last event of a worker.

    :ivar seq: its number.
    :ivar boot: the run of the worker; ``None`` for the present one.
    """

    seq: int
    boot: str | None


class Position:
    """The last event of each worker, as ``--after`` and ``/v1/status`` have it.

    :param text: ``WORKER:SEQ`` or ``WORKER:SEQ:BOOT``, several separated by commas; empty for none.
    :ivar last: by the number of the worker.
    :raises ValueError: if it is malformed.
    """

    def __init__(self, text: str = "") -> None:
        self.last: dict[int, Last] = {}
        for part in text.split(",") if text else ():
            match = _PART.fullmatch(part)
            if match is None or int(match[1]) in self.last:
                raise ValueError("must be WORKER:SEQ, such as 0:1234; several separated by commas")
            self.last[int(match[1])] = Last(int(match[2]), match[3])

    def __bool__(self) -> bool:
        """Return whether it has an event."""
        return bool(self.last)

    def __str__(self) -> str:
        """Return the text from which it can be made."""
        return ",".join(
            f"{worker}:{seq}" + (f":{boot}" if boot else "")
            for worker, (seq, boot) in sorted(self.last.items())
        )

    def advance(self, event: Record | LostEvents) -> None:
        """Continue after an event, or after those that were lost."""
        seq = event.last if isinstance(event, LostEvents) else event.seq
        if seq is not None and event.boot is not None:
            known = self.last.get(event.worker)
            if known is None or known.boot not in (None, event.boot) or known.seq < seq:
                self.last[event.worker] = Last(seq, event.boot)

    def skip(self, other: Position) -> None:
        """Continue after another position, where it is later than this one."""
        for worker, last in other.last.items():
            known = self.last.get(worker)
            if known is None or known.boot not in (None, last.boot) or known.seq < last.seq:
                self.last[worker] = last

    def until(self, other: Position) -> int:
        """Return how many events there are from here to another position, as far as is known."""
        return sum(
            max(0, seq - known.seq)
            for worker, (seq, boot) in other.last.items()
            if (known := self.last.get(worker)) is not None and known.boot in (None, boot)
        )
