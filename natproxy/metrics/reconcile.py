"""The NAT table compared with the process's own sockets, as the kernel lists them.

Each entry of the table has a socket that is connected to the upstream, and each such socket has an
entry. What is otherwise in two looks, a moment apart, is a difference: an error of the program.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from natproxy.address import FIRST_STAND_IN_PORT, Address
from natproxy.kernel.sockets import (
    DIRECTORY,
    SYN_SENT,
    Connection,
    Pair,
    connections_to,
    own_sockets,
    plain_host,
)
from natproxy.nat import NATTable, TranslationKey
from natproxy.server.threads import InThread

APART = 0.5
"""Seconds between the two looks."""

MOST_SHOWN = 100
"""Differences of a kind that are listed; all are counted."""

HIDDEN = "the kernel does not list this process's sockets (ProcSubset=, PrivateUsers=, hidepid)"

Route = tuple[Pair, Pair]
"""The two ends of an upstream connection, the proxy's first."""


class Look(NamedTuple):
    """What there is at one moment.

    :ivar rows: serial numbers of the entries, by the ends of their connections.
    :ivar sockets: inodes of the sockets, likewise; those that are not connected yet are left out.
    """

    rows: dict[Route, int]
    sockets: dict[Route, int]


class Comparison(NamedTuple):
    """The result.

    :ivar rows: entries that were compared.
    :ivar sockets: sockets that were compared.
    :ivar left_out: entries of UNIX sockets, which the kernel does not list by their ends.
    :ivar without_socket: serial numbers and ends of the entries without a socket.
    :ivar without_row: ends of the sockets without an entry.
    :ivar unknown: why nothing could be compared; ``None`` if it could.
    """

    rows: int = 0
    sockets: int = 0
    left_out: int = 0
    without_socket: tuple[tuple[int, Route], ...] = ()
    without_row: tuple[Route, ...] = ()
    unknown: str | None = None

    @property
    def differences(self) -> int | None:
        """The number of differences; ``None`` if it is not known."""
        if self.unknown is not None:
            return None
        return len(self.without_socket) + len(self.without_row)

    def json(self) -> dict[str, Any]:
        """Return the object of ``/v1/reconcile``."""
        result = (
            "unknown" if self.unknown is not None else "differs" if self.differences else "same"
        )
        return {
            "result": result,
            "reason": self.unknown,
            "rows": self.rows,
            "sockets": self.sockets,
            "left_out": self.left_out,
            "differences": self.differences,
            "rows_without_socket": [
                {"serial": serial, **_members(route)}
                for serial, route in self.without_socket[:MOST_SHOWN]
            ],
            "sockets_without_row": [_members(route) for route in self.without_row[:MOST_SHOWN]],
        }


