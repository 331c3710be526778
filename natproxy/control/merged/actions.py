"""``/v1/kill`` of a daemon with workers."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.server import Request

from natproxy.control.actions import KillResource, selection_of
from natproxy.control.json_resource import Context, JSONResource, object_of
from natproxy.control.merged.errors import Refusal
from natproxy.control.merged.missing import name_missing
from natproxy.control.merged.status import refuse_without_reply
from natproxy.control.merged.workers import Fleet, Gathered, Worker
from natproxy.control.parameters import RequestError, parse_members
from natproxy.control.peer import Peer, administrator_of

TIMEOUT = 6.0
"""Seconds for the end of many commands, of a worker that replies at all."""

OTHER_BOOT = 409
"""The status of a reply of a worker that is not meant."""


class MergedKill(JSONResource):
    """Ends commands of all workers."""

    path = KillResource.path
    summary = KillResource.summary
    parameters = KillResource.parameters
    members = KillResource.members

    def __init__(self, context: Context, fleet: Fleet) -> None:
        super().__init__(context)
        self._fleet = fleet

    def post(self, request: Request, values: dict[str, Any]) -> Any:
        """End the commands, and return their records.

        :raises RequestError: with 400 if nothing is selected, with 409 if a serial number is that
            of several translations.
        """
        body = object_of(request)
        members = parse_members(body, self.members, self.context.now())
        selection_of(members)
        sent = {name: str(value) if name == "filter" else value for name, value in members.items()}
        return Deferred.fromCoroutine(self._post(request, sent, administrator_of(request)))

    async def _post(self, request: Request, members: dict[str, Any], peer: Peer) -> dict[str, Any]:
        number, dry_run = members.pop("worker", None), members.get("dry_run", False)
        if "serial" in members and number is None and "boot" not in members:
            number = await self._worker_of(members["serial"])
            if number is None:
                return {"dry_run": dry_run, "translations": [], "missing": []}
        gathered = await self._kill(members, peer, number)
        refuse_without_reply(gathered)
        name_missing(request, gathered.missing)
        return {
            "dry_run": dry_run,
            "translations": [one for found in gathered.values for one in found["translations"]],
            "missing": [one.json() for one in gathered.missing],
        }

    async def _worker_of(self, serial: int) -> int | None:
        """Return the worker that has the only translation with a serial number; ``None`` if none.

        Each worker counts from 1: to end the wrong command would be worse than an error.

        :raises RequestError: with 409 if there are several, with 503 if a worker does not reply.
        """
        gathered = await self._kill({"serial": serial, "dry_run": True}, Peer(None, None), None)
        numbers = [
            worker.number for worker, found in gathered.results for _ in found["translations"]
        ]
        if len(numbers) > 1:
            listed = " and ".join(map(str, numbers))
            raise RequestError(
                409,
                f"the workers {listed} each have a translation with the serial number {serial}:"
                f" write {numbers[0]}:{serial}, or another worker",
            )
        if gathered.missing:
            raise RequestError(
                503,
                f"{gathered.missing[0]}; write WORKER:{serial} to end a command of another worker",
            )
        return numbers[0] if numbers else None

    async def _kill(
        self, members: dict[str, Any], peer: Peer, number: int | None
    ) -> Gathered[dict[str, Any]]:
        async def call(worker: Worker) -> dict[str, Any]:
            await worker.check()
            try:
                return await worker.read(self.path, members, peer, timeout=TIMEOUT)
            except Refusal as error:
                if error.status != OTHER_BOOT:
                    raise
                return {"translations": []}

        gathered = await self._fleet.gather(call, number)
        if number is not None and not (gathered.results or gathered.missing):
            raise RequestError(400, f"worker: there is no worker {number}")
        return gathered
