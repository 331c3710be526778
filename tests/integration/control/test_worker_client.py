"""A master's client of a worker's socket: replies in time, or a reason."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from unittest import mock

import pytest
import pytest_twisted
from twisted.internet import reactor as installed
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol

from natproxy.control.merged import workers
from natproxy.control.merged.errors import NoReply, Refusal
from natproxy.control.merged.lines import LineStream, State
from natproxy.control.merged.workers import Fleet, Worker
from natproxy.control.peer import Peer

reactor: Any = installed


class Handle(NamedTuple):
    number: int
    control: str


class Scripted(Protocol):
    """Sends a reply to the first bytes of a request."""

    factory: Any

    def dataReceived(self, data: bytes) -> None:
        self.factory.served.received.append(data)
        assert self.transport is not None
        reply = self.factory.served.reply
        if reply is not None:
            self.transport.write(reply)
            if self.factory.served.close:
                self.transport.loseConnection()


def response(body: bytes, status: bytes = b"200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, size, body)


class Served:
    """A socket that replies to each request with the same bytes.

    :ivar worker: the client of it.
    :ivar reply: ``None`` for nothing.
    :ivar close: whether the connection is closed after the reply.
    :ivar received: from the client.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.reply: bytes | None = None
        self.close = True
        self.received: list[bytes] = []
        self.worker = Worker(reactor, Handle(0, path))

    @asynccontextmanager
    async def listening(self, reply: bytes | None, close: bool = True) -> AsyncIterator[Worker]:
        """Listen for the length of a block."""
        self.reply, self.close = reply, close
        factory: Any = Factory.forProtocol(Scripted)
        factory.noisy = False
        factory.served = self
        port = reactor.listenUNIX(self.path, factory)
        try:
            yield self.worker
        finally:
            await maybeDeferred(port.stopListening)
            await later()


@pytest.fixture
def served() -> Iterator[Served]:
    directory = tempfile.mkdtemp()
    yield Served(os.path.join(directory, "a.w0.sock"))
    shutil.rmtree(directory)


async def reason(call: Callable[[], Any]) -> str:
    """Return why a call has no reply."""
    with pytest.raises(NoReply) as caught:
        await call()
    return str(caught.value)


def later() -> Deferred[None]:
    deferred: Deferred[None] = Deferred()
    reactor.callLater(0.02, deferred.callback, None)
    return deferred


@pytest_twisted.ensureDeferred
async def test_object(served: Served) -> None:
    async with served.listening(response(b'{"a":1}\n')) as worker:
        found = await worker.read("/v1/kill?a=b", {"all": True}, Peer(5, 6))
    assert found == {"a": 1}
    request = b"".join(served.received)
    assert request.startswith(b"POST /v1/kill?a=b HTTP/1.1\r\n")
    assert b"\r\nNatproxy-Peer: 5:6\r\n" in request
    assert request.endswith(b'{"all": true}')


@pytest_twisted.ensureDeferred
async def test_worker_that_hangs_is_not_waited_for(served: Served) -> None:
    async with served.listening(None) as worker:
        found = await reason(lambda: worker.read("/v1/status", timeout=0.1))
    assert found == "it has not replied within 0.1 s"


@pytest_twisted.ensureDeferred
async def test_no_process(served: Served) -> None:
    found = await reason(lambda: served.worker.read("/v1/status"))
    assert found == "it starts, and has no control socket yet"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(served.path)
    found = await reason(lambda: served.worker.read("/v1/status"))
    assert found == "no process listens on its control socket"
    os.unlink(served.path)


@pytest_twisted.ensureDeferred
async def test_refusal(served: Served) -> None:
    async with served.listening(response(b'{"error":"no"}', b"409 Conflict")) as worker:
        with pytest.raises(Refusal) as caught:
            await worker.read("/v1/kill", {})
    assert (caught.value.status, str(caught.value)) == (409, "no")


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (response(b"{"), "malformed JSON"),
        (response(b"[]"), "no JSON object"),
        (response(b'{"a":', length=99), "cut off"),
        (b"nonsense\r\n\r\n", "closed the connection"),
        (b"", "closed the connection"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_malformed_replies(served: Served, reply: bytes, expected: str) -> None:
    async with served.listening(reply) as worker:
        assert expected in await reason(lambda: worker.read("/v1/status"))


@pytest_twisted.ensureDeferred
async def test_body_is_bounded(served: Served) -> None:
    async with served.listening(response(b"[" + b" " * 5000 + b"]")) as worker:
        with mock.patch.object(workers, "MOST_JSON", 4000):
            assert "too long" in await reason(lambda: worker.read("/v1/status"))


@pytest_twisted.ensureDeferred
async def test_lines(served: Served) -> None:
    async with served.listening(response(b'[\n{"a":1},\n{"a":2}\n]\n')) as worker:
        stream = await worker.lines("/v1/table")
        while stream.state is State.OPEN:
            await later()
    assert list(stream.lines) == [b'{"a":1}', b'{"a":2}']


@pytest_twisted.ensureDeferred
async def test_lines_that_are_cut_off(served: Served) -> None:
    async with served.listening(response(b'{"a":1}\n', length=99)) as worker:
        stream = await worker.lines("/v1/history")
        while stream.state is State.OPEN:
            await later()
    assert (stream.state, stream.reason) == (State.FAILED, "it has closed the connection")


@pytest_twisted.ensureDeferred
async def test_fleet_names_those_that_do_not_reply(served: Served) -> None:
    other = Handle(1, f"{served.path}.other")
    fleet = Fleet(reactor, [other, Handle(0, served.path)])
    async with served.listening(response(b'{"a":1}')):
        gathered = await fleet.objects("/v1/status")
    assert [worker.number for worker, _ in gathered.results] == [0]
    assert [each.worker for each in gathered.missing] == [1]


@pytest_twisted.ensureDeferred
async def test_body_that_hangs_is_not_waited_for(served: Served) -> None:
    async with served.listening(response(b'{"a":', length=99), close=False) as worker:
        found = await reason(lambda: worker.read("/v1/status", timeout=0.1))
    # An error that has no callback would be logged.
    gc.collect()
    assert found == "it has not replied within 0.1 s"


@pytest_twisted.ensureDeferred
async def test_client_that_is_gone_leaves_no_stream(served: Served) -> None:
    opened: list[LineStream] = []
    hanging = Served(f"{served.path}.hangs")
    fleet = Fleet(reactor, [Handle(0, served.path), Handle(1, hanging.path)])
    lines = Worker.lines

    async def noted(worker: Worker, target: str) -> LineStream:
        opened.append(await lines(worker, target))
        return opened[-1]

    async with (
        served.listening(response(b'{"a":1}\n', length=99), close=False),
        hanging.listening(None),
    ):
        with mock.patch.object(Worker, "lines", noted), mock.patch.object(workers, "TIMEOUT", 60.0):
            gathering = Deferred.fromCoroutine(fleet.lines(lambda _: "/v1/table"))
            while not (opened and hanging.received):
                await later()
            gathering.cancel()
            with pytest.raises(CancelledError):
                await gathering
    # An error that has no callback would be logged.
    gc.collect()
    assert [stream.state for stream in opened] == [State.ENDED]
