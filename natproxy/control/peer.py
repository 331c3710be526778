"""Who is at the other end of a UNIX socket."""

from __future__ import annotations

import os
import re
import socket
import struct
from typing import Any, NamedTuple

_CREDENTIALS = struct.Struct("3i")

PEER = "Natproxy-Peer"
"""The header in which a master names the administrator on whose behalf it sends a request."""


class Peer(NamedTuple):
    """A process that has sent a request; ``None`` where the system does not report it.

    :ivar uid: of its user, when it connected.
    :ivar pid: its number.
    """

    uid: int | None
    pid: int | None

    def __str__(self) -> str:
        """Return the peer as a reason names it."""
        if self.uid is None:
            return "an administrator"
        return f"uid {self.uid} (pid {self.pid})"

    def header(self) -> str:
        """Return the value of the header `PEER`."""
        return "" if self.uid is None else f"{self.uid}:{self.pid or 0}"


def peer_of(transport: Any) -> Peer:
    """Return the process at the other end of a connection (``SO_PEERCRED``)."""
    handle: Any = transport.getHandle() if hasattr(transport, "getHandle") else None
    option = getattr(socket, "SO_PEERCRED", None)
    if handle is None or option is None or handle.family != socket.AF_UNIX:
        return Peer(None, None)
    found = handle.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(found)
    return Peer(uid, pid)


def administrator_of(request: Any) -> Peer:
    """Return the process that has sent a request: of a worker's master, the one that it names."""
    peer = peer_of(request.channel.transport)
    named = request.getHeader(PEER)
    match = re.fullmatch(r"(\d{1,10}):(\d{1,10})", named or "")
    if match is None or peer.pid != os.getppid():
        return peer
    return Peer(int(match[1]), int(match[2]))
