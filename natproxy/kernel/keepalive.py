"""TCP keepalive, for the daemons and the client."""

from __future__ import annotations

import socket
from contextlib import suppress

IDLE = 60
"""Seconds without traffic after which the kernel probes a connection."""

INTERVAL = 15
"""Seconds between two probes."""

PROBES = 4
"""Unacknowledged probes after which the kernel closes a connection."""


def probe_idle(sock: socket.socket) -> None:
    """Enable keepalive for a TCP connection, or for those that a listening socket accepts.

    The probes make a NAT device on the path keep its entry for an idle connection. If the peer
    is silent and acknowledges no probe for two minutes, the kernel closes the connection.
    Options that the system or the socket does not support are not set; no error is raised.
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
