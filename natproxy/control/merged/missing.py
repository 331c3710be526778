"""The header that names the workers whose part is missing in a reply."""

from __future__ import annotations

import json

from twisted.web.server import Request

from natproxy.control.merged.errors import Missing

MISSING = "Natproxy-Missing"
"""A JSON list of objects: the worker's number, and the reason."""


def name_missing(request: Request, missing: list[Missing]) -> None:
    """Name the workers whose part is missing in the header of a reply."""
    if missing:
        value = json.dumps([one.json() for one in missing], separators=(",", ":"))
        request.setHeader(MISSING, value)
