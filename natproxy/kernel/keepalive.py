"""TCP keepalive, for the daemons and the client."""

from __future__ import annotations

import socket
from contextlib import suppress

IDLE = 60
"""Seconds without traffic after which the kernel probes a connection."""

INTERVAL = 15
"""Seconds between its probes."""

PROBES = 4
"""Probes without a reply after which the kernel closes a connection."""


def probe_idle(sock: socket.socket) -> None:
    """Enable keepalive for a TCP connection, or for those that a listening socket accepts.

    So a NAT device on the path keeps its entry for an idle connection, and a connection whose
    peer does not reply for two minutes is lost. Options that the system or the socket does not
    support are left out.
    """
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", IDLE),
        ("TCP_KEEPINTVL", INTERVAL),
        ("TCP_KEEPCNT", PROBES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            with suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
