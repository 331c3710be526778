"""A served directory with files outside of it, listings of it, and checks of open descriptors."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import cycle

from twisted.trial.unittest import SynchronousTestCase

from natproxy.fileserver.pages import PageReply, make_page
from natproxy.metadata import FILE, Entry
from natproxy.protocol import EntryLines
from natproxy.storage import LocalStorage, NotFound
from natproxy.storage.interface import Check, Storage, unchecked

IN_OPEN = 0x20

CONTENT = {b"a.txt": b"the a", b"b c": b"", b"sub/b.txt": b"the b", b"sub/deep/c": b"the c"}
INSIDE_LINKS = {b"inside": b"a.txt", b"insub": b"sub/b.txt", b"sub/up": b"../a.txt"}
REFUSED_LINKS = {
    b"outfile": b"../outside/secret",
    b"outdir": b"../outside",
    b"root": b"/",
    b"self": b"../served",
    b"roundabout": b"../served/a.txt",
    b"dangling": b"nothing",
    b"loop": b"loop",
    b"magic": b"/proc/self/exe",
}
REFUSED = (
    *(b"", b".", b"..", b"/", b"//", b"/a.txt", b"a.txt/", b"sub/", b"sub//b.txt", b"./a.txt"),
    *(b"sub/./b.txt", b"../outside/secret", b"sub/../a.txt", b"sub/../../outside/secret"),
    *(b"a.txt/..", b"/etc/passwd", b"a\0", b"a.txt\0", b"a.txt\0/..", b"\0", b"x" * 300),
    *(b"sub/" + b"x" * 300, b"a/" * 3000 + b"a", b"nothing", b"nothing/a", b"a.txt/b", b"sub"),
    *(b"outdir/secret", b"root/etc/passwd", b"self/a.txt", b"sub/deep"),
)


def descriptors() -> set[str]:
    """Return the open descriptors, except the one that lists them."""
    return {number for number in os.listdir("/proc/self/fd") if os.path.exists(f"/dev/fd/{number}")}


class OpenWatch:
    """Reports, by inotify, whether a file has been opened."""

    def __init__(self, path: bytes) -> None:
        libc = ctypes.CDLL(None)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        libc.inotify_add_watch(self.descriptor, path, IN_OPEN)

    def opened(self) -> bool:
        """Whether the file has been opened since the last call."""
        try:
            return bool(os.read(self.descriptor, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self.descriptor)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail instead of hanging."""

    def too_late(*_: object) -> None:
        raise AssertionError("it blocks")

    before = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Limit the descriptors that can be opened in the block."""
    used = {int(number) for number in descriptors()}
    free = [number for number in range(len(used) + count + 1) if number not in used]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class ServedCase(SynchronousTestCase):
    """A tree with a served directory and something outside of it; no test may leak."""

    def setUp(self) -> None:
        # Not mktemp(): a UNIX socket's path has to be short.
        self.top = os.fsencode(os.path.realpath(tempfile.mkdtemp()))
        self.addCleanup(shutil.rmtree, self.top)
        self.served = os.path.join(self.top, b"served")
        os.makedirs(self.path(b"sub/deep"))
        os.mkdir(self.path(b"../outside"))
        for name, content in {**CONTENT, b"../outside/secret": b"secret"}.items():
            self.put(name, content)
        for name, target in {**INSIDE_LINKS, **REFUSED_LINKS, b"sublink": b"sub"}.items():
            os.symlink(target, self.path(name))
        os.symlink(self.path(b"a.txt"), self.path(b"absolute"))
        before = descriptors()
        self.addCleanup(lambda: self.assertEqual(descriptors() - before, set()))

    def path(self, name: bytes) -> bytes:
        return os.path.join(self.served, name)

    def put(self, name: bytes, content: bytes) -> None:
        with open(self.path(name), "wb") as file:
            file.write(content)

    def read(self, storage: LocalStorage, name: bytes) -> bytes:
        """Return the content of a file."""
        with within(5), closing(storage.open(name)) as file:
            self.assertFalse(os.get_inheritable(file.fileno()))
            content = file.read_at(0, file.size + 1)
            self.assertEqual((file.metadata.type, file.metadata.size), (FILE, file.size))
        self.assertEqual(len(content), file.size)
        return content

    def assert_not_found(self, storage: LocalStorage, name: bytes) -> None:
        before = descriptors()
        with within(5):
            try:
                file = storage.open(name)
            except NotFound:
                self.assertLessEqual(descriptors(), before, name)
            else:
                file.close()
                self.fail(f"{name!r} was opened")


def page_of(
    storage: Storage,
    name: bytes,
    depth: float,
    after: bytes,
    limit: int,
    check: Check = unchecked,
) -> PageReply:
    """Return a page of a storage's entries, as for one ``LS``."""
    with closing(storage.entries(name, depth, after, check)) as steps:
        return make_page(steps, limit)


