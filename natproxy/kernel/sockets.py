"""TCP connections as the kernel lists them: ``/proc/self/net/tcp`` and ``/proc/self/net/tcp6``.

An address is a pair of host and port here, an IPv4 address always in the form of IPv4.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

DIRECTORY = "/proc/self"

ESTABLISHED = 0x01
SYN_SENT = 0x02
TIME_WAIT = 0x06
LISTEN = 0x0A

_PIECE = 64 * 1024
"""Bytes that are searched at once: other threads may run between two pieces."""

_MAPPED = b"\0" * 10 + b"\xff" * 2

Pair = tuple[str, int]
"""A host and a port."""


class Connection(NamedTuple):
    """One line of the list.

    :ivar local: this end.
    :ivar remote: the other end.
    :ivar state: the kernel's number of the state.
    :ivar inode: of the socket; 0 if no process has it, as in ``TIME_WAIT``.
    """

    local: Pair
    remote: Pair
    state: int
    inode: int


def connections_to(remotes: Collection[Pair], directory: str = DIRECTORY) -> Iterator[Connection]:
    """Return the connections of this network namespace to some addresses.

    :param remotes: the addresses; those whose host is not numeric match nothing.
    :param directory: of the process in ``/proc``.
    :raises OSError: if the kernel does not show its list.
    """
    wanted = [text for remote in remotes for text in _encoded(remote)]
    if not wanted:
        return
    yield from _connections("|".join(wanted), directory)


def all_connections(directory: str = DIRECTORY) -> Iterator[Connection]:
    """Return all connections of this network namespace, but no listening sockets.

    :param directory: of the process in ``/proc``.
    :raises OSError: if the kernel does not show its list.
    """
    for connection in _connections("[0-9A-F]+:[0-9A-F]{4}", directory):
        if connection.state != LISTEN:
            yield connection


def own_sockets(directory: str = DIRECTORY) -> set[int]:
    """Return the inodes of this process's sockets.

    :raises OSError: if the kernel does not list its descriptors.
    """
    listed = os.path.join(directory, "fd")
    inodes = set()
    for name in os.listdir(listed):
        # A descriptor may be closed meanwhile.
        with suppress(OSError):
            target = os.readlink(os.path.join(listed, name))
            if target.startswith("socket:["):
                inodes.add(int(target[8:-1]))
    return inodes


def plain_host(host: str) -> str:
    """Return a numeric host as the list has it: without a zone, IPv4 in the form of IPv4."""
    host = host.partition("%")[0]
    mapped = host.lower().removeprefix("::ffff:")
    return mapped if "." in mapped else host


def _connections(remote: str, directory: str) -> Iterator[Connection]:
    """Return the connections whose other end, as the kernel writes it, matches an expression."""
    pattern = re.compile(
        rf"^ *\d+: ([0-9A-F]+):([0-9A-F]{{4}}) ({remote}) ([0-9A-F]{{2}})"
        r" \S+ \S+ \S+ +\d+ +\d+ (\d+)".encode(),
        re.MULTILINE,
    )
    yield from _search(os.path.join(directory, "net/tcp"), pattern)
    # Without IPv6 there is no such file.
    with suppress(FileNotFoundError):
        yield from _search(os.path.join(directory, "net/tcp6"), pattern)


def _search(path: str, pattern: re.Pattern[bytes]) -> Iterator[Connection]:
    rest = b""
    with open(path, "rb", buffering=0) as file:
        while True:
            pieces = [rest]
            size = 0
            # The kernel returns a page at a time.
            while size < _PIECE and (page := file.read(_PIECE)):
                pieces.append(page)
                size += len(page)
            lines, _, rest = b"".join(pieces).rpartition(b"\n")
            for match in pattern.finditer(lines):
                local, port, remote, state, inode = (text.decode() for text in match.groups())
                yield Connection(
                    (_decoded(local), int(port, 16)),
                    (_decoded(remote[:-5]), int(remote[-4:], 16)),
                    int(state, 16),
                    int(inode),
                )
            if not size:
                return


def _encoded(remote: Pair) -> list[str]:
    """Return an address as the two lists have it; none if its host is not numeric."""
    host, port = plain_host(remote[0]), remote[1]
    if not 0 < port < 65536:
        return []
    try:
        if ":" in host:
            return [f"{_words(socket.inet_pton(socket.AF_INET6, host))}:{port:04X}"]
        packed = socket.inet_pton(socket.AF_INET, host)
    except OSError:
        return []
    return [f"{_words(packed)}:{port:04X}", f"{_words(_MAPPED + packed)}:{port:04X}"]


def _words(packed: bytes) -> str:
    # Each word of an address is printed in the order of the machine.
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))


def _decoded(text: str) -> str:
    words = [int(text[place : place + 8], 16) for place in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed)
    return plain_host(socket.inet_ntop(socket.AF_INET6, packed))
