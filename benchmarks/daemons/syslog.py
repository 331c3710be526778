"""A syslog daemon that appends every message to a file, for peers that log that way.

Run as ``syslog SOCKET FILE``; ``SOCKET`` is the path of a datagram socket.
"""

from __future__ import annotations

import socket
import sys


def main(path: str, log: str) -> None:
    """Receive for ever."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver, open(log, "wb") as file:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024 * 1024)
        receiver.bind(path)
        while True:
            file.write(receiver.recv(8192) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
