"""The process's limit of open descriptors, and what there is room for within it."""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import NamedTuple

RESERVED = 96
"""Descriptors that are kept free of clients: the reactor, listening sockets, the log, the
resolver's threads, and refused connections while the reason is sent to them."""

RESERVED_BY_THREADS = 64
"""The file server's, in addition, for its threads, whose clients may have gone: `WALK` for each
walk of ``LS`` and for a scan of ``LIST``, and a file for each read and each digest."""

WALK = 4
"""Descriptors that a walk has open at most, however deep the tree is."""

PER_CLIENT = 3
"""The proxy's: a client's connection, its command's upstream connection, and that of the
command before, which is closed a turn later. The file server's: a connection, the file
that is sent, and the duplicate of the connection that ``sendfile`` needs."""

PER_SPLICE = 4
"""A pipe's two ends, and a duplicate of each socket."""

SPLICES = 512
"""Bodies that are spliced at once, if there are descriptors for so many."""

LEAST_OF_FILE_SERVER = 2
"""Clients that a file server always admits: one client of a proxy needs two connections, since
that of its last command is closed when that of the next one has been made."""

_UNLIMITED = 1 << 20


class Room(NamedTuple):
    """What a number of descriptors suffices for.

    :ivar clients: clients, each with a command under way.
    :ivar splices: bodies that are spliced meanwhile; others are copied, which needs no
        descriptor.
    """

    clients: int
    splices: int = 0


def attainable() -> int:
    """Return the number of descriptors that the process may have once `raise_limit` was called."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return max(soft, _UNLIMITED)
    return hard


def raise_limit() -> None:
    """Raise the soft limit of descriptors to the hard one.

    Where that is forbidden (a filter of system calls), the limit stays what it is.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = attainable()
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def room_for_proxy(descriptors: int) -> Room:
    """Divide descriptors among the clients of a proxy and the bodies that it splices."""
    free = max(0, descriptors - RESERVED)
    splices = min(SPLICES, free // 4 // PER_SPLICE)
    return Room(max(1, (free - splices * PER_SPLICE) // PER_CLIENT), splices)


def room_for_file_server(descriptors: int) -> Room:
    """Return how many clients of a file server there are descriptors for."""
    free = max(0, descriptors - RESERVED - RESERVED_BY_THREADS)
    return Room(max(LEAST_OF_FILE_SERVER, free // PER_CLIENT))
