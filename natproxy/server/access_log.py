"""The access log: one line for each command that has ended, for programs.

A line has fourteen words, separated by a space each, all of them printable ASCII:

``time client nat_port upstream verb name files outcome bytes first_byte duration reason
identity translation``

``-`` stands for what there is not. Names of files and texts are percent-encoded as on the wire, so
that a line is one line whatever a client sends. Later versions may add words at the end. A line
that begins with ``#`` is a note.

In the path of a command its end is only noted. Many lines, one after the other, take a fraction of
the time that they take between two commands.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from natproxy.address import Address
from natproxy.nat import Event, Failed, NATEntry, Outcome
from natproxy.nat.events import total_of
from natproxy.protocol import Command, encode_name, name_of
from natproxy.records.command_texts import files_of
from natproxy.records.record import format_time, microseconds_of
from natproxy.server.events import Finished

BATCH = 64
"""Commands that wait until their lines are formatted together, at most."""

LONGEST_CACHED = 256
"""Bytes of the longest command whose words are cached."""

ABSENT = "-"

# Its command has not ended.
_RETRIED = Outcome.RETRIED


class AccessLog:
    """Collects the commands that have ended, and formats their lines.

    Its methods are subscribers: of the NAT table, and of the file server's commands.

    :param first: called when a command has ended, and none has since the last `flush`.
    :param write: called with lines, and with their number.
    :param wall_clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        first: Callable[[], object],
        write: Callable[[bytes, int], object],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._first = first
        self._write = write
        self._wall_clock = wall_clock
        self._idle = True
        # What formats a line, and its arguments.
        self._noted: list[tuple[Callable[..., str], tuple[Any, ...]]] = []

    @property
    def waiting(self) -> bool:
        """Whether there are commands whose lines are not formatted."""
        return bool(self._noted)

    def removed(self, entry: NATEntry, wall: float, now: float) -> None:
        """Note a proxied command that has ended; see `natproxy.nat.table.Counter`."""
        if entry.outcome is not _RETRIED:
            self._note(_line_of_entry, entry, wall, now)

    def failed(self, event: Event) -> None:
        """Note a command that never had an upstream connection; ignore other events."""
        if isinstance(event, Failed) and event.outcome is not _RETRIED:
            self._note(_line_of_failure, event)

    def finished(self, event: Finished) -> None:
        """Note a command of the file server that has ended."""
        self._note(_line_of_command, event, self._wall_clock())

    def flush(self) -> None:
        """Pass on the lines of all commands that have been noted."""
        self._idle = True
        self._format()

    def _note(self, line_of: Callable[..., str], *arguments: Any) -> None:
        noted = self._noted
        noted.append((line_of, arguments))
        if self._idle:
            self._idle = False
            self._first()
        if len(noted) >= BATCH:
            self._format()

    def _format(self) -> None:
        noted, self._noted = self._noted, []
        if noted:
            lines = "".join([line_of(*arguments) for line_of, arguments in noted])
            self._write(lines.encode("ascii"), len(noted))


def _line_of_entry(entry: NATEntry, wall: float, now: float) -> str:
    local, upstream = entry.key
    verb, name, files = _words_of(entry.command)
    started, relaying, outcome = entry.started_at, entry.relaying_at, entry.outcome
    first_byte = ABSENT if relaying is None else f"{relaying - started:.6f}"
    reason, identity = entry.reason, entry.identity
    return (
        f"{format_time(microseconds_of(wall))} {_address(entry.client_address)} {local.port}"
        f" {_address(upstream)}"
        f" {verb} {name} {files} {ABSENT if outcome is None else outcome._value_}"
        f" {entry.total} {first_byte} {now - started:.6f}"
        f" {ABSENT if reason is None else _word(reason)}"
        f" {ABSENT if identity is None else _word(identity)} {ABSENT}\n"
    )


def _line_of_failure(event: Failed) -> str:
    ended = Finished(
        event.client,
        event.command,
        event.outcome,
        total_of(event),
        event.started_at,
        event.monotonic,
        event.reason,
        event.identity,
    )
    return _line_of_command(ended, event.time)


def _line_of_command(event: Finished, wall: float) -> str:
    client, command, outcome, sent, started, ended, reason, identity, translation = event
    verb, name, files = _words_of(command.shown)
    return (
        f"{format_time(microseconds_of(wall))} {_address(client)} - - {verb} {name} {files}"
        f" {outcome._value_} {sent} - {ended - started:.6f}"
        f" {ABSENT if reason is None else _word(reason)}"
        f" {ABSENT if identity is None else _word(identity)}"
        f" {ABSENT if translation is None else translation}\n"
    )


def _words_of(command: Command) -> tuple[str, str, int]:
    """Return verb and name of a command as words, and how many files it names."""
    return _cached_words(command) if len(command.line) <= LONGEST_CACHED else _words(command)


def _words(command: Command) -> tuple[str, str, int]:
    verb = command.verb.decode() if command.known else encode_name(command.verb[:80]).decode()
    return verb, _encoded(name_of(command)), files_of(command)


# Many commands are the same; and clients and upstreams are few.
_cached_words = lru_cache(maxsize=1024)(_words)


@lru_cache(maxsize=1024)
def _address(address: Address) -> str:
    return _word(str(address))


def _word(text: str) -> str:
    return _encoded(text.encode("utf-8", "surrogatepass"))


def _encoded(text: bytes) -> str:
    if text == b"-":
        return "%2D"
    return encode_name(text).decode("ascii") or ABSENT
