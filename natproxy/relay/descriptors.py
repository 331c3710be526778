"""A relay's own view of a transport's socket: a descriptor that the reactor watches."""

from __future__ import annotations

import os
from collections.abc import Callable

from twisted.internet.interfaces import IReactorFDSet, IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer


@implementer(IReadWriteDescriptor)
class WatchedDescriptor:
    """A duplicate of a socket's descriptor, with callbacks in the place of a protocol.

    The reactor knows a selectable by its descriptor's number: with one of its own, a
    relay can wait on the socket beside the transport that owns it.

    :param descriptor: is duplicated.
    :param act: called when the socket is ready for what is being waited for.
    :param lost: called when it will not be any more.
    """

    __slots__ = ("_act", "_descriptor", "_lost", "_reactor")

    def __init__(
        self,
        reactor: IReactorFDSet,
        descriptor: int,
        act: Callable[[], None],
        lost: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._descriptor = os.dup(descriptor)
        self._act = act
        self._lost = lost

    def fileno(self) -> int:
        """Give the descriptor; -1 when it is closed."""
        return self._descriptor

    def logPrefix(self) -> str:
        """Name the log's system."""
        return "relay"

    def wait_readable(self) -> None:
        """Act whenever there is something to read."""
        self._reactor.addReader(self)

    def wait_writable(self) -> None:
        """Act whenever something can be written."""
        self._reactor.addWriter(self)

    def rest(self) -> None:
        """Wait for nothing."""
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._descriptor >= 0:
            self.rest()
            os.close(self._descriptor)
            self._descriptor = -1

    def doRead(self) -> None:
        """The socket is readable."""
        self._act()

    def doWrite(self) -> None:
        """The socket is writable."""
        self._act()

    def connectionLost(self, reason: Failure) -> None:
        """The connection is no more."""
        if self._descriptor >= 0:
            self._lost()
