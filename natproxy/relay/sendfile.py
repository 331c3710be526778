"""Send a file to a connection inside the kernel, by ``sendfile(2)``."""

from __future__ import annotations

import errno
import os
from typing import cast

from twisted.internet.interfaces import IReactorFDSet

from natproxy.relay.descriptors import WatchedDescriptor
from natproxy.relay.files import FileRelay
from natproxy.relay.job import FileJob, PeerGone, SourceChanged
from natproxy.relay.outbound import SocketOutbound
from natproxy.relay.page_cache import PageCache
from natproxy.relay.rotation import SLICE, Rotation

_FILE_ERRORS = frozenset((errno.EIO, errno.ESTALE, errno.EINVAL, errno.ENOMEM))


class SendfileRelay(FileRelay):
    """Sends up to `SLICE` bytes of a file in each turn, when the socket is writable.

    :raises OSError: if the client's descriptor cannot be duplicated; the caller then still has
        to close the file.
    """

    __slots__ = ("_receiver", "_sendfile_end", "_socket")

    def __init__(
        self,
        reactor: IReactorFDSet,
        rotation: Rotation,
        job: FileJob,
        page_cache: PageCache | None,
    ) -> None:
        super().__init__(job, page_cache, rotation)
        # The last byte is sent separately, after the check that the file has not changed.
        self._sendfile_end = self._end - (job.unchanged is not None)
        self._socket = cast(SocketOutbound, job.outbound)
        self._receiver = WatchedDescriptor(reactor, self._socket.descriptor(), self._ready)

    def start(self) -> None:
        """Write the header, and send the file as soon as the header has been sent."""
        self._outbound.write(self._take_header())
        self._socket.lend(self, self._ready)

    def _ready(self) -> None:
        """Take a turn, at once or in line: the socket is writable, or the disk has been read."""
        # While a thread reads, no event is expected: this one is for an earlier descriptor with
        # the same number.
        if self._reading is not None or self._is_over():
            return
        if not self._socket.may_move(self._ready):
            self._receiver.stop_waiting()
            return
        if not self._rotation.enter(self) and len(self._rotation) > 1:
            # A relay that is alone in line has its turn before the socket is looked at again.
            self._receiver.stop_waiting()

    def take_turn(self) -> None:
        """Send a slice."""
        wanted = self._readable(min(SLICE, self._outbound.budget))
        if self._is_over():
            return
        if not wanted:
            # The relay waits for the disk, not for the client.
            self._receiver.stop_waiting()
            self._socket.set_paused(False)
            return
        try:
            moved = self._send(wanted)
        except BlockingIOError:
            moved = -1
        except SourceChanged as error:
            self._fail(error)
            return
        except OSError as error:
            # ``sendfile`` reports the errors of both ends. Those of reading are few; any other
            # error is of the socket.
            is_file = error.errno in _FILE_ERRORS
            self._fail(error if is_file else PeerGone("the client is gone"))
            return
        if not moved:
            self._fail_short()
            return
        if moved > 0:
            self._rotation.count(moved)
            self._socket.moved(moved)
            self._advance(moved)
            if self._offset == self._end:
                self._finish()
                return
        # Whatever was sent: wait for the client, and restart its time-out.
        self._socket.set_paused(True)
        if moved == wanted and len(self._rotation):
            # While the others have their turns, a client that reads has taken it.
            self._receiver.stop_waiting()
            if self._socket.may_move(self._ready):
                self._rotation.wait(self)
        else:
            self._receiver.wait_writable()

    def _send(self, size: int) -> int:
        """Return the number of bytes sent; 0 if the file has ended.

        :raises BlockingIOError: if the socket is full.
        :raises SourceChanged: if the file has changed, before its last byte is sent.
        :raises OSError: of the file or the socket.
        """
        receiver, file = self._receiver.fileno(), cast(int, self._file.fileno())
        if self._offset < self._sendfile_end:
            most = min(size, self._sendfile_end - self._offset)
            return os.sendfile(receiver, file, self._offset, most)
        last = os.pread(file, size, self._offset)
        self._check()
        return os.write(receiver, last) if last else 0

    def _detach(self) -> None:
        self._rotation.leave(self)
        self._receiver.close()
        self._socket.take_back()
