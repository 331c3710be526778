"""Objects of real servers, SeaweedFS and moto: the suite of storages, and whole daemons."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.client import ClientError, Session
from natproxy.storage import ObjectStorage
from natproxy.storage.objects.location import Location
from natproxy.storage.objects.s3 import S3Client
from tests.support.seaweedfs import (
    BUCKET,
    CREDENTIALS,
    HOST,
    Service,
    client_of,
    free_ports,
    seaweedfs,
)
from tests.support.storage_suite import SETTINGS, ObjectsSuite, Tree, flatten
from tests.support.twistd import LIMIT, TWISTD, await_port

prefixes = count()


class ServerSuite(ObjectsSuite):
    """The suite, with a real server: each storage has a prefix of its own."""

    mtime = None
    connects = True
    service: Service

    def setUp(self) -> None:
        environment = mock.patch.dict(os.environ, CREDENTIALS)
        environment.start()
        self.addCleanup(environment.stop)
        self.client: S3Client | None = None
        super().setUp()

    def build(self, tree: Tree) -> ObjectStorage:
        self.prefix = f"suite/{next(prefixes)}/"
        self.put("", b"")
        for name, content in flatten(tree):
            self.put(name.decode() + ("/" if content is None else ""), content or b"")
        location = Location(BUCKET, self.prefix, self.service.endpoint)
        self.client = self.client or S3Client(location)
        return ObjectStorage(location, self.client)

    def put(self, key: str, content: bytes) -> None:
        self.service.client.put_object(Bucket=BUCKET, Key=self.prefix + key, Body=content)

    def replace(self, name: bytes, content: bytes) -> None:
        self.put(name.decode(), content)

    @settings(SETTINGS, max_examples=6)
    @given(st.data())
    def test_listings_and_their_parts_are_those_of_a_model(self, data: st.DataObject) -> None:
        self.compare_with_model(data)


class SeaweedFSTests(ServerSuite, SynchronousTestCase):
    """A store on file systems, which lists ``a/x`` before ``a-1``."""

    def setUp(self) -> None:
        self.service = seaweedfs()
        super().setUp()

    def test_order_of_the_store_is_found_out(self) -> None:
        self.names()
        self.assertTrue(self.storage.client.by_name)

    def test_stored_digest(self) -> None:
        self.service.client.put_object(
            Bucket=BUCKET, Key=f"{self.prefix}digest", Body=b"x", ChecksumAlgorithm="SHA256"
        )
        file = self.storage.open(b"digest")
        self.assertEqual(file.stored_sha256(), hashlib.sha256(b"x").hexdigest())
        file.close()


class MotoTests(ServerSuite, SynchronousTestCase):
    """A store that lists keys in the order of their bytes."""

    def setUp(self) -> None:
        self.service = moto()
        super().setUp()

    def test_keys_that_are_no_names_are_left_out(self) -> None:
        for key in ("odd//x", "odd/../x", "odd/ok"):
            self.put(key, b"x")
        lines: list[str] = []
        self.storage.report = lines.append
        self.assertEqual(self.names(b"odd"), [b"odd/ok"])
        self.assertIn("is left out of listings", lines[0])


_moto: list[Service] = []


def moto() -> Service:
    """Return moto's server in a thread; there is one in a process."""
    if not _moto:
        import logging

        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        (port,) = free_ports(1)
        ThreadedMotoServer(ip_address=HOST, port=port, verbose=False).start()
        service = Service(f"http://{HOST}:{port}", client_of(f"http://{HOST}:{port}"))
        service.client.create_bucket(Bucket=BUCKET)
        _moto.append(service)
    return _moto[0]


