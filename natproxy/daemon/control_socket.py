"""The control socket of a daemon: its file and its lock, for as long as the daemon runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, cast

from twisted.internet.defer import maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocolFactory
from twisted.logger import Logger

from natproxy.daemon.places import InUse, PathLock, PlaceError, identity_of, remove_stale

BACKLOG = 128
"""Connections that wait to be accepted."""

CHECK = 10.0
"""Seconds between two looks whether the file is still there."""

MODE = 0o600


class InheritedControl(NamedTuple):
    """The control socket of the program that this one has replaced in the process.

    :ivar path: of the file.
    :ivar identity: of the file.
    :ivar socket: descriptor of the listening socket.
    :ivar lock: that of the lock's file.
    """

    path: str
    identity: tuple[int, int] | None
    socket: int
    lock: int

    @classmethod
    def from_json(cls, members: Mapping[str, Any] | None) -> InheritedControl | None:
        """Return the inverse of ``_asdict`` after JSON; ``None`` for ``None``."""
        if members is None:
            return None
        identity = members["identity"]
        return cls(**{**members, "identity": None if identity is None else tuple(identity)})

    def close(self) -> None:
        """Close both: the path is another one now."""
        os.close(self.socket)
        if identity_of(self.path) == self.identity:
            with suppress(OSError):
                os.unlink(self.path)
        PathLock.inherited(self.path, self.lock).release()


class ControlSocket:
    """Listens on the path of a control socket, whose lock it has.

    If the file is removed, as by a program that cleans a directory of temporary files, it is made
    again. A file of another program in its place is left alone.

    :param reactor: accepts.
    :param factory: makes the connections.
    :param locate: returns the path, and creates its directory if that is natproxy's own; raises
        `PlaceError`.
    :ivar path: set by `open`.
    """

    _log = Logger()

    def __init__(self, reactor: Any, factory: IProtocolFactory, locate: Callable[[], str]) -> None:
        self.path = ""
        self._reactor = reactor
        self._factory = factory
        self._locate = locate
        self._port: IListeningPort | None = None
        self._lock: PathLock | None = None
        self._identity: tuple[int, int] | None = None
        self._timer: IDelayedCall | None = None
        # What is wrong, as it was logged.
        self._reported = ""

    def open(self, inherited: InheritedControl | None = None) -> None:
        """Listen from now on.

        :param inherited: is used if it has the same path, and else closed.
        :raises InUse: if another process has the path.
        :raises PlaceError: if there is no path, or something other than a socket is there.
        :raises OSError: if it is not possible to listen.
        """
        try:
            self.path = self._locate()
        finally:
            if inherited is not None and inherited.path != self.path:
                inherited.close()
                inherited = None
        if inherited is not None:
            self._adopt(inherited)
        else:
            lock = PathLock(self.path)
            try:
                remove_stale(self.path)
                self._listen()
            except BaseException:
                lock.release()
                raise
            self._lock = lock
        self._timer = self._reactor.callLater(CHECK, self._check)

    def inheritable(self) -> InheritedControl | None:
        """Return what a program needs that this one executes; ``None`` if it is not open."""
        if self._port is None or self._lock is None:
            return None
        port = cast(Any, self._port)
        return InheritedControl(self.path, self._identity, port.fileno(), self._lock.descriptor)

    async def close(self) -> None:
        """Listen no more; the file is removed. The lock stays until `release`."""
        self._cancel_check()
        port, self._port = self._port, None
        if port is None:
            return
        if identity_of(self.path) == self._identity:
            await maybeDeferred(port.stopListening)
        else:
            # Twisted would remove what is there now, such as the socket of another daemon.
            self._log.warn("the control socket {path} was removed or replaced", path=self.path)
            close_socket(port)

    def release(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()

    def cancel(self) -> None:
        """Remove the file and release the lock: the daemon cannot start."""
        self._cancel_check()
        if self._lock is not None:
            # The reactor does not run: it would not remove the socket.
            with suppress(OSError):
                os.unlink(self.path)
            self._lock.release()

    def _adopt(self, inherited: InheritedControl) -> None:
        from natproxy.daemon.workers.sockets import InheritedUNIXPort

        port = InheritedUNIXPort(inherited.socket, self._factory, self._reactor, owned=True)
        port.startListening()
        os.close(inherited.socket)
        self._port = cast(IListeningPort, port)
        self._lock = PathLock.inherited(inherited.path, inherited.lock)
        self._identity = inherited.identity

    def _listen(self) -> None:
        # The mode holds from the first moment. Twisted sets it again before it listens.
        before = os.umask(0o777 & ~MODE)
        try:
            self._port = self._reactor.listenUNIX(self.path, self._factory, BACKLOG, MODE)
        except CannotListenError as error:
            raise error.socketError from None
        finally:
            os.umask(before)
        self._identity = identity_of(self.path)

    def _check(self) -> None:
        """Make the file again if it was removed, and that of the lock."""
        self._timer = self._reactor.callLater(CHECK, self._check)
        found = identity_of(self.path)
        if found not in (None, self._identity):
            self._report("was replaced by another file: natproxy does not listen on that")
            return
        missing = found != self._identity
        try:
            self._make_again(missing)
        except (InUse, PlaceError, OSError) as error:
            reason = f"in use by {error}" if isinstance(error, InUse) else error
            reason = getattr(error, "strerror", None) or reason
            self._report(f"was removed, and cannot be made again yet: {reason}")
        else:
            self._reported = ""
            if missing:
                text = "the control socket {path} was removed; it is made again"
                self._log.warn(text, path=self.path)

    def _make_again(self, missing: bool) -> None:
        """Make what is missing again.

        :param missing: whether the socket is; the lock may be as well.
        """
        assert self._lock is not None
        if not missing and self._lock.held:
            return
        if self._locate() != self.path:
            raise PlaceError("its directory is missing")
        if not self._lock.held:
            lock = PathLock(self.path)
            self._lock.release()
            self._lock = lock
        if missing:
            remove_stale(self.path)
            before = self._port
            self._listen()
            if before is not None:
                close_socket(before)

    def _report(self, text: str) -> None:
        """Log what is wrong, once."""
        if text != self._reported:
            self._reported = text
            self._log.warn("the control socket {path} {text}", path=self.path, text=text)

    def _cancel_check(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()


def close_socket(port: IListeningPort) -> None:
    """Close the socket of a port whose file is not its own any more, which Twisted would remove."""
    listening = cast(Any, port)
    listening.stopReading()
    listening.socket.close()