class Reconciler:
    """Compares a table with the sockets of its process; one comparison at a time.

    :param table: the entries; they are read in the reactor's thread.
    :param upstreams: returns the addresses that upstream connections are made to.
    :param in_thread: where the kernel's lists are read.
    :param clock: for the time between the two looks.
    :param directory: of the process in ``/proc``.
    :param visible: returns whether the kernel lists sockets of this process at all.
    :param without_entry: returns the ends of connections to upstreams that have no entry: those of
        health checks.
    :ivar last: the last result; ``None`` before the first one.
    """

    def __init__(
        self,
        table: NATTable,
        upstreams: Callable[[], Collection[Address]],
        in_thread: InThread,
        clock: IReactorTime,
        directory: str = DIRECTORY,
        visible: Callable[[], bool] | None = None,
        without_entry: Callable[[], Collection[TranslationKey]] = tuple,
    ) -> None:
        self.last: Comparison | None = None
        self._table = table
        self._upstreams = upstreams
        self._in_thread = in_thread
        self._clock = clock
        self._directory = directory
        self._visible = visible or partial(own_listener_is_listed, directory)
        self._without_entry = without_entry
        self._waiting: list[Deferred[Comparison]] | None = None

    def compare(self) -> Deferred[Comparison]:
        """Return the result; calls during a comparison share it. Does not fail."""
        waiter: Deferred[Comparison] = Deferred()
        if self._waiting is not None:
            self._waiting.append(waiter)
            return waiter
        self._waiting = [waiter]
        Deferred.fromCoroutine(self._compare()).addBoth(self._done)
        return waiter

    async def _compare(self) -> Comparison:
        first = await self._look()
        if not _only_rows(first) and not _only_sockets(first):
            return self._result(first, first)
        await deferLater(self._clock, APART, lambda: None)
        second = await self._look()
        result = self._result(first, second)
        if (
            result.without_socket
            and not second.sockets
            and not await self._in_thread(self._visible)
        ):
            return Comparison(unknown=HIDDEN)
        return result

    async def _look(self) -> Look:
        rows = {
            _route(entry.key.local, entry.key.upstream): entry.serial
            for entry in self._table
            if entry.key.upstream.port < FIRST_STAND_IN_PORT
        }
        upstreams = {*self._upstreams(), *(remote for _, remote in rows)}
        # The rows are read first: the socket of a new entry exists before the entry does.
        checks = {*self._without_entry()}
        sockets = await self._in_thread(lambda: own_routes(upstreams, self._directory))
        for ends in checks.union(self._without_entry()):
            sockets.pop(_route(*ends), None)
        return Look(rows, sockets)

    def _result(self, first: Look, second: Look) -> Comparison:
        before_rows, before_sockets = _only_rows(first), _only_sockets(first)
        left_out = sum(entry.key.upstream.port >= FIRST_STAND_IN_PORT for entry in self._table)
        return Comparison(
            len(second.rows),
            len(second.sockets),
            left_out,
            tuple(
                (serial, route)
                for route, serial in _only_rows(second).items()
                if before_rows.get(route) == serial
            ),
            tuple(
                route
                for route, inode in _only_sockets(second).items()
                if before_sockets.get(route) == inode
            ),
        )

    def _done(self, result: Comparison | Failure) -> None:
        if isinstance(result, Failure):
            reason = f"cannot list the sockets: {result.value}"
            result = Comparison(unknown=reason)
        self.last = result
        waiting, self._waiting = self._waiting or [], None
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(result)


def own_routes(upstreams: Collection[Pair], directory: str = DIRECTORY) -> dict[Route, int]:
    """Return the inodes of this process's connections to some addresses, by their ends.

    Connections that are being made are left out: their commands have no entry yet.

    :raises OSError: if the kernel does not list them.
    """
    connections: list[Connection] = list(connections_to(upstreams, directory))
    own = own_sockets(directory)
    return {
        (each.local, each.remote): each.inode
        for each in connections
        if each.state != SYN_SENT and each.inode in own
    }


def own_listener_is_listed(directory: str = DIRECTORY) -> bool:
    """Return whether a socket of this process is in the kernel's list.

    :raises OSError: if that cannot be tried.
    """
    with closing(socket.socket()) as listener, closing(socket.socket()) as client:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        client.connect(listener.getsockname())
        return bool(own_routes([listener.getsockname()], directory))


def _only_rows(look: Look) -> dict[Route, int]:
    return {route: serial for route, serial in look.rows.items() if route not in look.sockets}


def _only_sockets(look: Look) -> dict[Route, int]:
    return {route: inode for route, inode in look.sockets.items() if route not in look.rows}


def _route(local: Address, upstream: Address) -> Route:
    return (plain_host(local.host), local.port), (plain_host(upstream.host), upstream.port)


def _members(route: Route) -> dict[str, Any]:
    (nat, nat_port), (upstream, upstream_port) = route
    return {
        "nat": nat,
        "nat_port": nat_port,
        "upstream": upstream,
        "upstream_port": upstream_port,
    }
