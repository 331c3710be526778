"""A control socket as a real one: made again, and passed on to the next program."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from natproxy.daemon.control_socket import CHECK, ControlSocket, InheritedControl

reactor: Any = installed
LIMIT = 30.0


class Greeting(Protocol):
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")
        self.transport.loseConnection()


class Timed:
    """The reactor, with a clock of the test's own."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.callLater = self.clock.callLater

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


@pytest.fixture
def path() -> Iterator[str]:
    directory = tempfile.mkdtemp()
    yield os.path.join(directory, "a.sock")
    shutil.rmtree(directory)


def greeted(path: str) -> bytes:
    """Return what a client receives, in a thread."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(LIMIT)
        client.connect(path)
        received = b""
        while data := client.recv(100):
            received += data
        return received


def made(path: str) -> tuple[ControlSocket, Clock]:
    timed = Timed()
    factory = Factory.forProtocol(Greeting)
    factory.noisy = False
    return ControlSocket(timed, factory, lambda: path), timed.clock


@asynccontextmanager
async def opened(path: str, inherited: Any = None) -> AsyncIterator[tuple[ControlSocket, Clock]]:
    control, clock = made(path)
    control.open(inherited)
    try:
        yield control, clock
    finally:
        await control.close()
        control.release()
        # A port is closed in a later turn.
        turn: Deferred[None] = Deferred()
        reactor.callLater(0, turn.callback, None)
        await turn


@pytest_twisted.ensureDeferred
async def test_clients_are_served_after_it_was_removed(path: str) -> None:
    async with opened(path) as (_, clock):
        assert await deferToThread(greeted, path) == b"hello"
        os.unlink(path)
        clock.advance(CHECK)
        assert os.stat(path).st_mode & 0o777 == 0o600
        assert await deferToThread(greeted, path) == b"hello"
    assert os.listdir(os.path.dirname(path)) == []


@pytest_twisted.ensureDeferred
async def test_clients_wait_for_the_next_program(path: str) -> None:
    async with opened(path) as (first, _):
        found = first.inheritable()
        assert found is not None
        # As the next program has them: its predecessor's are closed, and nothing is removed.
        copy = InheritedControl(*found[:2], os.dup(found.socket), os.dup(found.lock))
        port: Any = first._port
        port.stopReading()
        waiting = deferToThread(greeted, path)
        async with opened(path, copy) as (second, clock):
            assert await waiting == b"hello"
            again = second.inheritable()
            assert again is not None
            assert again.identity == found.identity
            os.unlink(path)
            clock.advance(CHECK)
            assert await deferToThread(greeted, path) == b"hello"
    assert os.listdir(os.path.dirname(path)) == []
