"""Counts of commands by verb and outcome, with their bytes and durations."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from natproxy.metrics.families import SECONDS, Buckets, Family, Histogram, Kind, Sample
from natproxy.nat import Outcome
from natproxy.protocol import AUTH, VERBS

OTHER = "other"
"""The verb of all commands that natproxy does not implement.

A client chooses their text, so that as labels they would be without number.
"""

_COMPLETED = Outcome.COMPLETED
# Its command has not ended: it is not counted.
_RETRIED = Outcome.RETRIED


class VerbCounters:
    """The counters of one verb.

    :ivar completed: commands with a whole reply.
    :ivar others: the other commands, by outcome.
    :ivar sent: bytes of replies.
    :ivar duration: from the start of a command to its end, in seconds.
    :ivar first_byte: from the start of a command to the header of its reply, in seconds.
    """

    __slots__ = ("_buckets", "completed", "duration", "first_byte", "others", "sent")

    def __init__(self) -> None:
        self.completed = 0
        self.others = {outcome: 0 for outcome in Outcome if outcome not in (_COMPLETED, _RETRIED)}
        self.sent = 0
        self.duration = Histogram()
        self.first_byte = Histogram()
        self._buckets = self.duration.counts

    def count(self, outcome: Outcome, sent: int, seconds: float) -> None:
        """Count the end of a command."""
        # The outcome of nearly all; the hash of another one is a function of Python.
        if outcome is _COMPLETED:
            self.completed += 1
        else:
            self.others[outcome] += 1
        self.sent += sent
        # As `Histogram.observe`, without a call.
        self._buckets[bisect_left(SECONDS, seconds)] += 1
        self.duration.sum += seconds

    @property
    def outcomes(self) -> dict[str, int]:
        """The number of commands by outcome."""
        counts = {_COMPLETED.value: self.completed}
        counts.update((outcome.value, count) for outcome, count in self.others.items())
        return counts


class CommandCounters:
    """The counters of all verbs.

    :ivar by_verb: for each verb that natproxy implements.
    :ivar other: for all other verbs.
    """

    def __init__(self) -> None:
        self.by_verb = {verb: VerbCounters() for verb in VERBS if verb != AUTH}
        self.other = VerbCounters()

    def items(self) -> list[tuple[str, VerbCounters]]:
        """Return the counters with their verbs; the last one is `OTHER`."""
        known = [(verb.decode(), counters) for verb, counters in self.by_verb.items()]
        return [*known, (OTHER, self.other)]

    def families(self, prefix: str, first_byte: bool) -> list[Family]:
        """Return the families of all verbs.

        :param prefix: of their names.
        :param first_byte: whether times to the first byte are observed.
        """
        items = self.items()
        commands: list[Sample] = [
            ((verb, outcome), count)
            for verb, counters in items
            for outcome, count in counters.outcomes.items()
        ]
        families = [
            Family(
                f"{prefix}_commands",
                Kind.COUNTER,
                "Commands that have ended",
                ("verb", "outcome"),
                commands,
            ),
            Family(
                f"{prefix}_sent_bytes",
                Kind.COUNTER,
                "Bytes of the replies to commands that have ended, headers included",
                ("verb",),
                [((verb,), counters.sent) for verb, counters in items],
            ),
            Family(
                f"{prefix}_command_duration_seconds",
                Kind.HISTOGRAM,
                "Time from the start of a command to its end",
                ("verb",),
                _observed({verb: counters.duration for verb, counters in items}),
            ),
        ]
        if first_byte:
            families.append(
                Family(
                    f"{prefix}_first_byte_seconds",
                    Kind.HISTOGRAM,
                    "Time from the start of a command to the header of its reply",
                    ("verb",),
                    _observed({verb: counters.first_byte for verb, counters in items}),
                )
            )
        return families

    def json(self) -> dict[str, Any]:
        """Return the counters for ``/v1/status``: of verbs with a command, and of all of them."""
        used = {verb: c for verb, c in self.items() if sum(c.outcomes.values())}
        return {
            "total": sum(sum(c.outcomes.values()) for c in used.values()),
            "sent": sum(c.sent for c in used.values()),
            "verbs": {verb: {**c.outcomes, "sent": c.sent} for verb, c in used.items()},
            "duration": _sum([c.duration for c in used.values()]).json(),
            "first_byte": _sum([c.first_byte for c in used.values()]).json(),
        }


def _observed(histograms: dict[str, Histogram]) -> list[Sample]:
    """Return the samples of the histograms that have an observation: each is 17 series."""
    return [((verb,), each.buckets()) for verb, each in histograms.items() if any(each.counts)]


def _sum(histograms: list[Histogram]) -> Buckets:
    counts = [sum(column) for column in zip(*(h.counts for h in histograms), strict=True)]
    return Buckets(SECONDS, counts or [0] * (len(SECONDS) + 1), sum(h.sum for h in histograms))
