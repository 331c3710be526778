"""Duplicated descriptors: how a relay waits on the socket of a transport."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import cast

from twisted.internet.interfaces import IReactorFDSet, IReactorTime, IReadWriteDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer


def close_later(reactor: IReactorFDSet, descriptor: int) -> None:
    """Close a descriptor that the reactor has watched, in the reactor's next turn.

    The events of the present turn have been collected already, and one of them may be for this
    descriptor. If a connection made in this turn got the same number, Twisted would take the
    event to be the new connection's, and close it.

    :param reactor: also provides ``IReactorTime``.
    """
    cast(IReactorTime, reactor).callLater(0, os.close, descriptor)


@implementer(IReadWriteDescriptor)
class WatchedDescriptor:
    """A duplicate of a socket's descriptor, with a callback instead of a protocol.

    The reactor identifies a selectable by its descriptor's number: with a number of its own, a
    relay can wait on the socket beside the transport that owns it.

    :param reactor: also provides ``IReactorTime``.
    :param descriptor: the one to be duplicated.
    :param ready: called when the socket is readable or writable, whichever is being waited for,
        or broken: the caller's next system call raises the error.
    """

    __slots__ = ("_descriptor", "_reactor", "_reading", "_ready", "_writing")

    def __init__(
        self,
        reactor: IReactorFDSet,
        descriptor: int,
        ready: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._descriptor = os.dup(descriptor)
        self._ready = ready
        self._reading = self._writing = False

    def fileno(self) -> int:
        """Return the descriptor; -1 when it is closed."""
        return self._descriptor

    def logPrefix(self) -> str:
        """Return the name for Twisted's log."""
        return "relay"

    def wait_readable(self) -> None:
        """Call ``ready`` whenever there is something to read."""
        self._reading = True
        self._reactor.addReader(self)

    def wait_writable(self) -> None:
        """Call ``ready`` whenever something can be written."""
        self._writing = True
        self._reactor.addWriter(self)

    def stop_waiting(self) -> None:
        """Wait neither for reading nor for writing."""
        if self._reading:
            self._reading = False
            self._reactor.removeReader(self)
        if self._writing:
            self._writing = False
            self._reactor.removeWriter(self)

    def close(self) -> None:
        """Close the descriptor; its number stays in use until the next turn."""
        if self._descriptor >= 0:
            self.stop_waiting()
            close_later(self._reactor, self._descriptor)
            self._descriptor = -1

    def doRead(self) -> None:
        """Call ``ready``: the socket is readable."""
        self._ready()

    def doWrite(self) -> None:
        """Call ``ready``: the socket is writable."""
        self._ready()

    def connectionLost(self, reason: Failure) -> None:
        """Resume waiting: the reactor has stopped watching the descriptor.

        The event may have been for another descriptor, which had this number a moment ago. If
        it was for this one, the system call in ``ready`` fails.
        """
        if self._descriptor >= 0:
            if self._reading:
                self.wait_readable()
            if self._writing:
                self.wait_writable()
            self._ready()
