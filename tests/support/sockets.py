"""A directory like ``/proc/PID``: lists of connections, and descriptors."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"


class SocketLists:
    """The lists of connections and of descriptors of one process.

    :param directory: is made.
    :ivar directory: its path.
    :ivar path: of the list of IPv4.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.path = os.path.join(directory, "net", "tcp")
        self._count = 0
        os.makedirs(os.path.join(directory, "net"))
        os.makedirs(os.path.join(directory, "fd"))
        for path in (self.path, self.path + "6"):
            with open(path, "w") as file:
                file.write(HEADER)

    def add(
        self,
        local: Sequence[object],
        remote: Sequence[object],
        state: int = 1,
        inode: int = 0,
        version6: bool = False,
    ) -> None:
        """Add a connection; to the list of IPv6 as well, if it is in IPv6."""
        hosts = [str(end[0]) for end in (local, remote)]
        v6 = version6 or any(":" in host for host in hosts)
        self._count += 1
        ends = " ".join(
            f"{encoded(host, v6)}:{end[1]:04X}"
            for host, end in zip(hosts, (local, remote), strict=True)
        )
        line = f"{self._count:4}: {ends} {state:02X} 00000000:00000000 00:00000000 00000000"
        with open(self.path + ("6" if v6 else ""), "a") as file:
            file.write(f"{line}  1000        0 {inode} 1 0000000000000000 20 4 0 10 -1\n")

    def own(self, descriptor: int, inode: int) -> None:
        """Add a socket to the process's descriptors."""
        os.symlink(f"socket:[{inode}]", os.path.join(self.directory, "fd", str(descriptor)))

    def clear(self) -> None:
        """Remove all connections."""
        for path in (self.path, self.path + "6"):
            with open(path, "w") as file:
                file.write(HEADER)


def encoded(host: str, v6: bool) -> str:
    """Return a host as the kernel lists it."""
    if v6 and ":" not in host:
        host = f"::ffff:{host}"
    packed = socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, host)
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))
