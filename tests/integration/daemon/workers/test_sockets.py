"""Listening sockets that several processes share."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from natproxy.daemon.listening import ListeningEndpoint
from natproxy.daemon.service import StartupError
from natproxy.daemon.workers.listening import (
    OpenEndpoint,
    SocketOpener,
    open_endpoint,
    reuseport_sockets,
)
from natproxy.daemon.workers.sockets import InheritedEndpoint, adopt, open_or_adopt

LOOPBACK = "tcp:0:interface=127.0.0.1"
CLIENTS = 64


@pytest.fixture
def opened() -> Iterator[list[OpenEndpoint]]:
    """Return a list of endpoints that are closed at the end."""
    endpoints: list[OpenEndpoint] = []
    yield endpoints
    for one in endpoints:
        one.close()


def open_one(opened: list[OpenEndpoint], description: str, workers: int = 4) -> OpenEndpoint:
    opener: Any = SocketOpener(reactor, workers)
    one = open_endpoint(opener, ListeningEndpoint(opener, description), "--listen")
    opened.append(one)
    return one


def accepted(listening: socket.socket) -> int:
    count = 0
    while True:
        try:
            listening.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


@pytest.mark.parametrize(
    "description", [LOOPBACK, f"haproxy:{LOOPBACK}", f"haproxy:haproxy:{LOOPBACK}"]
)
def test_each_worker_has_a_socket_of_one_port(opened: list[OpenEndpoint], description: str) -> None:
    one = open_one(opened, description)
    names = {each.getsockname() for each in one.sockets}
    assert (len(one.sockets), len(names)) == (4, 1)
    assert not any(each.getblocking() for each in one.sockets)
    assert one.getHost().port == names.pop()[1]
    clients = [socket.create_connection(one.sockets[0].getsockname()) for _ in range(CLIENTS)]
    counts = [accepted(each) for each in one.sockets]
    for client in clients:
        client.close()
    assert sum(counts) == CLIENTS
    # The kernel spreads them by a hash with a random key.
    assert sum(1 for count in counts if count) > 1


def test_ipv6(opened: list[OpenEndpoint]) -> None:
    one = open_one(opened, r"tcp6:0:interface=\:\:1", 2)
    assert one.inherited().family == socket.AF_INET6
    assert one.address.startswith("[::1]:")


@pytest.mark.parametrize("shares", [False, True])
def test_port_of_another_process_is_an_error(opened: list[OpenEndpoint], shares: bool) -> None:
    with socket.socket() as other:
        if shares:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StartupError, match="in use; choose another one with --listen"):
            open_one(opened, f"tcp:{port}:interface=127.0.0.1")


def test_port_of_another_master_is_an_error(opened: list[OpenEndpoint]) -> None:
    port = open_one(opened, LOOPBACK).getHost().port
    with pytest.raises(OSError, match="in use"):
        reuseport_sockets("127.0.0.1", port, 50, 2)


def test_unix_socket_is_shared_and_removed_by_the_master(
    opened: list[OpenEndpoint], tmp_path: Path
) -> None:
    path = tmp_path / "a"
    one = open_one(opened, f"unix:{path}:mode=600")
    assert (len(one.sockets), one.inherited().shared) == (1, True)
    port: Any = adopt(reactor, one.inherited(), 3, Factory.forProtocol(Protocol))
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.fsdecode(port.getHost().name) == str(path)
    port.stopReading()
    port.connectionLost(None)
    # The worker has left; the socket and its file have not.
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    one.close()
    assert not path.exists()
    assert list(tmp_path.iterdir()) == []


class Greeting(Protocol):
    """Sends a byte and closes."""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"1")
        self.transport.loseConnection()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_worker_that_stops_listening_shuts_nothing_down(
    opened: list[OpenEndpoint], tmp_path: Path, kind: str
) -> None:
    description = LOOPBACK if kind == "tcp" else f"unix:{tmp_path / 'a'}"
    one = open_one(opened, description, 1)
    factory = Factory.forProtocol(Greeting)
    for _ in range(2):
        port: Any = adopt(reactor, one.inherited(), 0, factory)
        stopped: list[object] = []
        closing: Deferred[object] = port.stopListening()
        closing.addCallback(stopped.append)
        iterate_until(lambda stopped=stopped: bool(stopped))
        # What has arrived since then waits for the next worker.
        client = socket.socket(one.sockets[0].family)
        client.connect(one.sockets[0].getsockname())
        client.setblocking(False)
        port = adopt(reactor, one.inherited(), 0, factory)
        received = bytearray()

        def read(client: socket.socket = client, received: bytearray = received) -> bool:
            try:
                received.extend(client.recv(1))
            except BlockingIOError:
                return False
            return True

        iterate_until(read)
        assert received == b"1"
        client.close()
        port.stopReading()
        port.connectionLost(None)


def socket_of(descriptor: str) -> str:
    """Return what a descriptor of this process is: ``socket:[123]``."""
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_endpoint_of_the_program_before_stays_open(tmp_path: Path, kind: str) -> None:
    description = LOOPBACK if kind == "tcp" else f"unix:{tmp_path / 'a'}"
    endpoints: Any = [ListeningEndpoint(cast(Any, reactor), description)]
    factory = Factory.forProtocol(Greeting)
    (port,) = open_or_adopt(reactor, endpoints, {}, factory, "--web")
    before: Any = port
    before.stopReading()
    address = before.socket.getsockname()
    client = socket.socket(before.addressFamily)
    client.connect(address)
    client.setblocking(False)
    identity = socket_of(str(before.fileno()))
    descriptors = tuple(os.dup(before.fileno()) for _ in range(2))
    inherited = {
        each: InheritedEndpoint(each, before.addressFamily, (descriptor,))
        for each, descriptor in zip((description, "of no setting"), descriptors, strict=True)
    }
    if kind == "unix":
        # Its file would be removed.
        del inherited["of no setting"]
        os.close(descriptors[1])
    (port,) = open_or_adopt(reactor, endpoints, inherited, factory, "--web")
    before.socket.close()
    received = bytearray()

    def read() -> bool:
        try:
            received.extend(client.recv(1))
        except BlockingIOError:
            return False
        return True

    iterate_until(read)
    assert received == b"1"
    client.close()
    adopted: Any = port
    adopted.stopReading()
    adopted.connectionLost(None)
    # Neither the one that was used nor the one that was not stays open.
    assert identity not in map(socket_of, os.listdir("/proc/self/fd"))
    assert list(tmp_path.iterdir()) == []


def iterate_until(condition: Any) -> None:
    """Run turns of the reactor until a condition holds."""
    loop: Any = reactor
    for _ in range(3000):
        if condition():
            return
        loop.iterate(0.01)
    pytest.fail("the reactor did not do it")