def parsed(reply: PageReply) -> tuple[list[Entry], bool]:
    """Return the entries of a page, and whether it was cut."""
    lines = EntryLines()
    entries = list(lines.feed(reply.body))
    return entries, lines.more


class PagesCase(ServedCase):
    """Reads metadata and pages.

    :cvar opener: how names are opened.
    :cvar follows_links: whether it follows links that stay inside.
    :ivar follows_header: whether the next page begins at the position in the header.
    """

    opener: staticmethod
    follows_links: bool
    follows_header = True

    def setUp(self) -> None:
        super().setUp()
        self.storage = LocalStorage(self.served, self.opener)

    def listable(self, path: bytes) -> bool:
        """Return, by comparing path strings, whether a path is an entry."""
        if os.path.basename(path) in (*REFUSED_LINKS, b"absolute"):
            # Some of them lead back inside, by way of what is outside.
            return False
        if os.path.islink(path):
            try:
                # The kernel refuses what `realpath` accepts: a file with a slash after it.
                os.stat(path)
                path = os.path.realpath(path, strict=True)
            except OSError:
                return False
            if not self.follows_links or not (path + b"/").startswith(self.served + b"/"):
                return False
        return os.path.isfile(path) or os.path.isdir(path)

    def model(self, name: bytes = b"", depth: float = math.inf) -> list[bytes]:
        """Return the names below a directory, sorted."""
        top = self.path(name) if name else self.served
        found = [
            os.path.relpath(os.path.join(directory, below), self.served)
            for directory, directories, files in os.walk(top)
            for below in (*directories, *files)
            if self.listable(os.path.join(directory, below))
        ]
        above = name.count(b"/") + 1 if name else 0
        return sorted(path for path in found if path.count(b"/") - above < depth)

    def pages(
        self,
        name: bytes = b"",
        depth: float = math.inf,
        after: bytes = b"",
        limits: Iterable[int] = (1000,),
        storage: LocalStorage | None = None,
    ) -> Iterator[Entry]:
        """Read page after page."""
        more = True
        endless = cycle(limits)
        while more:
            limit = next(endless)
            with within(20):
                reply = page_of(storage or self.storage, name, depth, after, limit)
            entries, more = parsed(reply)
            self.assertLessEqual(len(entries), limit)
            self.assertTrue(entries or reply.page.after or not more)
            yield from entries
            if more:
                before, after = after, entries[-1].name if entries else b""
                # A client that ignores the header continues after the last entry.
                if self.follows_header and reply.page.after is not None:
                    after = reply.page.after
                self.assertGreater(after, before)

    def page(
        self, name: bytes, depth: float, after: bytes, limit: int, check: Check = unchecked
    ) -> PageReply:
        return page_of(self.storage, name, depth, after, limit, check)

    def names(self, *arguments: object, **named: object) -> list[bytes]:
        return [entry.name for entry in self.pages(*arguments, **named)]

    def assert_without_metadata(self, name: bytes, storage: LocalStorage | None = None) -> None:
        before = descriptors()
        with within(5):
            self.assertRaises(NotFound, (storage or self.storage).metadata, name)
            self.assertRaises(NotFound, page_of, storage or self.storage, name, math.inf, b"", 10)
        self.assertLessEqual(descriptors(), before, name)
