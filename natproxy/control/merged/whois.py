"""Who was behind a port, from what each worker has found."""

from __future__ import annotations

from collections.abc import Sequence

from natproxy.control.merged.errors import Missing
from natproxy.records.record import Record
from natproxy.records.whois import FOUND, NOBODY, UNKNOWN, Gap, WhoisQuery, WhoisReply


def merge_replies(
    query: WhoisQuery, replies: Sequence[WhoisReply], missing: Sequence[Missing], now: int
) -> WhoisReply:
    """Return the reply of a daemon to a lookup.

    It is `FOUND` only if the translation that is nearest to the middle of the interval is known;
    it is never `NOBODY` while a worker's reply is missing, or unknown.

    :param replies: of the workers that have replied.
    :param missing: the others.
    :param now: microseconds since the epoch.
    """
    until = now if query.until is None else query.until
    since = until if query.since is None else query.since
    middle = (since + until) // 2

    def distance(record: Record) -> int:
        started = record.started or 0
        end = until if record.ended is None else record.ended
        return max(started - middle, middle - end, 0)

    found = [one for reply in replies if reply.result == FOUND for one in reply.translations]
    gaps = [reply.gap for reply in replies if reply.gap is not None]
    gaps += [Gap(None, None, str(one)) for one in missing]
    gap = gaps[0] if gaps else None
    unknown = bool(missing) or any(reply.result == UNKNOWN for reply in replies)
    if found and not (unknown and min(map(distance, found))):
        return WhoisReply(FOUND, tuple(sorted(found, key=distance)), gap)
    if unknown:
        possible = [one for reply in replies for one in reply.translations]
        return WhoisReply(UNKNOWN, tuple(sorted(possible, key=distance)), gap)
    lasts = [reply.last for reply in replies if reply.last is not None]
    last = max(lasts, key=lambda record: record.ended or 0, default=None)
    return WhoisReply(NOBODY, gap=gap, last=last)
