"""A check of the addresses of the upstreams: of two with the same, and of the proxy's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from natproxy.daemon.doctor.finding import Finding, ok, problem, warning

CHECK = "upstreams"

EVERY = ("", "0.0.0.0", "::")  # noqa: S104  # nothing is bound
"""Interfaces of an endpoint that listens on all addresses of the host."""

NAMES = ("localhost", "localhost.localdomain")

_HOST = r"((?:[^:\\]|\\:)*)"
_UPSTREAM = re.compile(rf"(?:tcp|tls|ssl):(?:host=)?{_HOST}:(?:port=)?(\d+)(?=:|$)")
_LISTENING = re.compile(r"(?:haproxy:)*(?:tcp|tcp6|tls|ssl):(?:port=)?(\d+)(?=:|$)")
_INTERFACE = re.compile(rf":interface={_HOST}(?=:|$)")
_UNIX = re.compile(rf"(?:haproxy:)*unix:(?:path=|address=)?{_HOST}(?=:|$)")


class Place(NamedTuple):
    """Where an endpoint is.

    :ivar host: an address or a name; of a UNIX socket, its path. Of an endpoint that listens, it
        may be empty: on all addresses.
    :ivar port: 0 for a UNIX socket.
    """

    host: str
    port: int

    def __str__(self) -> str:
        """Return the text for people."""
        return f"{self.host}:{self.port}" if self.port else self.host


def check_upstreams(
    listen: Iterable[str],
    upstreams: Sequence[tuple[str, str]],
    is_local: Callable[[str], bool],
) -> list[Finding]:
    """Check whether two upstreams are one server, and whether one is the proxy itself.

    :param listen: the endpoints on which the proxy listens.
    :param upstreams: names and endpoints.
    :param is_local: returns whether an address is one of this host.
    """
    findings: list[Finding] = []
    own = [place for each in listen if (place := _place_of(each, _LISTENING)) is not None]
    names: dict[Place, list[str]] = {}
    for name, endpoint in upstreams:
        place = _place_of(endpoint, _UPSTREAM)
        if place is None:
            continue
        names.setdefault(place, []).append(name)
        if any(_is_same(place, each, is_local) for each in own):
            text = f"the upstream {name} is the proxy itself ({place}): every command would loop"
            findings.append(problem(CHECK, text, "set its endpoint to that of a file server"))
    for place, found in names.items():
        if len(found) > 1:
            text = f"{' and '.join(found)} are at one address ({place}): they fail together"
            findings.append(warning(CHECK, text, "name each file server once"))
    number = len(upstreams)
    return findings or [ok(CHECK, f"{number} at addresses of their own" if number > 1 else "one")]


def _place_of(endpoint: str, pattern: re.Pattern[str]) -> Place | None:
    """Return where an endpoint is; ``None`` if it is of another kind."""
    path = _UNIX.match(endpoint)
    if path is not None:
        return Place(_plain(path[1]), 0)
    found = pattern.match(endpoint)
    if found is None:
        return None
    if pattern is _UPSTREAM:
        return Place(_plain(found[1]), int(found[2]))
    interface = _INTERFACE.search(endpoint)
    return Place("" if interface is None else _plain(interface[1]), int(found[1]))


def _plain(text: str) -> str:
    """Return a part of an endpoint's string without its escapes."""
    return text.replace("\\:", ":")


def _is_same(upstream: Place, own: Place, is_local: Callable[[str], bool]) -> bool:
    """Return whether a connection to an upstream would be accepted by the proxy."""
    if upstream == own:
        return True
    if not upstream.port or upstream.port != own.port:
        return False
    host = upstream.host.lower()
    if own.host in EVERY:
        return host in NAMES or is_local(host)
    return host in NAMES and own.host in ("127.0.0.1", "::1")
