"""The process's limit of open descriptors, and how many clients it suffices for."""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import NamedTuple

from twisted.logger import Logger

from natproxy.daemon.config import DaemonConfig
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.records.places import NONE
from natproxy.relay.pipes import PIPES
from natproxy.server.admission import CLIENTS

RESERVED = 96
"""Descriptors that are not for clients: the reactor, listening sockets, the log, the resolver's
threads, and refused connections while the reason is sent to them."""

RESERVED_BY_THREADS = 80
"""Further ones that the file server reserves for its threads, whose clients may have
disconnected: `WALK` for each walk of ``LS`` and for a scan of ``LIST``, `PACK` for each pack, and a
file for each read and each digest."""

WALK = 4
"""Descriptors that a walk has open at most, however deep the tree is."""

PACK = 4
"""Descriptors that making a pack has open at most, however deep its files are."""

PER_CLIENT = 3
"""Descriptors of one client. In the proxy: its connection, the upstream connection of its
command, and that of the command before, which is closed one turn later. In the file server: its
connection, the file that is sent, and the duplicate of the connection that ``sendfile``
needs."""

PER_SPLICE = 2
"""Descriptors of one body that is spliced: a duplicate of each socket."""

PER_PIPE = 2
"""Descriptors of a pipe: both ends."""

OBSERVERS = 64
"""Connections to the control socket at the same time, if there are descriptors for so many; as many
to the web endpoints, and half as many to the ident service."""

JOURNAL = 128
"""Descriptors of the journal, if there are so many: the segment that is written with its log and
its shared memory, the catalogue, and 16 segments for each search that runs or is being read."""

LEAST_OF_FILE_SERVER = 2
"""Clients that a file server always admits: one client of a proxy needs two connections, since
that of its last command is closed when that of the next one has been made."""

_UNLIMITED = 1 << 20

_log = Logger()


MASTER = 16
"""Connections to a worker's control socket that its master needs besides those of observers."""


class Capacity(NamedTuple):
    """The clients, splices and pipes that a number of descriptors suffices for.

    :ivar clients: clients, each with a command under way.
    :ivar splices: bodies that are spliced meanwhile; others are copied, which needs no
        descriptor.
    :ivar pipes: through which they are spliced.
    """

    clients: int
    splices: int = 0
    pipes: int = 0


class Observers(NamedTuple):
    """The connections of those who observe a daemon; they do not count as clients.

    :ivar control: to the control socket at the same time, watchers included.
    :ivar web: to all web endpoints.
    :ivar ident: to the ident service.
    :ivar journal: descriptors of the journal.
    :ivar checks: health checks of upstreams, which a proxy itself makes.
    """

    control: int = 0
    web: int = 0
    ident: int = 0
    journal: int = 0
    checks: int = 0


NO_OBSERVERS = Observers()


def observers_for(config: DaemonConfig, descriptors: int, workers: int = 1) -> Observers:
    """Return how many observers a daemon may have, by its settings and its descriptors.

    The connections of each kind are a sixteenth of the descriptors at most, and the journal has an
    eighth. A worker is read by the observers of its master's control socket and of its web
    endpoints.

    :param workers: how many processes the daemon has.
    """
    most = max(2, min(OBSERVERS, descriptors // 16))
    proxy = config if isinstance(config, ProxyConfig) else None
    return Observers(
        0 if config.control == NONE else most if workers == 1 else 2 * most + MASTER,
        most if config.web else 0,
        most // 2 if proxy and proxy.ident else 0,
        min(JOURNAL, 2 * most) if proxy and proxy.journal != NONE else 0,
        len(proxy.upstream) if proxy and proxy.health.interval else 0,
    )


def attainable() -> int:
    """Return the number of descriptors that the process may have after `raise_limit`."""
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


def proxy_capacity(descriptors: int, observers: Observers = NO_OBSERVERS) -> Capacity:
    """Divide descriptors among the clients of a proxy and the bodies that it splices.

    A quarter is for splicing. Few pipes suffice: a body has one only while it moves, and while its
    client has not read all that is in it.

    :param observers: whose descriptors are reserved.
    """
    free = max(0, descriptors - RESERVED - sum(observers))
    quarter = free // 4
    pipes = min(PIPES, quarter // 8 // PER_PIPE)
    splices = (quarter - pipes * PER_PIPE) // PER_SPLICE
    return Capacity(max(1, (free - quarter) // PER_CLIENT), splices, pipes)


def file_server_capacity(descriptors: int, observers: Observers = NO_OBSERVERS) -> Capacity:
    """Return how many clients of a file server there are descriptors for.

    :param observers: whose descriptors are reserved.
    """
    free = max(0, descriptors - RESERVED - RESERVED_BY_THREADS - sum(observers))
    return Capacity(max(LEAST_OF_FILE_SERVER, free // PER_CLIENT))


def clients_for(config: DaemonConfig, capacity: Capacity, workers: int = 1) -> int:
    """Return how many clients a process of a daemon admits; log if there are too few descriptors.

    :param capacity: what there are descriptors for.
    :param workers: by which the clients are divided.
    """
    wanted = config.max_clients
    share = -(-(CLIENTS if wanted is None else wanted) // workers)
    clients = min(share, capacity.clients)
    if wanted is not None and clients < share:
        _log.warn(
            "{daemon}: {label} {wanted}: there are descriptors for {clients} clients"
            " (see ulimit -n, or LimitNOFILE in a unit)",
            daemon=config.daemon,
            label=config.label("max_clients"),
            wanted=wanted,
            clients=clients * workers,
        )
    return clients
