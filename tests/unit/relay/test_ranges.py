"""Parts of files, by copying and by ``sendfile``, and files that change while they are sent."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from unittest import mock, skipUnless

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from natproxy.relay import FileJob, Method, Relay, Relays, SourceChanged, SourceShort, outbound_of
from natproxy.relay.files import CHUNK, CopyingFileRelay
from natproxy.relay.sendfile import STRETCH, SendfileRelay
from tests.support.doubles import BufferedWire, PlayedPageCache, SocketWire
from tests.support.ends import Ends
from tests.support.files import RawFile

HEADER = b"OK n\n"
PIECE = bytes(range(256)) * (CHUNK // 128)
LARGE = PIECE * (1 + 2 * STRETCH // len(PIECE)) + b"the rest"


@st.composite
def parts(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """A file's content, and an offset and a size, of one byte at the least, in it."""
    content = draw(st.binary(min_size=1, max_size=40))
    offset = draw(st.integers(0, len(content) - 1))
    return content, offset, draw(st.integers(1, len(content) - offset))


class CopiedPartsTests(SynchronousTestCase):
    """One file, one client, and a relay between them."""

    kind: type[Relay] = CopyingFileRelay

    def setUp(self) -> None:
        self.ends = Ends()
        self.received = b""
        self.new_client()

    def new_client(self) -> None:
        self.client = BufferedWire(9001, 43_210)
        self.relays = Relays()

    def take(self) -> None:
        """Let the client read, and the relay go on."""
        self.received += self.client.drain()

    def relay(
        self,
        content: bytes,
        offset: int,
        size: int,
        unchanged: Callable[[], bool] | None = None,
        cache: PlayedPageCache | None = None,
    ) -> Relay:
        """Begin to send a part of a file with this content."""
        kept = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        self.addCleanup(kept.close)
        self.path = f"/proc/self/fd/{kept.fileno()}"
        kept.write(content)
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
        asked: list[None] = []
        relay = self.relay(content, offset, size, lambda: asked.append(None) or True)
        self.run_to_the_end()
        self.assertEqual(self.ends, [None])
        self.assertTrue(self.received == HEADER + content[offset : offset + size])
        self.assertEqual(relay.sent, len(self.received))
        self.assertEqual(len(asked), 1 if size else 0)

    @settings(max_examples=60, deadline=None, database=None)
    @given(parts())
    def test_any_part(self, part: tuple[bytes, int, int]) -> None:
        self.new_client()
        self.assert_all_arrives(*part)

    def test_no_bytes_at_all(self) -> None:
        for offset in (0, 5, len(LARGE)):
            self.new_client()
            self.assert_all_arrives(LARGE, offset, 0)

    def test_large_parts(self) -> None:
        for offset, size in (
            (0, len(LARGE)),
            (1, len(LARGE) - 1),
            (CHUNK - 1, CHUNK + 2),
            (STRETCH + 1, STRETCH),
            (STRETCH, STRETCH + 1),
            (len(LARGE) - 1, 1),
        ):
            self.new_client()
            self.assert_all_arrives(LARGE, offset, size)

    def test_file_that_has_changed_is_not_sent_to_its_end(self) -> None:
        for size in (1, 2, CHUNK, CHUNK + 1, len(LARGE)):
            self.new_client()
            self.relay(LARGE, len(LARGE) - size, size, lambda: False)
            self.run_to_the_end()
            self.assertIsInstance(self.ends[0], SourceChanged)
            self.assertLess(len(self.received), len(HEADER) + size)
            self.assertTrue((HEADER + LARGE[-size:]).startswith(self.received))

    def test_it_is_asked_when_all_has_been_read(self) -> None:
        def changed() -> bool:
            # Whatever is written now does not reach the client any more.
            with open(self.path, "r+b") as file:
                file.write(b"?" * len(LARGE))
            return True

        self.relay(LARGE, 0, len(LARGE), changed)
        self.run_to_the_end()
        self.assertEqual(self.ends, [None])
        self.assertTrue(self.received == HEADER + LARGE)

    def test_shrunk_file_is_short(self) -> None:
        relay = self.relay(LARGE[: CHUNK + 10], 5, len(LARGE), lambda: True)
        self.run_to_the_end()
        short = self.ends[0]
        self.assertIsInstance(short, SourceShort)
        self.assertEqual(short.missing, f"{len(LARGE) - CHUNK - 5} bytes")
        self.assertEqual(self.received, HEADER + LARGE[5 : CHUNK + 10])
        self.assertEqual(relay.sent, len(self.received))

    def test_without_the_question_nothing_is_kept_back(self) -> None:
        self.relay(LARGE, 7, len(LARGE) - 7)
        self.run_to_the_end()
        self.assertEqual(self.ends, [None])
        self.assertTrue(self.received == HEADER + LARGE[7:])

    def test_question_that_cannot_be_answered(self) -> None:
        self.relay(LARGE, 0, 10, mock.Mock(side_effect=OSError(errno.EIO, "Input/output error")))
        self.run_to_the_end()
        self.assertEqual(self.ends[0].errno, errno.EIO)

    def test_every_byte_is_warm_before_it_is_read(self) -> None:
        cache = PlayedPageCache()
        self.relay(LARGE, 11, len(LARGE) - 11, lambda: True, cache)
        for _ in range(200):
            while cache.loading:
                cache.loaded()
            self.take()
            if self.ends:
                break
        self.take()
        self.assertEqual(self.ends, [None])
        self.assertTrue(self.received == HEADER + LARGE[11:])
        stretches = sorted({(offset, size) for _, offset, size in cache.checked})
        self.assertEqual(stretches[0][0], 11)
        self.assertEqual(sum(stretches[-1]), len(LARGE))


@skipUnless(hasattr(os, "splice"), "no kernel way on this system")
class SentfilePartsTests(CopiedPartsTests):
    """The same inside the kernel, on a socket."""

    kind = SendfileRelay

    @settings(max_examples=60, deadline=None, database=None)
    @given(parts())
    def test_any_part(self, part: tuple[bytes, int, int]) -> None:
        self.new_client()
        self.assert_all_arrives(*part)

    def new_client(self) -> None:
        self.reactor = MemoryReactorClock()
        self.client = SocketWire(9001, 43_210)
        self.addCleanup(self.client.socket.close)
        self.relays = Relays(self.reactor, Method.KERNEL)

    def take(self) -> None:
        self.received += self.client.socket.taken()
        for descriptor in self.reactor.getWriters():
            descriptor.doWrite()

    def test_only_the_last_byte_is_kept_back(self) -> None:
        self.relay(LARGE, 0, 100, lambda: False)
        self.run_to_the_end()
        self.assertEqual(self.received, HEADER + LARGE[:99])

    def test_last_byte_waits_for_the_socket(self) -> None:
        answers = [True, True, True]
        full = mock.patch.object(os, "write", side_effect=BlockingIOError)
        with full:
            self.relay(LARGE, 0, 100, answers.pop)
            self.take()
            self.take()
            self.assertEqual((self.received, self.ends), (HEADER + LARGE[:99], []))
        self.run_to_the_end()
        self.assertEqual(self.received, HEADER + LARGE[:100])

    def test_change_while_the_last_byte_waits(self) -> None:
        answers = [False, True]
        with mock.patch.object(os, "write", side_effect=BlockingIOError):
            self.relay(LARGE, 0, 100, answers.pop)
            self.take()
        self.run_to_the_end()
        self.assertIsInstance(self.ends[0], SourceChanged)
        self.assertEqual(self.received, HEADER + LARGE[:99])
