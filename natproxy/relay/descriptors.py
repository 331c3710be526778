"""A relay's own view of a transport's socket: a descriptor that the reactor watches."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import cast

from twisted.internet.interfaces import IReactorFDSet, IReactorTime, IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer


def close_later(reactor: IReactorFDSet, descriptor: int) -> None:
    """Close a descriptor that the reactor has watched, in its next turn.

    The events of the present turn have been collected already, and one of them may be this
    descriptor's. If a connection that is made in this turn got the number, Twisted would
    take the event for the new connection's, and close it.

    :param reactor: provides `IReactorTime` as well.
    """
    cast(IReactorTime, reactor).callLater(0, os.close, descriptor)


@implementer(IReadWriteDescriptor)
class WatchedDescriptor:
    """A duplicate of a socket's descriptor, with callbacks in the place of a protocol.

    The reactor knows a selectable by its descriptor's number: with one of its own, a
    relay can wait on the socket beside the transport that owns it.

    :param reactor: also provides `IReactorTime`.
    :param descriptor: is duplicated.
    :param act: called when the socket is ready for what is being waited for, or broken:
        the system call that follows will tell.
    """

    __slots__ = ("_act", "_descriptor", "_reactor", "_reading", "_writing")

    def __init__(
        self,
        reactor: IReactorFDSet,
        descriptor: int,
        act: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._descriptor = os.dup(descriptor)
        self._act = act
        self._reading = self._writing = False

    def fileno(self) -> int:
        """Give the descriptor; -1 when it is closed."""
        return self._descriptor

    def logPrefix(self) -> str:
        """Name the log's system."""
        return "relay"

    def wait_readable(self) -> None:
        """Act whenever there is something to read."""
        self._reading = True
        self._reactor.addReader(self)

    def wait_writable(self) -> None:
        """Act whenever something can be written."""
        self._writing = True
        self._reactor.addWriter(self)

    def rest(self) -> None:
        """Wait for nothing."""
        self._reading = self._writing = False
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)

    def close(self) -> None:
        """Wait for nothing any more; the number stays in use until the next turn."""
        if self._descriptor >= 0:
            self.rest()
            close_later(self._reactor, self._descriptor)
            self._descriptor = -1

    def doRead(self) -> None:
        """The socket is readable."""
        self._act()

    def doWrite(self) -> None:
        """The socket is writable."""
        self._act()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor has given the descriptor up, and waits for it no longer.

        That may be a mistake: the event can be that of a descriptor which had this number
        a moment ago. So go on waiting, and see what the system call says.
        """
        if self._descriptor >= 0:
            if self._reading:
                self.wait_readable()
            if self._writing:
                self.wait_writable()
            self._act()
