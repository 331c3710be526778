"""Probes of silent TCP connections by the kernel, as the daemons and the client set them."""

from __future__ import annotations

import socket
from contextlib import suppress

IDLE = 60
"""Seconds without traffic after which the kernel probes a connection."""

INTERVAL = 15
"""Seconds between its probes."""

PROBES = 4
"""Probes without a reply after which a connection is given up."""


def keep_alive(sock: socket.socket) -> None:
    """Have the kernel probe a silent connection, or those that a listening socket accepts.

    A NAT device on the way does not forget it, and a peer that is gone is noticed after two
    minutes. On Linux, accepted connections inherit the options. What the system, or a socket
    that is none of TCP, does not support is left out.
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
