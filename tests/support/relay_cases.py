"""Test cases and doubles for relays: connections are doubles, the kernel is real or patched."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.kernel.mounts import Mounts
from natproxy.protocol import CountedBody, ListingBody
from natproxy.relay import (
    FileJob,
    Method,
    Outbound,
    PageCache,
    Relay,
    Relays,
    SocketJob,
    SocketRelay,
    SourceChanged,
    SourceShort,
    outbound_of,
)
from natproxy.relay.files import CHUNK, CopyingFileRelay
from natproxy.relay.rotation import SLICE
from tests.support.doubles import (
    BufferedWire,
    PlayedPageCache,
    PlayedThread,
    SocketWire,
    TurnClock,
)
from tests.support.files import RawFile

E = TypeVar("E", bound=Exception)

HEADER = b"OK n\n"
PIECE = bytes(range(256)) * (CHUNK // 128)
LARGE_CONTENT = PIECE * (1 + 2 * SLICE // len(PIECE)) + b"the rest"


class Ends(list["Exception | None"]):
    """Records the ends of relays: `None` or an error for each; to be used as ``ended``."""

    def __call__(self, error: Exception | None) -> None:
        self.append(error)

    def error(self, kind: type[E]) -> E:
        """Return the error of the one relay that has ended; it is of this kind."""
        (error,) = self
        assert isinstance(error, kind), error
        return error


class Account:
    """Counts what is written to an outbound, and what the kernel moves there.

    :ivar written: each piece that was written.
    :ivar relayed: bytes in all.
    """

    def __init__(self, outbound: Outbound) -> None:
        self.outbound = outbound
        self.written: list[bytes] = []
        self.relayed = 0

    def write(self, data: bytes) -> None:
        self.written.append(data)
        self.relayed += len(data)
        self.outbound.write(data)

    def count(self, size: int) -> None:
        self.relayed += size


class PlayedMounts(Mounts):
    """A table of mounts with one device.

    :ivar memory: whether the device's files are in memory.
    """

    def __init__(self, memory: bool) -> None:
        super().__init__()
        self.memory = memory

    def in_memory(self, device: int) -> bool:
        return self.memory


class TurnReactor(MemoryReactorClock, TurnClock):
    """A reactor that watches nothing, and can run one turn at a time."""


class KernelCase(SynchronousTestCase):
    """The two connections of a relay, and a reactor that watches nothing."""

    def setUp(self) -> None:
        self.reactor = TurnReactor()
        self.progress: list[object] = []
        self.ends = Ends()
        self.client = self.wire()
        self.upstream = self.wire()

    def wire(self, *provided: object) -> SocketWire:
        wire = SocketWire(9000, 43_210, *provided)
        self.addCleanup(wire.socket.close)
        return wire

    def relays(
        self,
        method: Method = Method.AUTO,
        reactor: object = None,
        cache: PlayedPageCache | None = None,
    ) -> Relays:
        relays = Relays(self.reactor if reactor is None else reactor, method, cache)
        self.addCleanup(relays.close)
        return relays

    def outbound(self) -> Outbound:
        """Return the client's outbound, as if it had just connected."""
        self.client.producer = None
        self.client_outbound = outbound_of(self.client, lambda: None)
        return self.client_outbound

    def socket_relay(self, relays: Relays, size: int) -> SocketRelay:
        outbound = self.outbound()
        self.account = Account(outbound)
        relay = relays.relay(
            SocketJob(
                b"OK n\n",
                CountedBody(size) if size else ListingBody(),
                size,
                self.upstream,
                self.upstream,
                outbound,
                self.account,
                lambda: self.progress.append(None),
                self.ends,
            )
        )
        self.addCleanup(relay.cancel)
        return relay

    def file_relay(self, relays: Relays, size: int) -> Relay:
        """Return the relay of an empty file that has a size of ``size`` in its header."""
        with tempfile.TemporaryFile() as kept:
            file = RawFile(os.dup(kept.fileno()))
        self.addCleanup(file.close)
        relay = relays.send(FileJob(b"OK n\n", file, size, self.outbound(), self.ends))
        self.addCleanup(relay.cancel)
        return relay


