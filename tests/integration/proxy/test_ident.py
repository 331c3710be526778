"""Ident over real sockets, with several addresses of the loopback interface."""

from __future__ import annotations

import socket

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from natproxy.nat import NATTable
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.ident import IdentFactory
from natproxy.proxy.tcp import TCPConnector
from tests.support.loopback import PlayedServer, all_ended, client_of, listening

UPSTREAM = "127.0.0.9"


def query(text: str, source: str, port: int, address: str = "127.0.0.1") -> str:
    """Send a query from an address, and return the reply."""
    with socket.create_connection((address, port), 5.0, (source, 0)) as sock:
        sock.sendall(text.encode() + b"\r\n")
        return sock.makefile().readline().rstrip("\n")


@pytest_twisted.ensureDeferred
async def test_upstream_learns_the_client_and_others_do_not() -> None:
    server = PlayedServer()
    async with listening(server, UPSTREAM) as upstream_port:
        factory = ProxyFactory(reactor, TCPConnector(reactor, UPSTREAM, upstream_port, 5.0))
        ident = IdentFactory(factory.table, reactor)
        async with (
            listening(ident, "0.0.0.0") as ident_port,
            listening(factory) as port,
            client_of(port) as client,
        ):
            client.send(b"LIST\n")
            peer = await server.asked()
            peer_port = peer.transport.getPeer().port
            pair = f"{peer_port}, {upstream_port}"

            def ask(source: str, address: str = "127.0.0.1") -> object:
                return deferToThread(query, pair, source, ident_port, address)

            shown = f"127.0.0.1:{client.transport.getHost().port}"
            assert await ask(UPSTREAM) == f"{pair} : USERID : OTHER : {shown}"
            assert await ask("127.0.0.8") == f"{pair} : ERROR : NO-USER"
            assert await ask("127.0.0.1") == f"{pair} : ERROR : NO-USER"
            assert await ask(UPSTREAM, "127.0.0.2") == f"{pair} : ERROR : NO-USER"
            peer.send(b"OK\nEND\n")
            await client.takes(len(b"OK\nEND\n"))
            assert await ask(UPSTREAM) == f"{pair} : ERROR : NO-USER"
        await all_ended(factory)
        await all_ended(ident)


@pytest_twisted.ensureDeferred
async def test_half_closed_connection_gets_its_reply() -> None:
    factory = IdentFactory(NATTable(reactor.seconds), reactor)

    def half_close(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), 5.0) as sock:
            sock.sendall(b"1, 2\r\n")
            sock.shutdown(socket.SHUT_WR)
            with sock.makefile("rb") as replies:
                return replies.read()

    async with listening(factory) as port:
        for _ in range(20):
            assert await deferToThread(half_close, port) == b"1, 2 : ERROR : NO-USER\r\n"
        await all_ended(factory)
