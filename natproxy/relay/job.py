"""What a relay is, what its job holds, and how it reports its end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple, Protocol

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from natproxy.relay.outbound import Outbound, Transport

Ended = Callable[[Exception | None], object]
"""Called once with ``None`` when all bytes have been handed on, or with the error."""

Unchanged = Callable[[], bool]
"""Returns whether a file still has the content that its header promises."""


class SourceShort(Exception):
    """The source ended before the body did.

    :ivar missing: what is missing, in words.
    """

    def __init__(self, missing: str) -> None:
        super().__init__(f"{missing} missing")
        self.missing = missing


class SourceChanged(Exception):
    """The file was modified while it was being sent: the bytes sent may be a mixture."""

    def __init__(self) -> None:
        super().__init__("the file was modified while it was being sent")


class PeerGone(Exception):
    """The connection that the bytes were for is lost."""


class BodyCounter(Protocol):
    """Finds the end of a body; see `natproxy.protocol.ListingBody`."""

    @property
    def complete(self) -> bool:
        """Whether the body has ended."""
        ...

    @property
    def missing(self) -> str:
        """What has not been received yet, in words."""
        ...

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Split received bytes into those of the body and those after its end."""
        ...


class Account(Protocol):
    """Counts the bytes of a reply; see `natproxy.nat.NATEntry`."""

    def write(self, data: bytes) -> None:
        """Count bytes and write them to the outbound."""
        ...

    def count(self, size: int) -> None:
        """Count bytes that the kernel has moved."""
        ...


class File(Protocol):
    """A file that is open for reading; see `natproxy.storage.interface.OpenFile`."""

    @property
    def blocking(self) -> bool:
        """Whether `read_at` may wait for a disk or a network, if there is no descriptor."""
        ...

    def fileno(self) -> int | None:
        """Return the file's descriptor; ``None`` if it has none."""
        ...

    def read_at(self, offset: int, size: int, /) -> bytes:
        """Return up to ``size`` bytes from an offset on; none at the end."""
        ...

    def ready(self, offset: int, /) -> bool:
        """Return whether `read_at` would return bytes from an offset on without waiting."""
        ...

    def interrupt(self) -> None:
        """Let a `read_at` that waits in a thread fail soon."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


# Jobs are named tuples: one is made for each command, and a frozen dataclass takes longer.
class SocketJob(NamedTuple):
    """A body to be moved from one connection to another.

    :ivar header: bytes to write first: the reply's header, and those bytes of the body that
        were received with it.
    :ivar body: counts the body; it has counted the bytes in ``header``, and is not complete.
    :ivar size: bytes that the header promises; 0 if it states none.
    :ivar source: the protocol that receives the body, to be paused and resumed.
    :ivar transport: the protocol's transport.
    :ivar account: counts, and writes to ``outbound``.
    :ivar progress: called when the kernel has moved bytes that the protocol did not see.
    """

    header: bytes
    body: BodyCounter
    size: int
    source: IPushProducer
    transport: Transport
    outbound: Outbound
    account: Account
    progress: Callable[[], object]
    ended: Ended


class FileJob(NamedTuple):
    """A part of a file to be sent after a header.

    :ivar size: bytes that the header promises; a file that has grown is sent up to here.
    :ivar offset: of the first byte in the file.
    :ivar unchanged: called when all bytes have been read and the last of them has not been
        sent; ``None`` if the file may change.
    :ivar device: that the file is on, ``st_dev``.
    """

    header: bytes
    file: File
    size: int
    outbound: Outbound
    ended: Ended
    offset: int = 0
    unchanged: Unchanged | None = None
    device: int = 0


class Tally:
    """Counts the relays of one kind.

    :ivar begun: relays that were made.
    :ivar ended: those of them that have ended, successfully or not.
    :ivar sent: bytes that they have handed on so far, headers included.
    """

    __slots__ = ("begun", "ended", "sent")

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.sent = 0


@implementer(IPushProducer)
class Relay(ABC):
    """Moves one body to an `Outbound`.

    It reports its end exactly once, by ``ended``: with ``None`` when all bytes have been handed
    on; else with `SourceShort`, `SourceChanged`, `PeerGone`, or the error of a read. It never
    does so after `cancel`, nor after the outbound has been lost.

    :ivar begun: whether the header has been written: after that, no error can be sent instead.
    :ivar sent: bytes handed on so far, header included.
    :ivar tally: of the relays of its kind; one of its own unless `Relays` has made it.
    """

    __slots__ = ("_ended", "_outbound", "_running", "begun", "sent", "tally")

    def __init__(self, outbound: Outbound, ended: Ended) -> None:
        self._outbound = outbound
        self._ended = ended
        self._running = True
        self.begun = False
        self.sent = 0
        self.tally = Tally()

    @abstractmethod
    def start(self) -> None:
        """Write the header and begin to move the body; ``ended`` may be called in here."""

    def cancel(self) -> None:
        """Move nothing from now on and report nothing."""
        if self._running:
            self._running = False
            self.tally.ended += 1
            self._outbound.body_ended()
            self._release()

    def pauseProducing(self) -> None:  # noqa: B027  # nothing to do, unless a subclass has it
        """Stop writing: the transport's buffer is full."""

    def resumeProducing(self) -> None:  # noqa: B027  # as above
        """Write again: the transport's buffer is empty."""

    def stopProducing(self) -> None:
        """Stop, because the outbound is lost."""
        self.cancel()

    @abstractmethod
    def _release(self) -> None:
        """Detach from the outbound and close what the relay holds; called once."""

    def fail_turn(self, error: Exception) -> None:
        """Fail with an exception that was raised in the relay's turn."""
        if self._running:
            self._fail(error)

    def _count(self, size: int) -> None:
        """Count bytes that are handed on."""
        self.sent += size
        self.tally.sent += size

    def _is_over(self) -> bool:
        return not self._running

    def _finish(self) -> None:
        self.cancel()
        self._ended(None)

    def _fail(self, error: Exception) -> None:
        self.cancel()
        self._ended(error)


class SocketRelay(Relay):
    """A relay of a body that is received from a connection."""

    __slots__ = ()

    @abstractmethod
    def deliver(self, data: bytes) -> None:
        """Relay bytes that the source has received; drop those after the body's end."""

    @abstractmethod
    def source_lost(self) -> None:
        """Fail, because no more bytes will be received; all that were received are handed on."""

    def stop(self) -> None:
        """Hand on all bytes that were received, and end as by `cancel`.

        Another relay may then continue the body.
        """
        self.cancel()
