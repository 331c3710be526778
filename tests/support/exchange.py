"""One exchange with a daemon, as ``nc -N`` has it."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress

LIMIT = 30.0
"""Seconds that each step of an exchange may take."""

_RESET = (errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE)


def exchange(connection: socket.socket, sent: bytes) -> bytes:
    """Send bytes, half-close, and return all that is received.

    A daemon may refuse the connection at any moment: when it has been reset, even the half-close
    fails. What was received until then is returned.
    """
    received = bytearray()
    try:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65536):
            received += data
    except OSError as failure:
        if failure.errno not in _RESET:
            raise
        # What was received before the reset.
        with suppress(OSError):
            while data := connection.recv(65536):
                received += data
    return bytes(received)


def exchange_with(host: str, port: int, sent: bytes, source: str = "") -> bytes:
    """Connect, and return what is received as `exchange` does.

    :param source: the address to connect from; empty for the one that the kernel chooses.
    """
    origin = (source, 0) if source else None
    with socket.create_connection((host, port), LIMIT, origin) as connection:
        return exchange(connection, sent)
