"""Upstream connections from several local addresses, over real sockets."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString

from natproxy.address import Address
from natproxy.daemon.endpoints import upstream_targets
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.nat import Registered, Removed
from natproxy.proxy.factory import ProxyFactory
from natproxy.proxy.sources import Sources, missing_source
from tests.support.loopback import client_of, file_server, listening
from tests.support.resolver import PlayedResolver

IP_LOCAL_PORT_RANGE = 51

needs_ipv6 = pytest.mark.skipif(missing_source("::1") is not None, reason="there is no IPv6")


def sources_of(config: ProxyConfig) -> tuple[ProxyFactory, list[str], list[str]]:
    """Return a proxy, and the local addresses of the events of its table: begun, ended."""
    proxy = ProxyFactory(reactor, upstream_targets(reactor, config)[0].connector)
    begun: list[str] = []
    ended: list[str] = []
    proxy.table.subscribe(lambda event: begun.append(event.key.local.host), (Registered,))
    proxy.table.subscribe(lambda event: ended.append(event.key.local.host), (Removed,))
    return proxy, begun, ended


async def commands(proxy: ProxyFactory, count: int) -> None:
    """Have a proxy execute a command several times, one after the other."""
    async with listening(proxy) as port, client_of(port) as client:
        for _ in range(count):
            client.send(b"DOWNLOAD a\n")
            assert await client.takes(8) == b"OK 3\nabc"


@pytest.fixture
def served(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(b"abc")
    return tmp_path


@pytest_twisted.ensureDeferred
async def test_commands_use_the_addresses_in_turn_and_the_table_has_them(served: Path) -> None:
    server = file_server(served)
    peers: list[str] = []
    build = server.buildProtocol
    server.buildProtocol = lambda address: peers.append(address.host) or build(address)  # type: ignore[method-assign]
    async with listening(server) as upstream:
        config = ProxyConfig(
            upstream=f"tcp:127.0.0.1:{upstream}", source=("127.0.0.3", "127.0.0.2")
        )
        proxy, begun, ended = sources_of(config)
        await commands(proxy, 4)
    expected = ["127.0.0.3", "127.0.0.2"] * 2
    # The proxy connects to itself, to find out whether the upstream leads back to it.
    assert (begun[-4:], ended[-4:]) == (expected, expected)
    assert set(peers) == {"127.0.0.2", "127.0.0.3"}


@pytest_twisted.ensureDeferred
async def test_name_is_connected_to_from_the_addresses_in_turn(served: Path) -> None:
    previous = reactor.installNameResolver(PlayedResolver("127.0.0.1"))
    try:
        async with listening(file_server(served)) as upstream:
            config = ProxyConfig(
                upstream=f"tcp:files.example:{upstream}", source=("127.0.0.4", "127.0.0.5")
            )
            proxy, begun, _ = sources_of(config)
            await commands(proxy, 4)
    finally:
        reactor.installNameResolver(previous)
    assert set(begun) == {"127.0.0.4", "127.0.0.5"}
    assert begun[-2] != begun[-1]


@needs_ipv6
@pytest_twisted.ensureDeferred
async def test_ipv6(served: Path) -> None:
    endpoint = serverFromString(reactor, r"tcp6:0:interface=\:\:1")
    upstream = await endpoint.listen(file_server(served))
    try:
        config = ProxyConfig(
            upstream=rf"tcp:\:\:1:{upstream.getHost().port}", source=("127.0.0.2", "::1")
        )
        proxy, begun, _ = sources_of(config)
        await commands(proxy, 2)
    finally:
        await upstream.stopListening()
    assert set(begun) == {"::1"}


@contextlib.contextmanager
def listeners(count: int) -> Iterator[list[Address]]:
    with contextlib.ExitStack() as stack:
        yield [
            Address(*stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname())
            for _ in range(count)
        ]


def test_ports_are_counted_for_each_pair_of_addresses() -> None:
    """With a range of one port, each source has one connection to each upstream."""
    sources = Sources(["127.0.0.2", "127.0.0.3"])
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with listeners(2) as upstreams:
        port_range = struct.pack("=I", port << 16 | port)
        with contextlib.ExitStack() as stack:
            used: list[list[tuple[str, int]]] = []
            for upstream in upstreams:
                used.append([])
                for _ in range(3):
                    sock = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM)
                    stack.callback(sock.close)
                    try:
                        sock.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, port_range)
                    except OSError:
                        pytest.skip("the kernel has no IP_LOCAL_PORT_RANGE (Linux 6.3)")
                    code = sources.connect(sock, upstream)
                    if code == 0:
                        used[-1].append(sock.getsockname())
                    else:
                        assert code == errno.EADDRNOTAVAIL
    expected = {("127.0.0.2", port), ("127.0.0.3", port)}
    assert [set(each) for each in used] == [expected, expected]
    assert [len(each) for each in used] == [2, 2]


def test_address_of_another_machine() -> None:
    assert missing_source("127.0.0.7") is None
    assert missing_source("192.0.2.1") == "not an address of this machine"
