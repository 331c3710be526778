"""``/v1/upstreams`` of a daemon with workers: each of them has a view of its own of every upstream.

A mode is set in all workers. Those that are started later take it from the master.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.server import Request

from natproxy.control.json_resource import Context, object_of
from natproxy.control.merged.errors import NoReply
from natproxy.control.merged.missing import name_missing
from natproxy.control.merged.status import refuse_without_reply
from natproxy.control.merged.workers import Fleet, Gathered, Worker
from natproxy.control.parameters import parse_members
from natproxy.control.peer import Peer, administrator_of
from natproxy.control.upstreams import (
    UpstreamModesResource,
    UpstreamsResource,
    mode_of,
    refuse_unknown,
)
from natproxy.records.upstreams import UpstreamsRecord, merge_upstreams


class MergedUpstreams(UpstreamsResource):
    """The upstreams as all workers see them."""

    def __init__(self, context: Context, fleet: Fleet) -> None:
        super().__init__(context)
        self.fleet = fleet

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Return the members of `UpstreamsRecord`, and which workers do not reply."""
        return Deferred.fromCoroutine(self._get(request))

    async def _get(self, request: Request) -> dict[str, Any]:
        return _reply(request, await gather(self.fleet))


class MergedUpstreamModes(MergedUpstreams):
    """The upstreams of all workers, with an action: the mode of one is set."""

    parameters = UpstreamModesResource.parameters
    members = UpstreamModesResource.members

    def post(self, request: Request, values: dict[str, Any]) -> Any:
        """Set the mode of an upstream in all workers, and return all upstreams.

        :raises RequestError: with 400 if there is no such upstream.
        """
        name, mode = mode_of(parse_members(object_of(request), self.members, self.context.now()))
        return Deferred.fromCoroutine(self._post(request, name, mode, administrator_of(request)))

    async def _post(self, request: Request, name: str, mode: str, peer: Peer) -> dict[str, Any]:
        found = await gather(self.fleet)
        refuse_without_reply(found)
        record = merge_upstreams(_numbered(found))
        if record.find(name) is None:
            refuse_unknown(name, record)
        if self.context.observed.keep_mode is not None:
            # First: of the workers that start meanwhile, none is left out.
            self.context.observed.keep_mode(name, mode)
        return _reply(request, await gather(self.fleet, {"upstream": name, "mode": mode}, peer))


async def gather(
    fleet: Fleet, members: dict[str, Any] | None = None, peer: Peer | None = None
) -> Gathered[UpstreamsRecord]:
    """Return the upstreams of each worker.

    :param members: of a request that sets a mode; ``None`` for none.
    :param peer: on whose behalf.
    """

    async def call(worker: Worker) -> UpstreamsRecord:
        found = await worker.read(UpstreamsResource.path, members, peer)
        try:
            return UpstreamsRecord.from_json(found)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise NoReply("it has sent upstreams that are not understood") from None

    return await fleet.gather(call)


def _numbered(gathered: Gathered[UpstreamsRecord]) -> list[tuple[int, UpstreamsRecord]]:
    return [(worker.number, record) for worker, record in gathered.results]


def _reply(request: Request, gathered: Gathered[UpstreamsRecord]) -> dict[str, Any]:
    refuse_without_reply(gathered)
    name_missing(request, gathered.missing)
    return {
        **merge_upstreams(_numbered(gathered)).json(),
        "missing": [one.json() for one in gathered.missing],
    }
