"""The log line of a command: how it ended, as one structured event, or as a line only.

Its functions are subscribers: of the file server's commands, and of the NAT table. The protocols
log no commands. `CommandLines` replaces them where no observer but the daemon's own log takes the
events.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from twisted.logger import Logger, LogLevel

from natproxy.address import Address
from natproxy.nat import Event, Failed, NATEntry, Outcome, Removed
from natproxy.nat.events import total_of
from natproxy.protocol import VERBS, Command, name_of, printable
from natproxy.records.command_texts import files_of
from natproxy.records.packed import format_packed
from natproxy.server.events import Finished

_FILESERVER = "natproxy.fileserver.commands"
_PROXY = "natproxy.proxy.command_log"
_fileserver_log = Logger(namespace=_FILESERVER)
_proxy_log = Logger(namespace=_PROXY)

# Its command has not ended.
_RETRIED = Outcome.RETRIED

LONGEST_CACHED = 256
"""Bytes of a command of which the words are cached."""

# There is an event for each command, and most clients send several.
_text_of = lru_cache(maxsize=1024)(str)


def log_finished(event: Finished) -> None:
    """Log the end of a command of the file server."""
    log_command(
        _fileserver_log,
        event.client,
        event.command,
        event.outcome,
        event.sent,
        event.ended_at - event.started_at,
        _route_of(event.translation),
        event.identity,
        translation=event.translation,
    )


def _route_of(translation: str | None) -> str:
    """Return the end of the line of a command of which a proxy has sent its translation."""
    return "" if translation is None else f", translation {translation}"


def log_translation(event: Event) -> None:
    """Log the end of a proxied command, with its NAT port; ignore other events of the table."""
    if isinstance(event, (Removed, Failed)) and event.outcome is _RETRIED:
        return
    if isinstance(event, Removed):
        local, upstream = event.key
        shown = _text_of(upstream)
        log_command(
            _proxy_log,
            event.client,
            event.command,
            event.outcome,
            total_of(event),
            event.monotonic - event.started_at,
            f", from port {local.port} to {shown}",
            identity=event.identity,
            nat_port=local.port,
            upstream=shown,
        )
    elif isinstance(event, Failed):
        log_command(
            _proxy_log,
            event.client,
            event.command,
            event.outcome,
            total_of(event),
            event.monotonic - event.started_at,
            identity=event.identity,
            nat_port=None,
            upstream=None,
        )


class Note(Protocol):
    """Writes a line to the log of the daemon, now or within a short time."""

    def __call__(
        self, namespace: str, when: float, text_of: Callable[..., str], *arguments: Any
    ) -> object:
        """Note a line.

        :param namespace: as of an event.
        :param when: seconds since the epoch.
        :param text_of: returns the text, from the arguments.
        """
        ...


class CommandLines:
    """Notes the commands that have ended, for a log that has lines only.

    Its methods are subscribers: of the NAT table, and of the file server's commands. No event is
    made: in the path of a command, its end is only noted.

    :param note: writes a line.
    :param wall_clock: returns seconds since the epoch.
    """

    def __init__(self, note: Note, wall_clock: Callable[[], float] = time.time) -> None:
        self._note = note
        self._wall_clock = wall_clock

    def removed(self, entry: NATEntry, wall: float, now: float) -> None:
        """Note a proxied command that has ended; see `natproxy.nat.table.Counter`."""
        if entry.outcome is not _RETRIED:
            self._note(_PROXY, wall, _text_of_entry, entry, now)

    def failed(self, event: Event) -> None:
        """Note a command that never had an upstream connection; ignore other events."""
        if isinstance(event, Failed) and event.outcome is not _RETRIED:
            duration = event.monotonic - event.started_at
            client = event.client, event.identity
            ended = client, event.command, event.outcome, total_of(event), duration
            self._note(_PROXY, event.time, _text_of_command, *ended)

    def finished(self, event: Finished) -> None:
        """Note a command of the file server that has ended."""
        client = event.client, event.identity
        duration = event.ended_at - event.started_at
        route = _route_of(event.translation)
        ended = client, event.command, event.outcome, event.sent, duration, route
        self._note(_FILESERVER, self._wall_clock(), _text_of_command, *ended)


class CommandText(NamedTuple):
    """The text of the log line of a command; it is formatted when an observer takes it.

    :ivar identity: the client's authenticated name; ``None`` if it has none.
    :ivar route: end of the line, such as ``, from port 43210 to 127.0.0.1:9001``.
    """

    client: Address
    identity: str | None
    request: str
    outcome: str
    sent: int
    duration: float
    route: str

    def __str__(self) -> str:
        who = "" if self.identity is None else f" ({self.identity})"
        return (
            f"{_text_of(self.client)}{who} {self.request}: {self.outcome}, {self.sent} bytes"
            f" in {self.duration:.3f} s{self.route}"
        )


def log_command(
    log: Logger,
    client: Address,
    command: Command,
    outcome: Outcome,
    sent: int,
    duration: float,
    route: str = "",
    identity: str | None = None,
    **fields: object,
) -> None:
    """Log the end of a command as one event, printable and without a secret.

    The event has the fields ``client``, ``client_host``, ``client_port``, ``identity``,
    ``request`` (the verb with its arguments as sent), ``verb``, ``name`` (of the file or
    directory, decoded), ``outcome``, ``bytes`` and ``duration``, and ``text`` is its line. Of a
    command that names several files, ``name`` is the first, ``request`` has it and the number of
    the others, and there is a field ``files`` with their number.

    :param log: its namespace becomes the event's.
    :param sent: bytes of the reply, header included.
    :param duration: seconds from the start of the command to its end.
    :param route: end of the line, such as ``, from port 43210 to 127.0.0.1:9001``.
    :param identity: the client's authenticated name; ``None`` if it has none.
    :param fields: further fields of the event.
    """
    verb, name, request, files = _words_of(command.shown)
    if files > 1:
        fields["files"] = files
    ended = outcome._value_
    # `Logger.info` takes three times as long, most of it to check the level.
    log.observer(
        {
            "log_logger": log,
            "log_level": LogLevel.info,
            "log_namespace": log.namespace,
            "log_source": log.source,
            "log_format": "{text}",
            "log_time": time.time(),
            "text": CommandText(client, identity, request, ended, sent, duration, route),
            "client": client,
            "client_host": client.host,
            "client_port": client.port,
            "identity": identity,
            "request": request,
            "verb": verb,
            "name": name,
            "outcome": ended,
            "bytes": sent,
            "duration": duration,
            **fields,
        }
    )


def _text_of_entry(entry: NATEntry, now: float) -> str:
    local, upstream = entry.key
    outcome = entry.outcome
    assert outcome is not None
    route = f", from port {local.port} to {_text_of(upstream)}"
    client = entry.client_address, entry.identity
    return _text_of_command(
        client, entry.command, outcome, entry.total, now - entry.started_at, route
    )


def _text_of_command(
    client: tuple[Address, str | None],
    command: Command,
    outcome: Outcome,
    sent: int,
    duration: float,
    route: str = "",
) -> str:
    request = _words_of(command.shown).request
    return str(CommandText(*client, request, outcome._value_, sent, duration, route))


class _Words(NamedTuple):
    """The words of a command, printable.

    :ivar name: of the file or directory, decoded; the first one of several.
    :ivar request: the verb with its arguments as sent; of several files, the first and the number
        of the others.
    :ivar files: how many files it names.
    """

    verb: str
    name: str
    request: str
    files: int


def _words_of(shown: Command) -> _Words:
    return _cached_words(shown) if len(shown.line) <= LONGEST_CACHED else _words(shown)


def _words(shown: Command) -> _Words:
    row = VERBS.get(shown.verb)
    verb = printable(shown.verb, 80) if row is None else shown.verb.decode()
    name = printable(name_of(shown))
    files = files_of(shown)
    arguments = format_packed(name, files) if files > 1 else printable(shown.name)
    return _Words(verb, name, f"{verb} {arguments}" if arguments else verb, files)


# Many commands are the same.
_cached_words = lru_cache(maxsize=1024)(_words)
