"""The kernel's probes of idle TCP connections; for the daemons and the client."""

from __future__ import annotations

import socket
from contextlib import suppress

IDLE = 60
"""Seconds without traffic after which the kernel probes a connection."""

INTERVAL = 15
"""Seconds between its probes."""

PROBES = 4
"""Probes without a reply after which a connection is given up."""


def probe_idle(sock: socket.socket) -> None:
    """Have the kernel probe a TCP connection, or those that a listening socket accepts, while idle.

    So a NAT device on the way does not forget it, and a peer that does not reply for two
    minutes is lost. An option that the system or the socket does not have is left out.
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
