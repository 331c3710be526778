"""``/v1/whois``: who was behind a port, for one lookup or for thousands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.server import Request

from natproxy.control.encoding import encode
from natproxy.control.json_resource import JSON_LINES, MOST_OBJECT, JSONResource
from natproxy.control.parameters import WHOIS, RequestError, lookup_of, parse_members
from natproxy.control.stream import Body
from natproxy.records.whois import WhoisQuery, WhoisReply

GROUP = 1000
"""Lookups that are searched together."""

PARSED = 5
"""Entries for which a line that is parsed counts in the work of a turn."""


class WhoisResource(JSONResource):
    """Searches the present and the past of ports."""

    path = "/v1/whois"
    summary = "who was behind a port, at a time or now; POST: JSON lines of lookups"
    parameters = {"GET": WHOIS, "POST": {}}
    members = WHOIS

    def get(self, request: Request, values: dict[str, Any]) -> Any:
        """Return what one lookup finds."""
        lookup = lookup_of(values, self.context.now())
        return self.search([lookup], request).addCallback(lambda replies: replies[0].json())

    def post(self, request: Request, values: dict[str, Any]) -> Any:
        """Stream what each lookup finds, in their order; an error is in the place of its line."""
        self.stream(request, self._body(request.content), JSON_LINES)

    def search(
        self, lookups: list[WhoisQuery], request: Request | None = None
    ) -> Deferred[list[WhoisReply]]:
        """Return what lookups find, in their order.

        :param request: whose reply begins with it.
        """
        history = self.context.observed.history
        assert history is not None
        return history.whois(lookups)

    def _body(self, lines: Any) -> Body:
        numbered = enumerate(iter(lambda: lines.readline(MOST_OBJECT), b""), 1)
        while True:
            places: list[WhoisQuery | bytes] = []
            for number, line in numbered:
                if line.strip():
                    places.append(self._parsed(number, line))
                    yield b"", PARSED
                if len(places) == GROUP:
                    break
            if not places:
                return
            found: list[WhoisReply] = []
            lookups = [place for place in places if isinstance(place, WhoisQuery)]
            if lookups:
                yield self.search(lookups).addCallback(found.extend)
            replies: Iterator[WhoisReply] = iter(found)
            for place in places:
                yield (place if isinstance(place, bytes) else encode_reply(next(replies))), 1

    def _parsed(self, number: int, line: bytes) -> WhoisQuery | bytes:
        now = self.context.now()
        try:
            return lookup_of(parse_members(line, WHOIS, now), now)
        except RequestError as error:
            return json.dumps({"error": f"line {number}: {error}"}).encode("ascii") + b"\n"


def encode_reply(reply: WhoisReply) -> bytes:
    """Return the JSON object of what a lookup has found, on one line."""
    records = b",".join(map(encode, reply.translations))
    gap = b"null" if reply.gap is None else json.dumps(reply.gap.json()).encode("ascii")
    last = b"null" if reply.last is None else encode(reply.last)
    return b'{"result":"%b","translations":[%b],"gap":%b,"last":%b}\n' % (
        reply.result.encode("ascii"),
        records,
        gap,
        last,
    )
