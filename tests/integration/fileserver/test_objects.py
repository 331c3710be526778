"""A file server over an object store that throttles, lies, or loses an object."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.error import ConnectionLost
from twisted.internet.threads import deferToThread, deferToThreadPool

from natproxy.fileserver.factory import FileServerFactory, Reads
from natproxy.relay import PageCache, Relays
from natproxy.storage import ObjectStorage
from natproxy.storage.objects import ranges, s3
from natproxy.storage.objects.location import Location
from natproxy.storage.objects.s3 import S3Client
from tests.support.loopback import PATIENCE, client_of, eventually, listening
from tests.support.objects import PlayedStore
from tests.support.played_s3 import PlayedS3, Reply, failure

CONTENT = bytes(range(256)) * (8 << 10)


def server_of(storage: ObjectStorage) -> FileServerFactory:
    """Return the factory of a file server."""
    in_thread = partial(deferToThreadPool, reactor, reactor.getThreadPool())
    reads = Reads(in_thread, reactor)
    relays = Relays(reactor, page_cache=PageCache(reads))
    return FileServerFactory(reactor, storage, in_thread, 600.0, relays, reads=reads)


@pytest_twisted.ensureDeferred
async def test_failures_are_503(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    monkeypatch.setattr(s3, "READ_TIMEOUT", 2.0)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    server = PlayedS3()
    try:
        location = Location("b", "", server.endpoint)
        storage = ObjectStorage(location, S3Client(location))
        async with listening(server_of(storage)) as port, client_of(port) as client:
            for reply in (
                failure(503, "SlowDown"),
                failure(403, "AccessDenied"),
                Reply(206, b"abc", Content_Range="bytes 5-7/9"),
                Reply(206, b"abc", 9, hangs=True, Content_Range="bytes 0-8/9"),
            ):
                server.play(reply)
                for command in (b"GET a", b"LS", b"HASH a") if reply.status != 206 else (b"GET a",):
                    client.send(command + b"\n")
                    got = await client.takes(1)
                    assert got == b"ERR 503 the server cannot open files at present\n", command
            server.play(failure(404, "NoSuchKey"))
            client.send(b"GET a\n")
            assert await client.takes(1) == b"ERR 404 file not found\n"
    finally:
        await deferToThread(server.close)


@pytest_twisted.ensureDeferred
async def test_client_of_a_replaced_object_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "LARGEST", ranges.PIECE)
    store = PlayedStore()
    store.put("a", CONTENT)
    storage = ObjectStorage(Location("b"), store)
    replaced = threading.Event()

    def replace() -> None:
        if len(store.ranges) == 3 and not replaced.is_set():
            replaced.set()
            store.put("a", CONTENT[::-1])

    store.before_read = replace
    async with listening(server_of(storage)) as port, client_of(port) as client:
        client.send(b"GET a\n")
        assert await client.end() is ConnectionLost
        header, _, body = bytes(client.received).partition(b"\n")
        assert header.startswith(b"OK %d " % len(CONTENT))
        assert len(body) < len(CONTENT)
        assert CONTENT.startswith(body)
    assert storage.memory.held == 0


@pytest_twisted.ensureDeferred
async def test_client_that_goes_away_stops_the_work() -> None:
    store = PlayedStore()
    store.put("a", CONTENT * 8)
    storage = ObjectStorage(Location("b"), store)
    gate = threading.Event()
    store.before_read = lambda: len(store.ranges) == 1 or gate.wait(PATIENCE)
    server = server_of(storage)
    async with listening(server) as port:
        async with client_of(port) as client:
            client.send(b"GET a\n")
            await eventually(lambda: len(store.ranges) >= 2, "a range that is being received")
        await eventually(lambda: not server.connections, "the end of the connection")
        # The read that waited has returned although the store is silent.
        await eventually(lambda: not server.executors["reads"].running, "the end of the read")
        await eventually(lambda: storage.memory.held == 0, "free memory")
        sent = store.sent
        gate.set()
    assert store.sent <= sent + 2 * ranges.PIECE
