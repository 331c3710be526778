"""`Record`: one translation, or one event of it, with the members that every output has."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any, NamedTuple

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

MICROSECOND = timedelta(microseconds=1)


class Origin(NamedTuple):
    """What a record comes from.

    :ivar proxy: the daemon's name.
    :ivar worker: number of the process, from 0.
    :ivar boot: random text; one run of the daemon.
    """

    proxy: str
    worker: int
    boot: str


class Record(NamedTuple):
    """One translation, or one event of it. A member that does not apply is ``None``.

    Its fields have the names and the order of the members in JSON. Times are microseconds since the
    epoch (UTC) here, and ISO 8601 texts in JSON.

    :ivar event: ``registered``, ``relaying``, ``removed``, ``failed`` (a command that never had an
        upstream connection), ``kill`` or ``drain`` (by an administrator); ``None`` for a
        translation.
    :ivar time: time of the event.
    :ivar proxy: the daemon's name.
    :ivar worker: number of the process, from 0.
    :ivar boot: one run of the daemon.
    :ivar seq: number of the event, without gaps in one worker and boot. Of a translation, that of
        its first event.
    :ivar serial: number of the translation in one worker and boot.
    :ivar command: number shared by all attempts of one command.
    :ivar attempt: 1, 2, …
    :ivar started: when the translation was registered; of a failed command, when it began.
    :ivar ended: when it was removed; ``None`` while it exists, and if the end is not known.
    :ivar client: host of the client.
    :ivar client_port: its port, or a stand-in (`natproxy.address.FIRST_STAND_IN_PORT`).
    :ivar identity: the client's authenticated name; ``None`` until there is authentication.
    :ivar nat: the proxy's host on the upstream connection.
    :ivar nat_port: its port there, the key of the translation.
    :ivar upstream: host of the upstream.
    :ivar upstream_port: its port.
    :ivar verb: of the command, printable.
    :ivar name: of the file, percent-encoded as on the wire; ``""`` if there is none.
    :ivar promised: bytes of the reply's body; ``None`` if they are not known.
    :ivar bytes: bytes passed to the client, header included.
    :ivar state: ``registered``, ``relaying``, ``removed``, or ``lost``: the daemon was killed, and
        the end is not known.
    :ivar outcome: how it ended; see `natproxy.nat.Outcome`.
    :ivar reason: text of the error, or why it was ended.
    :ivar duration: seconds from the start of the command, its upstream's connection included, to
        its end, or until now.
    :ivar uid: of the administrator, for ``kill`` and ``drain``.
    :ivar pid: likewise.
    :ivar files: how many files the command names, if they are several; ``name`` is the first.
    :ivar others: their names but the first, as ``name`` is, separated by spaces; ``None`` if they
        are not recorded.
    :ivar total: bytes that all attempts of the command have passed to the client; of the last event
        of a command that had several attempts.
    """

    event: str | None = None
    time: int | None = None
    proxy: str = ""
    worker: int = 0
    boot: str = ""
    seq: int | None = None
    serial: int | None = None
    command: int | None = None
    attempt: int | None = None
    started: int | None = None
    ended: int | None = None
    client: str | None = None
    client_port: int | None = None
    identity: str | None = None
    nat: str | None = None
    nat_port: int | None = None
    upstream: str | None = None
    upstream_port: int | None = None
    verb: str | None = None
    name: str | None = None
    promised: int | None = None
    bytes: int | None = None
    state: str | None = None
    outcome: str | None = None
    reason: str | None = None
    duration: float | None = None
    uid: int | None = None
    pid: int | None = None
    files: int | None = None
    others: str | None = None
    total: int | None = None

    def json(self) -> dict[str, Any]:
        """Return the object for JSON: a translation has no members of events.

        ``uid`` and ``pid`` are members of ``kill`` and ``drain`` only; ``files`` and ``others`` of
        a command that names several files, ``total`` of one that had several attempts.
        """
        members = self._asdict()
        for member in TIMES:
            if members[member] is not None:
                members[member] = format_time(members[member])
        if self.event is None:
            del members["event"], members["time"]
        if self.uid is None:
            del members["uid"], members["pid"]
        if self.files is None:
            del members["files"], members["others"]
        if self.total is None:
            del members["total"]
        return members

    @classmethod
    def from_json(cls, members: dict[str, Any]) -> Record:
        """Return the record of an object that `json` returned; unknown members are ignored.

        :raises ValueError: if a time is malformed.
        """
        known = {member: members[member] for member in cls._fields if member in members}
        for member in TIMES:
            if known.get(member) is not None:
                known[member] = parse_time(known[member])
        return cls(**known)


TIMES = ("time", "started", "ended")
"""The members that are times."""


def microseconds_of(seconds: float) -> int:
    """Return seconds, since the epoch or of a duration, as whole microseconds."""
    return round(seconds * 1_000_000)


def format_time(microseconds: int) -> str:
    """Format microseconds since the epoch as UTC: ``2026-11-26T14:03:07.123456Z``."""
    second, fraction = divmod(microseconds, 1_000_000)
    return f"{format_second(second)}.{fraction:06d}Z"


# Most records and log lines are of the same second as the one before.
@lru_cache(maxsize=64)
def format_second(seconds: int) -> str:
    """Format whole seconds since the epoch as UTC: ``2026-11-26T14:03:07``."""
    return (EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds")[:19]


def parse_time(text: str) -> int:
    """Return the microseconds since the epoch of a text that `format_time` returned.

    :raises ValueError: if it is malformed.
    """
    # `fromisoformat` of Python 3.10 does not accept the letter Z.
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    if moment.tzinfo is None:
        raise ValueError("the time has no zone")
    return (moment - EPOCH) // MICROSECOND
