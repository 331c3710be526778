"""The protocol, over each kind of storage: a local directory, memory, objects, and SeaweedFS."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThreadPool

from natproxy.fileserver.factory import FileServerFactory, Reads
from natproxy.protocol import parse_pack
from natproxy.relay import PageCache, Relays
from natproxy.storage import LocalStorage, ObjectStorage, Storage
from natproxy.storage.objects.location import Location
from natproxy.storage.objects.s3 import S3Client
from natproxy.testing import MemoryStorage
from tests.support.loopback import Peer, client_of, listening
from tests.support.objects import PlayedStore
from tests.support.seaweedfs import BUCKET, CREDENTIALS, seaweedfs

LARGE = bytes(range(251)) * 20_000
FILES = {
    b"a-1": b"one",
    b"a.txt": b"the text",
    b"a/x": b"below",
    b"a/y/z": b"",
    b"b c": b"with space",
    b"empty": b"",
    b"large": LARGE,
}
NAMES = sorted([*FILES, b"a", b"a/y"])
prefixes = count()


def local(directory: Path) -> Storage:
    for name, content in FILES.items():
        path = directory / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return LocalStorage(os.fspath(directory))


def memory(_: Path, blocking: bool = False) -> Storage:
    return MemoryStorage(FILES, blocking=blocking)


def objects(_: Path) -> Storage:
    store = PlayedStore()
    for name, content in FILES.items():
        store.put(f"top/{name.decode()}", content)
    return ObjectStorage(Location("bucket", "top/"), store)


def served(_: Path) -> Storage:
    service, prefix = seaweedfs(), f"storages/{next(prefixes)}/"
    for name, content in FILES.items():
        service.client.put_object(Bucket=BUCKET, Key=prefix + name.decode(), Body=content)
    location = Location(BUCKET, prefix, service.endpoint)
    return ObjectStorage(location, S3Client(location))


STORAGES: dict[str, Callable[[Path], Storage]] = {
    "local": local,
    "memory": memory,
    "blocking memory": partial(memory, blocking=True),
    "objects": objects,
    "seaweedfs": served,
}


@pytest.fixture(params=STORAGES)
def storage(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Storage:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return STORAGES[request.param](tmp_path)


@asynccontextmanager
async def client(storage: Storage) -> AsyncIterator[Peer]:
    """Connect to a file server of a storage."""
    in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
    reads = Reads(in_thread, reactor)
    relays = Relays(reactor, page_cache=PageCache(reads))
    factory = FileServerFactory(reactor, storage, in_thread, 600.0, relays, reads=reads)
    async with listening(factory) as port, client_of(port) as peer:
        yield peer


async def reply(peer: Peer, command: str, body: bool = False) -> tuple[dict[str, str], bytes]:
    """Send a command; return the fields of the header, with its other words, and the body."""
    peer.send(command.encode() + b"\n")
    await peer.until(lambda: b"\n" in peer.received, f"a header for {command}")
    line = bytes(peer.received).partition(b"\n")[0]
    words = line.decode().split()
    fields = dict(word.split("=", 1) for word in words if "=" in word)
    fields["words"] = " ".join(word for word in words if "=" not in word)
    start = len(line) + 1
    size = int(words[1]) if body and words[0] == "OK" else 0
    await peer.until(lambda: len(peer.received) >= start + size, f"the body of {command}")
    content = bytes(peer.received[start : start + size])
    del peer.received[: start + size]
    return fields, content


@pytest_twisted.ensureDeferred
async def test_files(storage: Storage) -> None:
    async with client(storage) as peer:
        for name, content in FILES.items():
            word = name.decode().replace(" ", "%20")
            stat, _ = await reply(peer, f"STAT {word}")
            assert (stat["type"], int(stat["size"])) == ("file", len(content))
            got, body = await reply(peer, f"GET {word} if-match={stat['etag']}", True)
            assert body == content
            assert (got["etag"], got["mtime"]) == (stat["etag"], stat["mtime"])
            assert (await reply(peer, f"DOWNLOAD {name.decode()}", True))[1] == content
            for _ in range(2):
                digest, _ = await reply(peer, f"HASH {word}")
                assert digest["sha256"] == hashlib.sha256(content).hexdigest()
                assert (digest["etag"], int(digest["size"])) == (stat["etag"], len(content))


@pytest_twisted.ensureDeferred
async def test_ranges(storage: Storage) -> None:
    async with client(storage) as peer:
        size = len(LARGE)
        for offset, length in ((0, 1), (1, 70_000), (size - 1, 1), (3_000_000, 2_000_000), (9, 0)):
            got, body = await reply(peer, f"GET large offset={offset} length={length}", True)
            assert body == LARGE[offset : offset + length]
            assert (got["offset"], got["size"]) == (str(offset), str(size))
            digest, _ = await reply(peer, f"HASH large offset={offset} length={length}")
            assert digest["sha256"] == hashlib.sha256(body).hexdigest()
        assert (await reply(peer, f"GET large offset={size}", True))[1] == b""
        assert (await reply(peer, f"GET large offset={size - 5}", True))[1] == LARGE[-5:]
        wrong, _ = await reply(peer, f"GET large offset={size + 1}")
        assert wrong["words"].startswith("ERR 416 ")
        wrong, _ = await reply(peer, "GET large if-match=another")
        assert wrong["words"].startswith("ERR 412 ")


@pytest_twisted.ensureDeferred
async def test_listings(storage: Storage) -> None:
    async with client(storage) as peer:
        for depth, most in (("1", 0), ("2", 1), ("inf", 9)):
            whole = [name for name in NAMES if name.count(b"/") <= most]
            for limit in (1, 2, 100):
                found: list[bytes] = []
                after = ""
                while True:
                    command = f"LS depth={depth} limit={limit}{after}"
                    page, body = await reply(peer, command, True)
                    lines = body.splitlines()
                    more = lines[-1:] == [b"more"]
                    names = [line.rsplit(b" ", 1)[1] for line in lines[: -1 if more else None]]
                    found += [name.replace(b"%20", b" ") for name in names]
                    if not more:
                        break
                    after = f" after={page.get('after') or names[-1].decode()}"
                assert found == whole, (depth, limit)
        assert (await reply(peer, "LS a depth=inf", True))[1].count(b"\n") == 3
        assert (await reply(peer, "LS a/x", True))[1].count(b"\n") == 1
        assert (await reply(peer, "LS nothing"))[0]["words"].startswith("ERR 404 ")
        peer.send(b"LIST\n")
        await peer.until(lambda: peer.received.endswith(b"\nEND\n"), "the end of a listing")
        top = [name for name in sorted(FILES) if b"/" not in name]
        assert bytes(peer.received).splitlines() == [b"OK", *top, b"END"]


@pytest_twisted.ensureDeferred
async def test_packs(storage: Storage) -> None:
    names = [b"a-1", b"nothing", b"a", b"large", b"empty", b"b c", b"a/x"]
    async with client(storage) as peer:
        words = " ".join(name.decode().replace(" ", "%20") for name in names)
        _, body = await reply(peer, f"PACK {words}", True)
        for name, metadata, data, code in parse_pack(body, names):
            if code:
                assert code == {b"nothing": 404, b"a": 404, b"large": 413}[name]
            else:
                assert data == FILES[name]
                assert metadata == storage.metadata(name)


@pytest_twisted.ensureDeferred
async def test_names_and_directories(storage: Storage) -> None:
    async with client(storage) as peer:
        for directory in (".", "a", "a/y"):
            stat, _ = await reply(peer, f"STAT {directory}")
            assert stat["type"] == "dir"
        for command in (
            "STAT nothing",
            "GET a",
            "GET nothing",
            "HASH a",
            "STAT a-1/x",
            "GET a/x/y",
        ):
            assert (await reply(peer, command))[0]["words"] == "ERR 404 file not found"
        for name in ("..", "a/../a-1", "a//x", "/a-1", "a/"):
            assert (await reply(peer, f"STAT {name}"))[0]["words"].startswith("ERR 40")


@pytest_twisted.ensureDeferred
async def test_replies_come_in_the_order_of_the_commands(storage: Storage) -> None:
    async with client(storage) as peer:
        peer.send(b"GET large\nSTAT a-1\nDOWNLOAD a-1\nHASH a.txt\nGET nothing\n")
        await peer.until(lambda: peer.received.endswith(b"not found\n"), "the last reply")
        header, _, rest = bytes(peer.received).partition(b"\n")
        assert header.startswith(b"OK %d " % len(LARGE))
        assert rest[: len(LARGE)] == LARGE
        stat, download, _, digest = rest[len(LARGE) :].split(b"\n", 3)
        assert stat.startswith(b"OK type=file size=3 ")
        assert download == b"OK 3"
        assert rest.endswith(b"ERR 404 file not found\n"), digest
