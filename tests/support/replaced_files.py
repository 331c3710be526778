"""Random cases of a file that is replaced while its server is away, or between two tries.

Each byte of the new file differs from the byte at the same offset of the old one, so that a mixture
of the two cannot look like one of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from enum import Enum
from functools import partial
from pathlib import Path
from typing import NamedTuple

from twisted.internet import reactor
from twisted.internet.error import ConnectionDone
from twisted.internet.task import deferLater

from natproxy.server.factory import CommandFactory
from tests.support.dying_relay import Death, DyingRelay, Plan
from tests.support.loopback import client_of, file_server, listening

MOST = 300_000
"""Bytes of a file at most: those from 64 KiB are spliced."""

_OLD = random.Random("old").randbytes(2 * MOST)
_NEW = bytes(byte ^ 0xFF for byte in _OLD)

LONGEST = 30.0
"""Seconds that a client waits for the end of its reply; only a failing test needs them."""


class Change(Enum):
    """What happens to the file."""

    NOTHING = "nothing"
    RENAMED = "another file is renamed to it"
    RENAMED_SAME_SIZE = "one of the same size and mtime is renamed to it"
    IN_PLACE = "it is written again in place, with another size"
    IN_PLACE_SAME_SIZE = "it is written again in place, with the same size"
    IN_PLACE_SAME_MTIME = "it is written again in place, with the same size and mtime"
    TRUNCATED = "it is truncated"
    EXTENDED = "it is extended"
    REMOVED = "it is removed"
    DIRECTORY = "a directory is in its place"


class Ending(Enum):
    """What the client has received."""

    OLD = "the old file, complete"
    NEW = "the new file, complete"
    CUT_OFF = "a part of one file, cut off"
    ERROR = "an error in place of the reply"
    MIXTURE = "bytes of both files"
    HANGING = "nothing more, on an open connection"


class Case(NamedTuple):
    """One download and what happens meanwhile.

    :ivar line: the command.
    :ivar size: of the old file.
    :ivar offset: of the first byte that the command asks for.
    :ivar length: bytes that it asks for; ``None``: all.
    :ivar deaths: of servers, at the first tries.
    :ivar changed_at: the number of the death at which the file changes.
    :ivar servers: their number; all serve the same directory.
    :ivar pause: seconds for which the client does not read, after the first bytes.
    """

    line: bytes
    size: int
    offset: int
    length: int | None
    deaths: tuple[Death, ...]
    changed_at: int
    change: Change
    servers: int
    pause: float


def draw(chance: random.Random) -> Case:
    """Return a random case."""
    size = chance.choice((chance.randrange(1, 200), chance.randrange(1, MOST)))
    verb = chance.choice((b"GET", b"GET", b"DOWNLOAD"))
    offset, length, line = 0, None, verb + b" file\n"
    if verb == b"GET" and chance.random() < 0.4:
        offset = chance.randrange(size)
        length = chance.choice((None, chance.randrange(1, MOST)))
        limit = b"" if length is None else b" length=%d" % length
        line = b"GET file offset=%d%s\n" % (offset, limit)
    # A header has some 90 bytes; each death is somewhere in what may be left then.
    left = size - offset + 80
    deaths = []
    for _ in range(chance.choice((1, 1, 2, 3))):
        after = chance.choice((chance.randrange(left), chance.randrange(left), 0))
        away = chance.choice((0.0, chance.uniform(0.001, 0.1)))
        deaths.append(Death(after, chance.random() < 0.5, away))
        left = max(1, left - after)
    return Case(
        line,
        size,
        offset,
        length,
        tuple(deaths),
        chance.randrange(len(deaths)),
        chance.choice(list(Change)),
        chance.choice((1, 2)),
        chance.choice((0.0, 0.0, chance.uniform(0.001, 0.05))),
    )


def change(path: Path, case: Case, chance: random.Random) -> bytes | None:
    """Change the file; return its new content, ``None`` if there is none."""
    before = path.stat()
    kind, size = case.change, case.size
    other = chance.randrange(1, 2 * MOST)
    if kind in (Change.IN_PLACE_SAME_SIZE, Change.IN_PLACE_SAME_MTIME, Change.RENAMED_SAME_SIZE):
        other = size
    content = _NEW[:other]
    if kind is Change.NOTHING:
        return _OLD[:size]
    if kind is Change.REMOVED:
        path.unlink()
        return None
    if kind is Change.DIRECTORY:
        path.unlink()
        path.mkdir()
        return None
    if kind is Change.TRUNCATED:
        content = _OLD[: chance.randrange(size)]
        os.truncate(path, len(content))
    elif kind is Change.EXTENDED:
        content = _OLD[:size] + _NEW[:100]
        with path.open("ab") as file:
            file.write(_NEW[:100])
    elif kind in (Change.RENAMED, Change.RENAMED_SAME_SIZE):
        path.with_name("other").write_bytes(content)
        path.with_name("other").replace(path)
    else:
        path.write_bytes(content)
    if kind in (Change.IN_PLACE_SAME_MTIME, Change.RENAMED_SAME_SIZE):
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return content


class Played(NamedTuple):
    """What has come of a case.

    :ivar changed: whether the death at which the file changes has happened.
    :ivar begun: whether a header had been passed on before that.
    :ivar tries: commands that servers have received in all; likewise those `after` the change.
    :ivar lost: deaths before the first header.
    :ivar has_part: whether the file as it is in the end has the part that is asked for.
    """

    case: Case
    ending: Ending
    changed: bool
    begun: bool
    tries: int
    after: int
    lost: int
    has_part: bool

    @property
    def wrong(self) -> str | None:
        """Return what is wrong; ``None`` if nothing is."""
        return None if self.ending in self._expected() else f"{self.ending}: {self}"

    def _expected(self) -> tuple[Ending, ...]:
        download = self.case.line.startswith(b"DOWNLOAD")
        if download and self.lost >= 2 and self.ending is Ending.CUT_OFF:
            # After two GETs without a reply, as of a server of version 1, it is sent as it is.
            return (Ending.CUT_OFF,)
        if not self.changed or self.case.change is Change.NOTHING:
            return (Ending.OLD,)
        if not self.begun:
            return (Ending.NEW,) if self.has_part else (Ending.ERROR,)
        # Without another try, all had been received before the change.
        return (Ending.CUT_OFF,) if self.after else (Ending.OLD,)


def judged(received: bytes, old: bytes, new: bytes | None, *, ended: bool) -> Ending:
    """Return what a client has received.

    :param old: the part of the old file that was asked for; likewise ``new``.
    :param ended: whether its connection was cut off.
    """
    header, found, body = received.partition(b"\n")
    if not found:
        return Ending.CUT_OFF if ended else Ending.HANGING
    words = header.split()
    if words[0] == b"ERR":
        return Ending.ERROR
    promised = int(words[1])
    if len(body) > promised:
        return Ending.MIXTURE
    for content, complete in ((old, Ending.OLD), (new, Ending.NEW)):
        if content is not None and promised == len(content) and content.startswith(body):
            if len(body) == promised:
                return complete
            return Ending.CUT_OFF if ended else Ending.HANGING
    return Ending.MIXTURE


async def play(
    case: Case,
    directory: Path,
    chance: random.Random,
    make_proxy: Callable[[Sequence[tuple[str, int]]], CommandFactory],
) -> Played:
    """Play a case.

    :param directory: is made.
    :param make_proxy: returns the factory of a proxy to upstreams at some hosts and ports.
    """
    directory.mkdir()
    path = directory / "file"
    path.write_bytes(_OLD[: case.size])
    contents: list[bytes | None] = []
    before: list[tuple[bool, int]] = []

    def change_file() -> None:
        before.append((plan.begun, len(plan.commands)))
        contents.append(change(path, case, chance))

    plan = Plan(case.deaths)
    plan.deaths[case.changed_at] = case.deaths[case.changed_at]._replace(then=change_file)
    async with AsyncExitStack() as stack:
        target = await stack.enter_async_context(listening(file_server(directory)))
        servers = [DyingRelay(target, plan) for _ in range(case.servers)]
        for server in servers:
            server.start()
            stack.push_async_callback(server.stop)
        proxy = make_proxy([(server.host, server.port) for server in servers])
        port = await stack.enter_async_context(listening(proxy))
        client = await stack.enter_async_context(client_of(port))
        client.send(case.line)
        if case.pause:
            client.stop_reading()
            await deferLater(reactor, case.pause, lambda: None)
            client.read_on()
        deadline = reactor.seconds() + LONGEST
        while client.ended is None and not _complete(bytes(client.received)):
            if reactor.seconds() > deadline:
                break
            await deferLater(reactor, 0.002, lambda: None)
        # What follows a reply would be the beginning of a second one.
        await deferLater(reactor, 0.002, lambda: None)
        received, ended = bytes(client.received), client.ended is not None
    part = partial(_part, case)
    old = part(_OLD[: case.size])
    new = part(contents[0]) if contents and contents[0] is not None else None
    ending = judged(received, old, new, ended=ended)
    # Only an abort shows that a reply is incomplete.
    if ending is Ending.CUT_OFF and client.ended is ConnectionDone:
        ending = Ending.MIXTURE
    begun, tries = before[0] if before else (plan.begun, len(plan.commands))
    if ending is Ending.OLD and case.change is not Change.NOTHING and old == new and not begun:
        # The part that was asked for is the same in both files.
        ending = Ending.NEW
    count = len(plan.commands)
    content = contents[0] if contents else _OLD[: case.size]
    has_part = content is not None and case.offset <= len(content)
    return Played(case, ending, bool(before), begun, count, count - tries, plan.lost, has_part)


def _part(case: Case, content: bytes) -> bytes:
    end = None if case.length is None else case.offset + case.length
    return content[case.offset : end]


def _complete(received: bytes) -> bool:
    header, found, body = received.partition(b"\n")
    if not found:
        return False
    words = header.split()
    return words[0] == b"ERR" or len(body) >= int(words[1])
