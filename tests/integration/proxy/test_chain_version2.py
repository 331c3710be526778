"""Version 2 over sockets: client, proxy and file server, and the daemon with a long digest."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionLost

from natproxy.protocol import (
    MAX_PACKED,
    VERBS,
    Arguments,
    Entry,
    EntryLines,
    Framing,
    Range,
    ReplyParser,
    abilities,
    format_entry,
    format_metadata,
    format_range,
    format_request,
)
from natproxy.relay import Method
from natproxy.storage.local.metadata import metadata_of
from tests.support.loopback import Daemon, Peer, client_of, daemon, listening, proxy_to
from tests.support.relays import MADE, MIB, RecordingRelays, Running, both_methods, gets, serving

SIZE = 8 * MIB
RANGE = 3 * MIB


class Chain:
    """A proxy in front of a file server, and one client of it."""

    def __init__(
        self, directory: Path, client: Peer, server: Running, relays: RecordingRelays
    ) -> None:
        self.directory = directory
        self.client = client
        self.server = server
        self.relays = relays

    def etag(self, name: str) -> str:
        return metadata_of(os.stat(self.directory / name)).etag

    def header(self, name: str, length: int, offset: int = 0) -> bytes:
        """Return the header of the reply to a ``GET``."""
        metadata = metadata_of(os.stat(self.directory / name))
        return format_range(Range(length, offset, metadata))

    async def gets(self, command: bytes, reply: bytes) -> None:
        """Send a command and wait for exactly this reply."""
        self.client.send(command)
        await gets(self.client, reply)

    async def page(self, arguments: Arguments) -> bytes:
        """Send an ``LS`` and wait for the body of its page."""

        def body() -> bytes | None:
            parser = ReplyParser(Framing.COUNTED)
            body = parser.feed(bytes(self.client.received))
            return body if parser.complete else None

        self.client.send(format_request(b"LS", arguments))
        await self.client.until(lambda: body() is not None, "a page")
        page = body()
        await self.client.takes(1)
        return page


@asynccontextmanager
async def chain(method: Method, directory: Path) -> AsyncIterator[Chain]:
    """Run both daemons for a directory, with a client of the proxy."""
    (directory / "a").write_bytes(b"content of a")
    (directory / "sub").mkdir()
    (directory / "sub" / "b c").write_bytes(b"inside")
    (directory / "large").write_bytes(os.urandom(MIB) * (SIZE // MIB))
    relays = RecordingRelays(method)
    async with serving(method, directory, all_by_method=False) as server:
        async with (
            listening(proxy_to(server.port, relays=relays)) as port,
            client_of(port) as client,
        ):
            yield Chain(directory, client, server, relays)
        relays.close()


@pytest_twisted.ensureDeferred
async def test_every_verb_passes_the_proxy(tmp_path: Path) -> None:
    async with chain(Method.AUTO, tmp_path) as running:
        metadata = metadata_of(os.stat(tmp_path / "a"))
        shown = format_metadata(metadata)
        entry = format_entry(Entry(b"sub/b c", metadata_of(os.stat(tmp_path / "sub/b c"))))
        packed = entry + b"inside" + shown + b" a\ncontent of a" + b"error=404 no\n"
        digest = hashlib.sha256(b"content").hexdigest()
        replies = {
            b"FEAT": b"OK\n" + abilities() + b"VIA natproxy/2.1\nEND\n",
            b"STAT a": b"OK " + shown + b"\n",
            b"GET a offset=3 length=4": running.header("a", 4, 3) + b"tent",
            b"LS sub depth=inf": b"OK %d\n" % len(entry) + entry,
            b"PACK sub/b%20c a no": b"OK %d\n" % len(packed) + packed,
            b"HASH a length=7": f"OK sha256={digest} size=12 etag={metadata.etag}\n".encode(),
            b"LIST": b"OK\na\nlarge\nEND\n",
            b"DOWNLOAD a": b"OK 12\ncontent of a",
        }
        assert {command.split()[0] for command in replies} == set(VERBS) - {b"AUTH"}
        for command, reply in replies.items():
            await running.gets(command + b"\n", reply)
        # All at once, in order: the same.
        await running.gets(
            b"".join(command + b"\r\n" for command in replies) * 9, b"".join(replies.values()) * 9
        )
        # Each command is logged twice: by the file server, and by the proxy.
        await running.server.ended(*["completed"] * 2 * 10 * len(replies))


@both_methods
@pytest_twisted.ensureDeferred
async def test_large_range_arrives_intact(method: Method, tmp_path: Path) -> None:
    async with chain(method, tmp_path) as running:
        content = (tmp_path / "large").read_bytes()
        for offset in (1, MIB + 4097, SIZE - RANGE):
            await running.gets(
                f"GET large offset={offset} length={RANGE}\n".encode(),
                running.header("large", RANGE, offset) + content[offset:][:RANGE],
            )
        between, from_file = MADE[method]
        assert [type(relay) for relay in running.relays.made] == [between] * 3
        assert [type(relay) for relay in running.server.relays.made] == [from_file] * 3


@both_methods
@pytest_twisted.ensureDeferred
async def test_pack_is_one_body_for_the_proxy(method: Method, tmp_path: Path) -> None:
    async with chain(method, tmp_path) as running:
        (tmp_path / "small").write_bytes(os.urandom(MAX_PACKED))
        content = (tmp_path / "small").read_bytes()
        shown = format_metadata(metadata_of(os.stat(tmp_path / "small")))
        record = shown + b" small\n" + content
        # It ends with the record that makes it a mebibyte.
        body = b"error=413 large\n" + record * 16
        command = b"PACK large" + b" small" * 20 + b"\n"
        await running.gets(command * 2, (b"OK %d\n" % len(body) + body) * 2)
        between, _ = MADE[method]
        assert [type(relay) for relay in running.relays.made] == [between] * 2


@both_methods
@pytest_twisted.ensureDeferred
async def test_failures_keep_the_connection_usable(method: Method, tmp_path: Path) -> None:
    async with chain(method, tmp_path) as running:
        etag = running.etag("a")
        for command, reply in (
            (b"GET a if-match=old", f"ERR 412 changed etag={etag}\n".encode()),
            (b"GET a offset=13", b"ERR 416 range size=12\n"),
            (b"GET b", b"ERR 404 file not found\n"),
            (b"LS b", b"ERR 404 file not found\n"),
            (b"HASH sub", b"ERR 404 file not found\n"),
            (b"STAT", b"ERR 400 missing file name\n"),
            (b"PACK a %zz", b"ERR 400 malformed name '%zz'\n"),
        ):
            await running.gets(command + b"\n", reply)
            await running.gets(
                f"GET a if-match={etag}\n".encode(), running.header("a", 12) + b"content of a"
            )


@pytest_twisted.ensureDeferred
async def test_whole_tree_in_pages(tmp_path: Path) -> None:
    async with chain(Method.AUTO, tmp_path) as running:
        for number in range(20):
            (tmp_path / "sub" / f"{number:02}\n").touch()
        found: list[bytes] = []
        more = True
        while more:
            after = found[-1] if found else b""
            lines = EntryLines()
            page = await running.page(Arguments(depth=math.inf, after=after, limit=6))
            found += [entry.name for entry in lines.feed(page)]
            more = lines.more
        names = [b"sub/%02d\n" % number for number in range(20)]
        assert found == [b"a", b"large", b"sub", *names, b"sub/b c"]


@asynccontextmanager
async def held_up(method: Method, directory: Path) -> AsyncIterator[tuple[Running, Peer, bytes]]:
    """Let the file ``large`` be sent to a client that does not read; return the whole reply."""
    path = directory / "large"
    path.write_bytes(os.urandom(MIB) * (SIZE // MIB))
    # Wait until the clock of the file system has advanced.
    os.utime(path, (1, 1))
    header = format_range(Range(SIZE, 0, metadata_of(os.stat(path))))
    async with serving(method, directory) as server, server.client() as client:
        server.shrink_buffers(client)
        client.stop_reading()
        client.send(b"GET large\n")
        await server.stalled()
        yield server, client, header + path.read_bytes()


@both_methods
@pytest_twisted.ensureDeferred
async def test_file_written_while_it_is_sent_is_not_sent_as_a_mixture(
    method: Method, tmp_path: Path
) -> None:
    async with held_up(method, tmp_path) as (server, client, reply):
        with (tmp_path / "large").open("r+b") as file:
            file.seek(SIZE - 5)
            file.write(b"later")
        client.read_on()
        assert await client.end() is ConnectionLost
        assert client.count < len(reply)
        await server.ended("error")


@both_methods
@pytest_twisted.ensureDeferred
async def test_file_replaced_while_it_is_sent_is_sent_to_its_end(
    method: Method, tmp_path: Path
) -> None:
    async with held_up(method, tmp_path) as (server, client, reply):
        (tmp_path / "new").write_bytes(b"new")
        os.replace(tmp_path / "new", tmp_path / "large")
        client.read_on()
        await gets(client, reply)
        await server.ended("completed")
        client.send(b"GET large\n")
        now = format_range(Range(3, 0, metadata_of(os.stat(tmp_path / "large"))))
        await gets(client, now + b"new")


@both_methods
@pytest_twisted.ensureDeferred
async def test_broken_off_reply_is_broken_off_by_the_proxy_too(
    method: Method, tmp_path: Path
) -> None:
    async with chain(method, tmp_path) as running:
        with (tmp_path / "endless").open("wb") as file:
            file.truncate(64 * MIB)
        client = running.client
        client.keep = 0
        client.send(b"GET endless\n")
        await client.until(lambda: client.count > MIB, "its beginning")
        client.stop_reading()
        with (tmp_path / "endless").open("r+b") as file:
            file.write(b"changed")
        client.read_on()
        assert await client.end() is ConnectionLost
        assert client.count < 64 * MIB
        await running.server.ended("error", "upstream-gone")


async def ask_for_a_long_digest(directory: Path, server: Daemon, client: Peer) -> None:
    """Begin a digest that takes hours, of a sparse file."""
    with (directory / "files" / "endless").open("wb") as file:
        file.truncate(1 << 42)
    client.send(b"HASH endless\nFEAT\n")
    async with client_of(server.port) as other:
        other.send(b"STAT endless\n")
        assert b"size=%d" % (1 << 42) in await other.takes(1)


@pytest.mark.parametrize("waiting", [True, False])
@pytest_twisted.ensureDeferred
async def test_daemon_does_not_wait_for_a_digest(tmp_path: Path, waiting: bool) -> None:
    (tmp_path / "files").mkdir()
    async with daemon(tmp_path, "fileserver", "--drain=0.2") as server:
        async with client_of(server.port) as client:
            await ask_for_a_long_digest(tmp_path, server, client)
            if not waiting:
                client.kill()
                await client.end()
            server.terminate()
            await client.end()
        assert await server.status() == 0
        assert server.errors.read_text() == ""
