"""What an administrator does to a daemon: ``/v1/kill``, ``/v1/drain`` and ``/v1/reload``."""

from __future__ import annotations

from collections.abc import Generator
from itertools import chain
from typing import Any, NamedTuple

from twisted.python.failure import Failure
from twisted.web.server import Request

from natproxy.control.encoding import encode
from natproxy.control.json_resource import JSON, Context, JSONResource, object_of
from natproxy.control.parameters import (
    RequestError,
    parse_members,
    read_action,
    read_boot,
    read_count,
    read_filter,
    read_flag,
    read_worker,
)
from natproxy.control.peer import Peer, administrator_of
from natproxy.control.stream import Body
from natproxy.protocol import printable
from natproxy.records.filter import Filter
from natproxy.records.record import Record

KILL = 10
"""Entries for which the end of one command counts in the work of a turn."""


class Selection(NamedTuple):
    """The translations to end.

    :ivar serial: of the only one; ``None`` for all that the filter matches.
    """

    serial: int | None
    filter: Filter | None

    def selects(self, record: Record, now: int) -> bool:
        if self.serial is not None:
            return record.serial == self.serial
        return self.filter is None or self.filter.matches(record, now)

    @property
    def text(self) -> str:
        """What is selected, for the log and for the event; a long filter is cut."""
        if self.serial is not None:
            return f"serial {self.serial}"
        return printable(self.filter.text.encode()) if self.filter else "all"


class KillResource(JSONResource):
    """Ends commands: the client's connection and the upstream's are reset."""

    path = "/v1/kill"
    summary = "end the command of a serial, or of all that a filter matches"
    parameters = {"POST": {}}
    members = {
        "serial": read_count,
        "filter": read_filter,
        "all": read_flag,
        "boot": read_boot,
        "worker": read_worker,
        "dry_run": read_flag,
    }

    def post(self, request: Request, values: dict[str, Any]) -> Any:
        """End the commands, and stream their records.

        :raises RequestError: with 400 if nothing is selected, with 409 if another run of the
            daemon is meant.
        """
        members = parse_members(object_of(request), self.members, self.context.now())
        origin = self.context.observed.origin
        if members.get("boot", origin.boot) != origin.boot:
            raise RequestError(
                409, f"the daemon has restarted: its boot is {origin.boot}, and serials begin anew"
            )
        if members.get("worker", origin.worker) != origin.worker:
            raise RequestError(400, f"worker: there is no worker {members['worker']}")
        selection = selection_of(members)
        dry_run = members.get("dry_run", False)
        work = self._kill(selection, dry_run, administrator_of(request))
        # If the client is gone meanwhile, the rest is ended all the same.
        self.context.jobs.walk(work).addCallbacks(
            lambda records: self._reply(request, records, dry_run),
            lambda failure: self.send_error(request, failure),
        )

    def _kill(
        self, selection: Selection, dry_run: bool, peer: Peer
    ) -> Generator[None, None, list[Record]]:
        table, ring = self.context.observed.table, self.context.observed.ring
        assert table is not None
        assert ring is not None
        found: list[Record] = []
        now = self.context.now()
        for record in chain(table.records(), table.waiting()):
            if selection.selects(record, now):
                found.append(record)
                if selection.serial is not None:
                    break
            yield
        if dry_run or not found:
            return found
        self._log.info("kill {what} by {peer}", what=selection.text, peer=peer)
        wall = self.context.wall_clock()
        ring.act("kill", wall, peer.uid, peer.pid, selection.text, selection.serial)
        killed: list[Record] = []
        for record in found:
            killed += table.kill([record], f"killed by {peer}")
            for _ in range(KILL):
                yield
        return killed

    def _reply(self, request: Request, records: list[Record], dry_run: bool) -> None:
        def body() -> Body:
            yield b'{"dry_run":%b,"translations":[' % (b"true" if dry_run else b"false"), 0
            separator = b""
            for record in records:
                yield separator + encode(record), 1
                separator = b",\n"
            yield b"]}\n", 0

        self.stream(request, body(), JSON)


class DrainResource(JSONResource):
    """Stops the daemon as SIGTERM does."""

    path = "/v1/drain"
    summary = "accept no more clients, finish the commands of the others, then stop"
    parameters = {"POST": {}}

    _draining = False

    def post(self, request: Request, values: dict[str, Any]) -> Any:
        """Begin to drain, once the response is sent.

        :raises RequestError: with 409 if it has begun.
        """
        parse_members(object_of(request), self.members, self.context.now())
        if self._draining:
            raise RequestError(409, "the daemon is draining already")
        self._draining = True
        peer = administrator_of(request)
        self._log.info("drain by {peer}", peer=peer)
        note_action(self.context, "drain", peer)
        self.context.reactor.callLater(0, self._drain)
        self.send(request, {"draining": True}, 202)

    def _drain(self) -> None:
        try:
            self.context.observed.drain()
        except Exception:
            self._draining = False
            self._log.failure("cannot drain", Failure())


class ReloadResource(JSONResource):
    """Reads the settings again, as SIGHUP does."""

    path = "/v1/reload"
    summary = "read the settings again, and change what a running daemon can change"
    parameters = {"POST": {}}
    members = {"dry_run": read_flag}

    def post(self, request: Request, values: dict[str, Any]) -> Any:
        """Reload; with errors the status is 422, and nothing has changed."""
        members = parse_members(object_of(request), self.members, self.context.now())
        dry_run = members.get("dry_run", False)
        observed = self.context.observed
        peer = administrator_of(request)
        if not dry_run:
            note_action(self.context, "reload", peer)
        assert observed.reload is not None
        # If the client is gone meanwhile, the settings are reloaded all the same.
        observed.reload(f"reload by {peer}", dry_run).addCallbacks(
            lambda result: self.send(request, *_status_of(result)),
            lambda failure: self.send_error(request, failure),
        )


class NoteResource(JSONResource):
    """Records an action of an administrator that the master of a worker carries out."""

    path = "/v1/note"
    summary = "of a worker, for its master: record a drain or a reload as an event"
    parameters = {"POST": {}}
    members = {"event": read_action}

    def post(self, request: Request, values: dict[str, Any]) -> Any:
        """Record the action.

        :raises RequestError: with 400 if it is none.
        """
        members = parse_members(object_of(request), self.members, self.context.now())
        if "event" not in members:
            raise RequestError(400, "event is missing")
        note_action(self.context, members["event"], administrator_of(request))
        return {"noted": members["event"]}


def note_action(context: Context, event: str, peer: Peer) -> None:
    """Record an administrator's action as an event, if the daemon has events."""
    observed = context.observed
    if observed.ring is not None:
        observed.ring.act(event, context.wall_clock(), peer.uid, peer.pid)
    elif observed.note is not None:
        observed.note(event, peer.uid, peer.pid)


def _status_of(result: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the members of the reply to a reload, and its status."""
    if result["errors"]:
        return {**result, "error": result["errors"][0]}, 422
    return result, 200


def selection_of(members: dict[str, Any]) -> Selection:
    """Return what the members of a request select.

    :raises RequestError: with 400 if it is nothing, or not one thing.
    """
    serial, selected, everything = (members.get(name) for name in ("serial", "filter", "all"))
    if (serial is not None) + (selected is not None) + bool(everything) != 1:
        raise RequestError(400, "one of serial, filter and all is needed")
    if selected is not None and not selected:
        raise RequestError(400, 'the filter is empty, which selects all: write "all": true')
    return Selection(serial, selected)
