"""TLS of accepted connections, before the first byte of TLS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from natproxy.server.secure import SecureFactory
from natproxy.tls.openssl import ServerFiles, ServerTLS
from tests.support.certificates import Authority

CLIENT_HELLO = b"\x16\x03\x01\x00\x05"


class SecureFactoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        cert, key = Authority(directory).issue("server.example")
        self.tls = ServerTLS(ServerFiles(cert, key))
        self.transport = StringTransport()

    def connect(self) -> Any:
        factory = SecureFactory(self.tls, False, Factory.forProtocol(Protocol), Clock())
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(self.transport)
        return protocol

    def test_client_without_tls_receives_an_error_that_it_can_read(self) -> None:
        for first in (b"FEAT\n", b"L", b"GET / HTTP/1.1\r\n", b"\x80\x2e\x01\x00\x02"):
            self.transport = StringTransport()
            protocol = self.connect()
            protocol.dataReceived(first)
            protocol.dataReceived(b"LIST\n" * 1000)
            self.assertEqual(
                self.transport.value(), b"ERR this port needs TLS: natproxys://, or --tls\n"
            )
            self.assertTrue(self.transport.disconnecting)

    def test_garbage_that_begins_as_tls_does_ends_the_connection(self) -> None:
        protocol = self.connect()
        protocol.dataReceived(CLIENT_HELLO + b"garbage" * 10)
        self.assertNotIn(b"ERR", self.transport.value())
        self.assertTrue(self.transport.disconnecting)

    def test_half_close_ends_the_connection(self) -> None:
        protocol = self.connect()
        protocol.writeConnectionLost()
        self.assertFalse(self.transport.disconnecting)
        protocol.readConnectionLost()
        self.assertTrue(self.transport.disconnecting)

    def test_connection_that_is_refused_gets_no_tls(self) -> None:
        class Refusing(Factory):
            def buildProtocol(self, addr: object) -> None:
                return None

        self.assertIsNone(SecureFactory(self.tls, False, Refusing()).buildProtocol(None))
