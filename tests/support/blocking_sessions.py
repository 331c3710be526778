"""Blocking sessions with a server whose replies a test chooses."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.client import Session
from tests.support.answering_server import AnsweringServer, Version2

FILES = {b"a": b"the a", b"b c": b"", b"s/\xff\n": bytes(range(256)) * 100}


class SessionCase(SynchronousTestCase):
    def serve(self, reply: Callable[[bytes], bytes], timeout: float = 10) -> Session:
        """Return a session with a server whose replies a function returns."""
        self.server = AnsweringServer(reply)
        session = Session(Address("127.0.0.1", self.server.port), timeout)
        self.addCleanup(self.server.close)
        self.addCleanup(session.close)
        return session

    def serve_files(self, page: int = 1000) -> Session:
        return self.serve(Version2(dict(FILES), page))

    def serve_replies(self, replies: dict[bytes, bytes], timeout: float = 10) -> Session:
        """Return a session with a server of version 2 that sends other replies to some verbs."""
        version2 = Version2(dict(FILES))

        def reply(line: bytes) -> bytes:
            other = replies.get(line.split()[0])
            return version2(line) if other is None else other

        return self.serve(reply, timeout)
