"""TLS handshakes that fail, with real sockets: one line in the log each, and a counter."""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from natproxy.server import secure
from tests.support.certificates import Authority, Files
from tests.support.loopback import HOST, eventually, file_server, proxy_to
from tests.support.secure import listening_tls

LIMIT = 30.0


class Places:
    """The certificates of one test."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.other = Authority(directory, "other")
        self.server = self.authority.issue("localhost", HOST)
        self.ann = self.authority.issue("ann@example.org")
        self.eve = self.other.issue("eve@example.org")
        expired = datetime.timedelta(hours=-1)
        self.old = self.authority.issue("old@example.org", left=expired)

    def context(self, pair: Files | None = None, ca: str | None = None) -> ssl.SSLContext:
        """Return the context of a client."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(ca or self.authority.ca)
        if pair is not None:
            context.load_cert_chain(pair.cert, pair.key)
        return context


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


@asynccontextmanager
async def logged() -> AsyncIterator[list[str]]:
    """Collect the lines of the log that are about TLS."""
    lines: list[str] = []

    def note(event: LogEvent) -> None:
        line = formatEvent(event)
        if line.startswith("TLS with "):
            lines.append(line)

    globalLogPublisher.addObserver(note)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(note)


def handshake(context: ssl.SSLContext, plain: socket.socket) -> str | None:
    """Shake hands on a connection; return the version, or ``None`` if it ends before.

    ``wrap_socket`` would leave the socket open if the connection has been reset already.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secured = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            secured.do_handshake()
        except ssl.SSLWantReadError:
            plain.sendall(outgoing.read())
            received = plain.recv(1 << 16)
            if not received:
                return None
            incoming.write(received)
        else:
            plain.sendall(outgoing.read())
            return secured.version()


def shake(port: int, context: ssl.SSLContext) -> str | None:
    """Connect by TLS and read, in a thread; return the version, or ``None`` if it fails."""
    with (
        suppress(OSError),
        socket.create_connection((HOST, port), LIMIT) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"LIST\n")
        if secured.recv(1):
            return secured.version()
    return None


def send(port: int, data: bytes, wait: bool = True) -> None:
    """Send bytes without TLS, and wait for the end of the connection."""
    with suppress(OSError), socket.create_connection((HOST, port), LIMIT) as client:
        client.sendall(data)
        while wait and client.recv(1024):
            pass


FAILURES: dict[str, tuple[Callable[[Places, int], object], str]] = {
    "no certificate": (
        lambda places, port: shake(port, places.context()),
        "it showed no certificate",
    ),
    "wrong authority": (
        lambda places, port: shake(port, places.context(places.eve)),
        "its certificate is not signed by a trusted authority",
    ),
    "expired": (
        lambda places, port: shake(port, places.context(places.old)),
        "its certificate has expired",
    ),
    "client that does not trust": (
        lambda places, port: shake(port, places.context(places.ann, places.other.ca)),
        "it does not trust the authority of this server's certificate",
    ),
    "plain": (lambda places, port: send(port, b"LIST\n"), secure.PLAIN),
    "gone": (lambda places, port: send(port, b"\x16\x03\x01\x02\x00\x01", False), secure.GONE),
    "slow": (lambda places, port: send(port, b"\x16\x03\x01\x02\x00\x01"), secure.UNFINISHED),
    "garbage": (lambda places, port: send(port, b"\x16\x03\x01\x00\x05garbage"), ""),
}


@pytest.mark.parametrize("kind", ["proxy", "file server"])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
@pytest_twisted.ensureDeferred
async def test_reason_of_a_failure(
    kind: str, failure: tuple[Callable[[Places, int], object], str], places: Places, tmp_path: Path
) -> None:
    attempt, reason = failure
    factory: Any = file_server(tmp_path) if kind == "file server" else proxy_to(1)
    factory.first_commands.seconds = 0.5 if reason == secure.UNFINISHED else 30.0
    client_ca = f"clientCA={places.authority.ca}"
    async with logged() as lines, listening_tls(factory, places.server, client_ca) as (port, _):
        await deferToThread(attempt, places, port)
        await eventually(lambda: lines, "a line in the log")
        (line,) = lines
        assert line.startswith(f"TLS with {HOST}:")
        assert line.split(" failed: ", 1)[1].startswith(reason)
        assert line.isprintable()
        assert factory.failed_handshakes == 1
        # Further ones of the host are counted, and not logged.
        await deferToThread(send, port, b"LIST\n")
        await eventually(lambda: factory.failed_handshakes == 2, "another failure")
        assert lines == [line]


@pytest_twisted.ensureDeferred
async def test_success_and_connections_without_a_byte_are_no_failures(
    places: Places, tmp_path: Path
) -> None:
    factory = file_server(tmp_path)
    async with logged() as lines, listening_tls(factory, places.server) as (port, _):
        assert await deferToThread(shake, port, places.context()) is not None
        # As the check of a load balancer does.
        await deferToThread(send, port, b"", False)
        await eventually(lambda: not factory.connections, "the ends of the connections")
        assert factory.admission.entered == 2
        assert (lines, factory.failed_handshakes) == ([], 0)


@pytest.mark.parametrize("prefix", ["", "haproxy:"])
@pytest_twisted.ensureDeferred
async def test_host_over_its_limit_of_connections_gets_no_handshake(
    prefix: str, places: Places, tmp_path: Path
) -> None:
    factory = file_server(tmp_path)
    factory.arrivals.limit(0.001)
    header = b"PROXY TCP4 192.0.2.%d 192.0.2.9 1 1\r\n"

    def attempt(port: int, host: int) -> str | None:
        with suppress(OSError), socket.create_connection((HOST, port), LIMIT) as plain:
            if prefix:
                plain.sendall(header % host)
            return handshake(places.context(), plain)
        return None

    async with listening_tls(factory, places.server, prefix=prefix) as (port, _):
        assert await deferToThread(attempt, port, 1) is not None
        assert await deferToThread(attempt, port, 1) is None
        assert factory.admission.refusals["too many new connections from this address"] == 1
        if prefix:
            # Another client of the same load balancer.
            assert await deferToThread(attempt, port, 2) is not None