@st.composite
def parts(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """Return a file's content, and an offset and a size (one byte or more) in it."""
    content = draw(st.binary(min_size=1, max_size=40))
    offset = draw(st.integers(0, len(content) - 1))
    return content, offset, draw(st.integers(1, len(content) - offset))


class FileParts:
    """Tests of parts of files, whichever relay sends them; mixed into a `SynchronousTestCase`."""

    kind: type[Relay] = CopyingFileRelay

    def setUp(self) -> None:
        self.ends = Ends()
        self.received = b""
        self.new_client()

    def new_client(self) -> None:
        self.client = BufferedWire(9001, 43_210)
        self.relays = Relays()

    def take(self) -> None:
        """Let the client read, and the relay continue."""
        self.received += self.client.drain()

    def relay(
        self,
        content: bytes,
        offset: int,
        size: int,
        unchanged: Callable[[], bool] | None = None,
        cache: PlayedPageCache | None = None,
    ) -> Relay:
        """Start to send a part of a file with this content."""
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self.addCleanup(file.close)
        self.path = f"/proc/self/fd/{file.fileno()}"
        file.write(content)
        self.source = RawFile(os.open(self.path, os.O_RDONLY))
        self.relays._page_cache = cache
        outbound = outbound_of(self.client, lambda: None)
        relay = self.relays.send(
            FileJob(HEADER, self.source, size, outbound, self.ends, offset, unchanged)
        )
        self.assertIs(type(relay), self.kind if size else CopyingFileRelay)
        self.received = b""
        self.ends.clear()
        relay.start()
        return relay

    def run_to_the_end(self) -> None:
        for _ in range(200):
            self.take()
            if self.ends:
                break
        self.take()
        self.assertEqual(len(self.ends), 1)
        self.assertTrue(self.source.closed)

    def assert_all_arrives(self, content: bytes, offset: int, size: int) -> None:
        checks: list[None] = []
        relay = self.relay(content, offset, size, lambda: checks.append(None) or True)
        self.run_to_the_end()
        self.assertEqual(self.ends, [None])
        self.assertTrue(self.received == HEADER + content[offset : offset + size])
        self.assertEqual(relay.sent, len(self.received))
        self.assertEqual(len(checks), 1 if size else 0)

    def test_no_bytes_at_all(self) -> None:
        for offset in (0, 5, len(LARGE_CONTENT)):
            self.new_client()
            self.assert_all_arrives(LARGE_CONTENT, offset, 0)

    def test_large_parts(self) -> None:
        for offset, size in (
            (0, len(LARGE_CONTENT)),
            (1, len(LARGE_CONTENT) - 1),
            (CHUNK - 1, CHUNK + 2),
            (SLICE + 1, SLICE),
            (SLICE, SLICE + 1),
            (len(LARGE_CONTENT) - 1, 1),
        ):
            self.new_client()
            self.assert_all_arrives(LARGE_CONTENT, offset, size)

    def test_file_that_has_changed_is_not_sent_to_its_end(self) -> None:
        for size in (1, 2, CHUNK, CHUNK + 1, len(LARGE_CONTENT)):
            self.new_client()
            self.relay(LARGE_CONTENT, len(LARGE_CONTENT) - size, size, lambda: False)
            self.run_to_the_end()
            self.assertIsInstance(self.ends[0], SourceChanged)
            self.assertLess(len(self.received), len(HEADER) + size)
            self.assertTrue((HEADER + LARGE_CONTENT[-size:]).startswith(self.received))

    def test_change_is_checked_when_all_has_been_read(self) -> None:
        def changed() -> bool:
            # What is written now does not reach the client.
            with open(self.path, "r+b") as file:
                file.write(b"?" * len(LARGE_CONTENT))
            return True

        self.relay(LARGE_CONTENT, 0, len(LARGE_CONTENT), changed)
        self.run_to_the_end()
        self.assertEqual(self.ends, [None])
        self.assertTrue(self.received == HEADER + LARGE_CONTENT)

    def test_shrunk_file_is_short(self) -> None:
        relay = self.relay(LARGE_CONTENT[: CHUNK + 10], 5, len(LARGE_CONTENT), lambda: True)
        self.run_to_the_end()
        short = self.ends[0]
        self.assertIsInstance(short, SourceShort)
        self.assertEqual(short.missing, f"{len(LARGE_CONTENT) - CHUNK - 5} bytes")
        self.assertEqual(self.received, HEADER + LARGE_CONTENT[5 : CHUNK + 10])
        self.assertEqual(relay.sent, len(self.received))

    def test_without_a_check_nothing_is_held_back(self) -> None:
        self.relay(LARGE_CONTENT, 7, len(LARGE_CONTENT) - 7)
        self.run_to_the_end()
        self.assertEqual(self.ends, [None])
        self.assertTrue(self.received == HEADER + LARGE_CONTENT[7:])

    def test_check_that_fails(self) -> None:
        self.relay(
            LARGE_CONTENT, 0, 10, mock.Mock(side_effect=OSError(errno.EIO, "Input/output error"))
        )
        self.run_to_the_end()
        self.assertEqual(self.ends[0].errno, errno.EIO)

    def test_every_byte_is_loaded_before_it_is_read(self) -> None:
        cache = PlayedPageCache()
        self.relay(LARGE_CONTENT, 11, len(LARGE_CONTENT) - 11, lambda: True, cache)
        for _ in range(200):
            while cache.loading:
                cache.loaded()
            self.take()
            if self.ends:
                break
        self.take()
        self.assertEqual(self.ends, [None])
        self.assertTrue(self.received == HEADER + LARGE_CONTENT[11:])
        ranges = sorted({(offset, size) for _, offset, size in cache.checked})
        self.assertEqual(ranges[0][0], 11)
        self.assertEqual(sum(ranges[-1]), len(LARGE_CONTENT))


class UnknownFileCase(SynchronousTestCase):
    """A file on a file system where ``RWF_NOWAIT`` is not supported."""

    code = errno.EOPNOTSUPP

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "a"
        self.thread = PlayedThread()
        self.ends = Ends()
        self.client = BufferedWire(9000, 43_210)
        self.outbound = Outbound(self.client, lambda: None)
        self.relays = Relays(None, page_cache=PageCache(self.read, PlayedMounts(False)))
        preadv = os.preadv

        def failing(file: int, buffers: Any, offset: int, flags: int = 0) -> int:
            if flags:
                raise OSError(self.code, os.strerror(self.code))
            return preadv(file, buffers, offset)

        self.patch(os, "preadv", failing)

    def read(
        self, work: Callable[[], Any], device: int, returned: Callable[[], object]
    ) -> Deferred[Any]:
        def read() -> Any:
            try:
                return work()
            finally:
                returned()

        return self.thread(read)

    def relay(self, content: bytes, unchanged: Callable[[], bool] | None = None) -> Any:
        self.path.write_bytes(content)
        self.file = RawFile(self.path)
        self.ends.clear()
        return self.relays.send(
            FileJob(
                b"OK n\n",
                self.file,
                len(content),
                self.outbound,
                self.ends,
                unchanged=unchanged,
            )
        )
