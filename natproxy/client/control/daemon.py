"""`Daemon`: the resources of a control socket as methods."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from natproxy.client.control.http import Reply, request
from natproxy.client.control.json_list import JSONListParser, State
from natproxy.client.errors import (
    InvalidQuery,
    NotUnderstood,
    ServerError,
    Unavailable,
    Unsupported,
)
from natproxy.protocol import printable
from natproxy.records.record import Record, format_time, parse_time
from natproxy.records.upstreams import UpstreamsRecord
from natproxy.records.whois import WhoisQuery, WhoisReply

TIMEOUT = 10.0
"""Seconds that a daemon may be silent, where it does not search."""

SEARCH_TIMEOUT = 60.0
"""Seconds for the search of a port in the journal."""

RELOAD_TIMEOUT = 60.0
"""Seconds for a reload, which reads files and may wait for another one."""

WRONG_SETTINGS = 422
"""The status of a reload that has changed nothing, because of an error in the settings."""

UPSTREAMS = "/v1/upstreams"

MOST_JSON = 64 << 20
"""Bytes of a reply that is held in memory."""

MOST_ERROR = 1 << 16


class LostEvents(NamedTuple):
    """Events that a watcher has missed.

    :ivar worker: number of the process, from 0.
    :ivar boot: the run of the daemon; ``None`` if it is not the present one, and unknown.
    :ivar first: number of the first one.
    :ivar last: number of the last one; ``None`` if their run has ended, and their number is
        unknown: there may be none.
    :ivar proxy: the daemon's name.
    """

    worker: int
    boot: str | None
    first: int
    last: int | None
    proxy: str | None = None

    @property
    def number(self) -> int:
        """The number of events, as far as it is known."""
        return 0 if self.last is None else self.last - self.first + 1


class MissingWorker(NamedTuple):
    """A worker of a daemon whose part is missing in a reply: it does not reply in time.

    :ivar worker: its number.
    :ivar reason: one phrase.
    :ivar time: of the event that reports it, in microseconds since the epoch; else ``None``.
    """

    worker: int
    reason: str
    time: int | None = None

    def __str__(self) -> str:
        """Return the sentence for people."""
        return f"worker {self.worker} does not reply: {printable(self.reason.encode())}"


MISSING = "natproxy-missing"
"""The header that names the workers whose part is missing: a JSON list."""

Event = Record | LostEvents | MissingWorker


class Daemon:
    """A running daemon. Each call makes a connection of its own.

    All methods raise `natproxy.client.errors.ClientError`: `NoDaemon` and `CannotConnect` if
    there is no connection, `InvalidQuery` for a filter or a value that the daemon refuses,
    `Unsupported` for a resource that it does not have, `Unavailable` for a temporary failure,
    `ConnectionBroken` and `NotUnderstood` for a reply that is cut off or malformed.

    :param path: of its control socket.
    :param timeout: seconds that it may be silent.
    :ivar missing: the workers whose part is missing in the last reply.
    """

    def __init__(self, path: str, timeout: float = TIMEOUT) -> None:
        self.path = path
        self.missing: list[MissingWorker] = []
        self._timeout = timeout

    def status(self) -> dict[str, Any]:
        """Return the members of ``/v1/status``."""
        return self.document("/v1/status")

    def document(self, path: str) -> dict[str, Any]:
        """Return the JSON object of a resource, such as ``/v1/reconcile``."""
        return self._object(self._request("GET", path, timeout=self._timeout))

    def table(self, filter: str = "", limit: int | None = None) -> Iterator[Record]:  # noqa: A002
        """Yield the translations that exist now, oldest first, as they arrive."""
        query = {"filter": filter, "limit": limit}
        with self._request("GET", _target("/v1/table", query), timeout=self._timeout) as reply:
            parser = JSONListParser()
            try:
                for data in reply.chunks():
                    for members in parser.feed(data):
                        yield self._record(members)
            except ValueError:
                raise self._not_understood() from None
            if parser.state is not State.END:
                raise self._not_understood()

    def history(
        self,
        filter: str = "",  # noqa: A002
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
    ) -> Iterator[Record]:
        """Yield translations of the past, oldest first, as they are found.

        :param since: microseconds since the epoch; ``None`` for the oldest.
        :param until: likewise, not included; ``None`` for now.
        :param limit: number of translations at most, the newest ones.
        """
        query = {"filter": filter, "since": _iso(since), "until": _iso(until), "limit": limit}
        # A filter that matches nothing is silent until all segments have been searched.
        with self._request("GET", _target("/v1/history", query)) as reply:
            for line in reply.lines():
                yield self._record(self._members(line))

    def events(
        self,
        filter: str = "",  # noqa: A002
        since: int | None = None,
        until: int | None = None,
        after: str | None = None,
        last: int | None = None,
        follow: bool = False,
    ) -> Iterator[Event]:
        """Yield events, what a slow watcher has missed of them, and which workers do not reply.

        :param since: microseconds since the epoch.
        :param until: likewise, not included.
        :param after: ``WORKER:SEQ`` of the last event that is not wanted, or ``WORKER:SEQ:BOOT``:
            if another run of the daemon listens, all its events are later ones. Those of several
            workers are separated by commas.
        :param last: number of events at most, the newest ones.
        :param follow: whether to wait for new events; then the iterator only ends when the
            daemon does.
        """
        query = {
            "filter": filter,
            "since": _iso(since),
            "until": _iso(until),
            "after": after,
            "last": last,
            "follow": 1 if follow else None,
        }
        with self._request("GET", _target("/v1/events", query)) as reply:
            for line in reply.lines():
                if line:
                    yield self._event(self._members(line))

    def whois(self, query: WhoisQuery) -> WhoisReply:
        """Return who held a port, at a time or now."""
        target = _target("/v1/whois", query.json())
        return self._reply(self._object(self._request("GET", target, timeout=SEARCH_TIMEOUT)))

    def whois_each(self, queries: Iterable[WhoisQuery]) -> Iterator[WhoisReply]:
        """Yield who held each of several ports, in their order; they are sent in one request."""
        body = "".join(json.dumps(each.json()) + "\n" for each in queries)
        with self._request("POST", "/v1/whois", body, SEARCH_TIMEOUT) as reply:
            for line in reply.lines():
                yield self._reply(self._members(line))

    def kill(
        self,
        serial: int | None = None,
        filter: str | None = None,  # noqa: A002
        dry_run: bool = False,
        worker: int | None = None,
    ) -> list[Record]:
        """End the command of one translation, or of all that a filter matches.

        :param dry_run: only return them.
        :param worker: number of the process that counts the serial number; needed if several have
            a translation with it.
        :return: the translations that existed.
        """
        members: dict[str, Any] = {"filter": filter} if serial is None else {"serial": serial}
        if dry_run:
            members["dry_run"] = True
        if worker is not None:
            members["worker"] = worker
        found = self._object(self._request("POST", "/v1/kill", json.dumps(members), self._timeout))
        try:
            return [self._record(each) for each in found["translations"]]
        except (KeyError, TypeError):
            raise self._not_understood() from None

    def upstreams(self) -> UpstreamsRecord:
        """Return the upstreams of a proxy, and the queue before them."""
        return self._upstreams(self._request("GET", UPSTREAMS, timeout=self._timeout))

    def set_upstream_mode(self, name: str, mode: str) -> UpstreamsRecord:
        """Set the mode of an upstream; return all upstreams.

        :param mode: ``ready``, ``drain`` (it finishes its commands, and takes no more), or
            ``maintenance`` (it is not checked either).
        """
        body = json.dumps({"upstream": name, "mode": mode})
        return self._upstreams(self._request("POST", UPSTREAMS, body, self._timeout))

    def drain(self) -> dict[str, Any]:
        """Make the daemon refuse new clients, finish the commands of others, and exit."""
        return self._object(self._request("POST", "/v1/drain", "{}", self._timeout))

    def reload(self, dry_run: bool = False) -> dict[str, Any]:
        """Make the daemon read its settings again; return the members of ``/v1/reload``.

        They have errors if a setting is wrong; then nothing has changed.

        :param dry_run: only return what would change.
        """
        body = json.dumps({"dry_run": dry_run}).encode()
        reply = request(self.path, "POST", "/v1/reload", body, RELOAD_TIMEOUT)
        if reply.status == WRONG_SETTINGS:
            return self._object(reply)
        return self._object(self._checked(reply, "/v1/reload"))

    def _request(
        self, method: str, target: str, body: str | None = None, timeout: float | None = None
    ) -> Reply:
        data = None if body is None else body.encode()
        reply = request(self.path, method, target, data, timeout)
        return self._checked(reply, target)

    def _checked(self, reply: Reply, target: str) -> Reply:
        """Return a reply, unless its status is that of an error."""
        if 200 <= reply.status < 300:
            self.missing = _missing(reply.headers.get(MISSING))
            return reply
        with reply:
            raise self._refused(reply, target.partition("?")[0])

    def _refused(self, reply: Reply, path: str) -> Exception:
        """Return the exception for a reply with the status of an error."""
        try:
            error = json.loads(reply.read(MOST_ERROR))
            sentence, position = str(error["error"]), error.get("position")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            sentence, position = f"the daemon replied with the status {reply.status}", None
        sentence = printable(sentence.encode("utf-8", "surrogatepass"))
        if reply.status in (404, 405):
            daemon = printable(os.fsencode(self.path))
            kinds = "it is a file server, or an older proxy"
            sentence = f"the daemon at {daemon} has no {path}: {kinds}; --name selects one"
        if reply.status == 400:
            return InvalidQuery(sentence, position if type(position) is int else None)
        kind = {404: Unsupported, 405: Unsupported, 503: Unavailable}.get(reply.status, ServerError)
        refused = kind(sentence)
        refused.code = reply.status
        return refused

    def _object(self, reply: Reply) -> dict[str, Any]:
        with reply:
            return self._members(reply.read(MOST_JSON))

    def _members(self, text: bytes) -> dict[str, Any]:
        try:
            members = json.loads(text)
        except (ValueError, RecursionError):
            raise self._not_understood() from None
        if not isinstance(members, dict):
            raise self._not_understood()
        return members

    def _event(self, members: dict[str, Any]) -> Event:
        if members.get("event") == "missing":
            return self._missing_event(members)
        if members.get("event") != "lost":
            return self._record(members)
        try:
            lost = LostEvents(
                members["worker"],
                members["boot"],
                members["from"],
                members["to"],
                members.get("proxy"),
            )
        except KeyError:
            raise self._not_understood() from None
        numbers = [lost.first] if lost.last is None else [lost.first, lost.last]
        if any(type(number) is not int for number in numbers) or numbers[-1] < lost.first:
            raise self._not_understood()
        return lost

    def _missing_event(self, members: dict[str, Any]) -> MissingWorker:
        try:
            time = parse_time(members["time"])
            return MissingWorker(int(members["worker"]), str(members["reason"]), time)
        except (KeyError, ValueError, TypeError, OverflowError):
            raise self._not_understood() from None

    def _record(self, members: dict[str, Any]) -> Record:
        try:
            return Record.from_json(members)
        except (ValueError, TypeError, AttributeError):
            raise self._not_understood() from None

    def _upstreams(self, reply: Reply) -> UpstreamsRecord:
        try:
            return UpstreamsRecord.from_json(self._object(reply))
        except (KeyError, ValueError, TypeError, AttributeError):
            raise self._not_understood() from None

    def _reply(self, members: dict[str, Any]) -> WhoisReply:
        if "error" in members:
            raise InvalidQuery(str(members["error"]))
        try:
            return WhoisReply.from_json(members)
        except (KeyError, ValueError, TypeError, AttributeError):
            raise self._not_understood() from None

    def _not_understood(self) -> NotUnderstood:
        return NotUnderstood(f"{printable(os.fsencode(self.path))}: the daemon sent malformed JSON")


def _missing(text: str | None) -> list[MissingWorker]:
    """Return the workers that a header names; none if it is malformed."""
    try:
        found = json.loads(text or "[]")
        return [MissingWorker(int(each["worker"]), str(each["reason"])) for each in found]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return []


def _iso(microseconds: int | None) -> str | None:
    return None if microseconds is None else format_time(microseconds)


def _target(path: str, query: dict[str, Any]) -> str:
    """Return a path with the members of a query that have a value."""
    pairs = [
        f"{name}={_quoted(str(value))}"
        for name, value in query.items()
        if value is not None and value != ""
    ]
    return f"{path}?{'&'.join(pairs)}" if pairs else path


def _quoted(text: str) -> str:
    """Return a text percent-encoded, as ``urllib``, which is slow to import, does."""
    return "".join(
        chr(byte) if chr(byte) in _UNRESERVED else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )


_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~:")
