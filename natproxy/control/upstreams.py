"""``/v1/upstreams``: the upstreams of a proxy, and which of them take commands."""

from __future__ import annotations

from typing import Any, NoReturn

from twisted.web.server import Request

from natproxy.control.json_resource import JSONResource, object_of
from natproxy.control.parameters import RequestError, parse_members, read_mode, read_name
from natproxy.control.peer import Peer, administrator_of
from natproxy.protocol import printable
from natproxy.records.upstreams import MODES, UpstreamsRecord

MODE_EVENT = "upstream-mode"
"""The event of an administrator who has set the mode of an upstream."""


class UpstreamsResource(JSONResource):
    """The upstreams: their health, their modes, what they do, and the queue before them."""

    path = "/v1/upstreams"
    summary = "the upstreams, their health and the queue before them"

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Return the members of `UpstreamsRecord`."""
        return self.upstreams().json()

    def upstreams(self) -> UpstreamsRecord:
        """Return the upstreams of this process."""
        assert self.context.observed.upstreams is not None
        return self.context.observed.upstreams.record()


class UpstreamModesResource(UpstreamsResource):
    """The upstreams, with an action: the mode of one is set."""

    parameters = {"GET": {}, "POST": {}}
    members = {"upstream": read_name, "mode": read_mode}

    def post(self, request: Request, values: dict[str, Any]) -> Any:
        """Set the mode of an upstream, and return all of them.

        :raises RequestError: with 400 if there is no such upstream.
        """
        name, mode = mode_of(parse_members(object_of(request), self.members, self.context.now()))
        source = self.context.observed.upstreams
        assert source is not None
        record = source.record()
        upstream = record.find(name)
        if upstream is None:
            refuse_unknown(name, record)
        if upstream.mode != mode:
            # Before its consequences: they may be events as well.
            self._note(name, mode, administrator_of(request))
            source.set_mode(name, mode)
        return self.get(request, values)

    def _note(self, name: str, mode: str, peer: Peer) -> None:
        """Log that an administrator has set a mode, and record it as an event."""
        self._log.info("upstream {name}: {mode} by {peer}", name=name, mode=mode, peer=peer)
        ring = self.context.observed.ring
        if ring is not None:
            wall = self.context.wall_clock()
            ring.act(MODE_EVENT, wall, peer.uid, peer.pid, f"{name}: {mode}")


def mode_of(members: dict[str, Any]) -> tuple[str, str]:
    """Return which upstream is meant, and its mode.

    :raises RequestError: with 400 if one of them is missing.
    """
    if "upstream" not in members or "mode" not in members:
        raise RequestError(400, f"upstream and mode are needed: a name, and {' or '.join(MODES)}")
    return members["upstream"], members["mode"]


def refuse_unknown(name: str, record: UpstreamsRecord) -> NoReturn:
    """Refuse the name of an upstream that does not exist.

    :raises RequestError: with 400; it has the names of those that exist.
    """
    shown = printable(name.encode())
    raise RequestError(400, f"upstream: there is no {shown!r}; there are {record.names}")
