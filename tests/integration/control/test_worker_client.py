"""A master's client of a worker's socket: replies in time, or a reason."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase

from natproxy.control.merged import workers
from natproxy.control.merged.errors import NoReply, Refusal
from natproxy.control.merged.lines import State
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
        self.factory.received.append(data)
        assert self.transport is not None
        reply = self.factory.reply
        if reply is not None:
            self.transport.write(reply)
            self.transport.loseConnection()


def response(body: bytes, status: bytes = b"200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, size, body)


class WorkerTests(TestCase):
    def setUp(self) -> None:
        directory = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, directory)
        self.path = os.path.join(directory, "a.w0.sock")
        self.server: Any = Factory.forProtocol(Scripted)
        self.server.received = []
        self.server.reply = None
        self.worker = Worker(reactor, Handle(0, self.path))

    def listen(self, reply: bytes | None) -> None:
        self.server.reply = reply
        port = reactor.listenUNIX(self.path, self.server)
        self.addCleanup(port.stopListening)

    async def reason(self, call: Callable[[], Any]) -> str:
        with self.assertRaises(NoReply) as caught:
            await call()
        return str(caught.exception)

    async def test_object(self) -> None:
        self.listen(response(b'{"a":1}\n'))
        found = await self.worker.read("/v1/kill?a=b", {"all": True}, Peer(5, 6))
        self.assertEqual(found, {"a": 1})
        request = b"".join(self.server.received)
        self.assertTrue(request.startswith(b"POST /v1/kill?a=b HTTP/1.1\r\n"))
        self.assertIn(b"\r\nNatproxy-Peer: 5:6\r\n", request)
        self.assertTrue(request.endswith(b'{"all": true}'))

    async def test_worker_that_hangs_is_not_waited_for(self) -> None:
        self.listen(None)
        reason = await self.reason(lambda: self.worker.read("/v1/status", timeout=0.1))
        self.assertEqual(reason, "it has not replied within 0.1 s")

    async def test_no_process(self) -> None:
        reason = await self.reason(lambda: self.worker.read("/v1/status"))
        self.assertIn("control socket", reason)

    async def test_refusal(self) -> None:
        self.listen(response(b'{"error":"no"}', b"409 Conflict"))
        with self.assertRaises(Refusal) as caught:
            await self.worker.read("/v1/kill", {})
        self.assertEqual((caught.exception.status, str(caught.exception)), (409, "no"))

    async def test_malformed_replies(self) -> None:
        self.listen(None)
        for reply, reason in (
            (response(b"{"), "malformed JSON"),
            (response(b"[]"), "no JSON object"),
            (response(b'{"a":', length=99), "cut off"),
            (b"nonsense\r\n\r\n", "closed the connection"),
            (b"", "closed the connection"),
        ):
            self.server.reply = reply
            found = await self.reason(lambda: self.worker.read("/v1/status"))
            self.assertIn(reason, found, reply)

    async def test_body_is_bounded(self) -> None:
        self.listen(response(b"[" + b" " * 5000 + b"]"))
        with mock.patch.object(workers, "MOST_JSON", 4000):
            reason = await self.reason(lambda: self.worker.read("/v1/status"))
        self.assertIn("too long", reason)

    async def test_lines(self) -> None:
        self.listen(response(b'[\n{"a":1},\n{"a":2}\n]\n'))
        stream = await self.worker.lines("/v1/table")
        while stream.state is State.OPEN:
            await stream.wait()
            if stream.lines:
                await self.later()
        self.assertEqual(list(stream.lines), [b'{"a":1}', b'{"a":2}'])

    async def test_lines_that_are_cut_off(self) -> None:
        self.listen(response(b'{"a":1}\n', length=99))
        stream = await self.worker.lines("/v1/history")
        while stream.state is State.OPEN:
            await self.later()
        self.assertEqual(
            (stream.state, stream.reason), (State.FAILED, "it has closed the connection")
        )

    def later(self) -> Deferred[None]:
        deferred: Deferred[None] = Deferred()
        reactor.callLater(0.01, deferred.callback, None)
        return deferred

    async def test_fleet_names_those_that_do_not_reply(self) -> None:
        self.listen(response(b'{"a":1}'))
        other = Handle(1, f"{self.path}.other")
        fleet = Fleet(reactor, [other, Handle(0, self.path)])
        gathered = await fleet.objects("/v1/status")
        self.assertEqual([worker.number for worker, _ in gathered.results], [0])
        self.assertEqual([each.worker for each in gathered.missing], [1])