@contextmanager
def file_server(directory: Path, *options: str) -> Iterator[tuple[int, int]]:
    """Run ``twistd fileserver`` over SeaweedFS; return its port and pid."""
    (port,) = free_ports(1)
    process = subprocess.Popen(
        (
            *(*TWISTD, "-n", "--pidfile=", "fileserver", f"--listen=tcp:{port}:interface={HOST}"),
            *(f"--control={directory}/control", f"--s3-endpoint={seaweedfs().endpoint}", *options),
        ),
        cwd=directory,
        env={**os.environ, **CREDENTIALS},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        await_port(port)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=LIMIT)
        assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in output
        assert CREDENTIALS["AWS_ACCESS_KEY_ID"] + "/" not in output


CONTENT = bytes(range(256)) * (12 << 12)


def put(key: str, content: bytes) -> None:
    seaweedfs().client.put_object(Bucket=BUCKET, Key=key, Body=content)


def test_files_of_a_bucket(tmp_path: Path) -> None:
    put("daemon/large", CONTENT)
    put("daemon/sub/small", b"small")
    put("daemon/secret.key", b"hidden")
    with (
        file_server(tmp_path, f"--files=s3://{BUCKET}/daemon", "--hide=*.key") as (port, pid),
        Session(Address(HOST, port), 30) as session,
    ):
        assert session.read("large") == CONTENT
        assert session.hash("large").sha256 == hashlib.sha256(CONTENT).hexdigest()
        assert session.read("sub/small") == b"small"
        names = [entry.name for entry in session.walk()]
        assert names == [b"large", b"sub", b"sub/small"]
        assert list(session.list()) == [b"large"]
        # Everyone on this host can read it.
        command = Path(f"/proc/{pid}/cmdline").read_text()
        assert CREDENTIALS["AWS_SECRET_ACCESS_KEY"] not in command


def test_cache_that_is_killed_and_shared(tmp_path: Path) -> None:
    put("cached/large", CONTENT)
    options = (f"--files=s3://{BUCKET}/cached", "--cache=cache", "--cache-size=64M")
    read: list[bytes] = []
    with file_server(tmp_path, *options) as (port, pid):
        readers = [
            threading.Thread(target=read_until_it_ends, args=(port, read), daemon=True)
            for _ in range(4)
        ]
        for reader in readers:
            reader.start()
        await_blocks(tmp_path / "cache")
        os.kill(pid, signal.SIGKILL)
        for reader in readers:
            reader.join(LIMIT)
    assert all(content == CONTENT for content in read)
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    options = (*options[:1], f"--cache={tmp_path}/cache", *options[2:])
    with (
        file_server(first, *options) as (one, _),
        file_server(second, *options) as (other, _),
        Session(Address(HOST, one), 30) as session,
        Session(Address(HOST, other), 30) as another,
    ):
        assert session.read("large") == CONTENT
        assert another.read("large") == CONTENT
        status = subprocess.run(
            (sys.executable, "-m", "natproxy", "status", f"--control={second}/control"),
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
        assert "12 hits" in status.stdout, status
        # Both have the store's etag: a download continues at either.
        etag = session.stat("large").etag
        assert another.read("large", 1000, if_match=etag) == CONTENT[1000:]


def read_until_it_ends(port: int, read: list[bytes]) -> None:
    with contextlib.suppress(ClientError), Session(Address(HOST, port), 30) as session:
        while True:
            read.append(session.read("large"))


def await_blocks(directory: Path) -> None:
    """Wait until the cache has a block."""
    deadline = time.monotonic() + LIMIT
    while not any(directory.glob("??/*")):
        assert time.monotonic() < deadline, "no block is written"
        time.sleep(0.002)


def test_what_cannot_be_served_is_one_line() -> None:
    ended = subprocess.run(
        (
            *(*TWISTD, "-n", "--pidfile=", "fileserver", "--control=none", "--listen=tcp:0"),
            *(f"--s3-endpoint={seaweedfs().endpoint}", "--files=s3://absent-bucket"),
        ),
        env={**os.environ, **CREDENTIALS},
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert ended.returncode == 1
    line = "twistd fileserver: --files s3://absent-bucket: no such bucket: absent-bucket\n"
    assert ended.stderr == line
