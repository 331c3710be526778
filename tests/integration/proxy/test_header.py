"""The PROXY header from a proxy to its upstream: our file server, and HAProxy in between."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as installed_reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.threads import deferToThread

from natproxy.daemon.fileserver import make_file_server
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.proxy import make_proxy
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.service import DrainingService
from natproxy.nat import Removed
from natproxy.proxy.endpoint import EndpointConnector
from natproxy.proxy.factory import ProxyFactory
from natproxy.server.events import Finished
from natproxy.server.proxy_header import HeaderFactory
from tests.support.exchange import exchange
from tests.support.proxies import sole
from tests.support.twistd import await_port

reactor: Any = installed_reactor
LIMIT = 30.0
LOOPBACK = "tcp:0:interface=127.0.0.1"


@pytest.fixture
def directory() -> Iterator[Path]:
    """Return a directory with a short path, with a file to serve."""
    path = Path(tempfile.mkdtemp())
    (path / "served").mkdir()
    (path / "served" / "a").write_bytes(b"content")
    yield path
    shutil.rmtree(path)


class Chain:
    """A file server, proxies in front of it, and what they publish."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.finished: list[Finished] = []
        self.removed: list[Any] = []
        self.services: list[DrainingService] = []

    def serve(self, listen: str = f"haproxy:{LOOPBACK}", **settings: Any) -> str:
        """Start the file server; return the endpoint to connect to."""
        settings |= {"files": str(self.directory / "served"), "control": "none"}
        service = make_file_server(reactor, FileServerConfig(listen=(listen,), **settings))
        self.services.insert(0, service)
        service.startService()
        service.factory.subscribe(self.finished.append)
        host = service.ports[0].getHost()
        return (
            f"tcp:127.0.0.1:{host.port}"
            if hasattr(host, "port")
            else f"unix:{os.fsdecode(host.name)}"
        )

    def proxy(self, upstream: str, listen: str = LOOPBACK, header: bool = True) -> Any:
        """Start a proxy; return where it listens."""
        config = ProxyConfig(
            listen=(listen,),
            upstream=upstream,
            upstream_proxy_protocol=header,
            control="none",
            journal="none",
        )
        service = make_proxy(reactor, config)
        self.services.insert(0, service)
        service.startService()
        assert isinstance(service.factory, ProxyFactory)
        service.factory.table.subscribe(self.removed.append, (Removed,))
        return service.ports[0].getHost()

    def translation(self) -> str:
        """Return boot and serial of the last translation of the proxy that was started last."""
        companion: Any = self.services[0].companion
        return f"{companion.origin.boot}:{self.removed[-1].serial}"

    async def stop(self) -> None:
        for service in self.services:
            await service.stopService()


@pytest_twisted.async_yield_fixture
async def chain(directory: Path) -> AsyncIterator[Chain]:
    made = Chain(directory)
    yield made
    await made.stop()


def replies(address: Any, commands: bytes, source: str = "127.0.0.2") -> tuple[bytes, Any]:
    """Return the replies to commands, and the address of the client."""
    if hasattr(address, "port"):
        client = socket.create_connection(
            (address.host, address.port), LIMIT, (source, 0) if source else None
        )
    else:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(LIMIT)
        client.connect(address.name)
    with client:
        own = client.getsockname()
        return exchange(client, commands), own


@pytest_twisted.ensureDeferred
async def test_file_server_has_the_client_and_the_translation(chain: Chain) -> None:
    address = chain.proxy(chain.serve())
    reply, own = await deferToThread(replies, address, b"DOWNLOAD a\nLIST\n")
    assert reply == b"OK 7\ncontentOK\na\nEND\n"
    assert [event.client for event in chain.finished] == [own[:2]] * 2
    boots = {(event.translation or "").partition(":")[0] for event in chain.finished}
    assert len(boots) == 1
    assert chain.finished[-1].translation == chain.translation()
    assert chain.finished[0].translation != chain.finished[1].translation


@pytest_twisted.ensureDeferred
async def test_connection_through_an_endpoint_has_it_too(chain: Chain) -> None:
    path = chain.directory / "server"
    address = chain.proxy(chain.serve(f"haproxy:unix:{path}"))
    reply, own = await deferToThread(replies, address, b"DOWNLOAD a\n")
    assert reply == b"OK 7\ncontent"
    assert (chain.finished[0].client, chain.finished[0].translation) == (
        own[:2],
        chain.translation(),
    )


@pytest_twisted.ensureDeferred
async def test_client_by_ipv6(chain: Chain) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("there is no IPv6")
    address = chain.proxy(chain.serve(), "tcp6:0:interface=\\:\\:1")
    _, own = await deferToThread(replies, address, b"LIST\n", "")
    assert chain.finished[0].client == own[:2]


@pytest_twisted.ensureDeferred
async def test_client_of_a_unix_socket(chain: Chain) -> None:
    address = chain.proxy(chain.serve(), f"unix:{chain.directory / 'proxy'}")
    reply, _ = await deferToThread(replies, address, b"LIST\n")
    assert reply == b"OK\na\nEND\n"
    assert str(chain.finished[0].client).startswith("unix")
    assert chain.finished[0].translation == chain.translation()


@pytest_twisted.ensureDeferred
async def test_client_behind_a_load_balancer_and_two_proxies(chain: Chain) -> None:
    inner = chain.proxy(chain.serve(), f"haproxy:{LOOPBACK}")
    outer = chain.proxy(f"tcp:127.0.0.1:{inner.port}", f"haproxy:{LOOPBACK}")
    header = b"PROXY TCP4 198.51.100.7 203.0.113.1 4711 443\r\n"
    reply, _ = await deferToThread(replies, outer, header + b"LIST\n")
    assert reply == b"OK\na\nEND\n"
    assert chain.finished[0].client == ("198.51.100.7", 4711)
    assert [event.client for event in chain.removed] == [("198.51.100.7", 4711)] * 2


@pytest_twisted.ensureDeferred
async def test_file_server_limits_the_real_client(chain: Chain) -> None:
    address = chain.proxy(chain.serve(max_clients_per_host=1))
    server = chain.services[-1].factory.admission
    counted: list[set[str]] = []
    enter = server.identify

    def identify(client: object, address: Any) -> Any:
        found = enter(client, address)
        counted.append(set(server._hosts))
        return found

    server.identify = identify  # type: ignore[method-assign]
    await deferToThread(replies, address, b"LIST\n")
    assert counted == [{"127.0.0.2"}]


@pytest_twisted.ensureDeferred
async def test_server_that_expects_no_header(chain: Chain) -> None:
    address = chain.proxy(chain.serve(LOOPBACK))
    for command in (b"LIST\n", b"DOWNLOAD a\n"):
        reply, _ = await deferToThread(replies, address, command)
        assert reply == (
            b"ERR proxy error: the server does not expect a PROXY header:"
            b" let it listen on haproxy:\n"
        )


@pytest_twisted.ensureDeferred
async def test_server_that_misses_the_header(chain: Chain) -> None:
    address = chain.proxy(chain.serve(), header=False)
    reply, _ = await deferToThread(replies, address, b"LIST\n")
    assert reply.startswith(b"ERR ")
    assert chain.finished == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of pyOpenSSL, by Twisted's KeyPair
@pytest_twisted.ensureDeferred
async def test_header_precedes_tls(chain: Chain) -> None:
    pytest.importorskip("OpenSSL")
    from twisted.internet.ssl import CertificateOptions, KeyPair
    from twisted.protocols.tls import TLSMemoryBIOFactory

    chain.serve()
    server = chain.services[0].factory
    certificate = KeyPair.generate(size=2048).selfSignedCert(1, CN="localhost")
    secure = TLSMemoryBIOFactory(certificate.options(), False, server)
    port = reactor.listenTCP(0, HeaderFactory(secure), interface="127.0.0.1")
    try:
        address = chain.proxy("tcp:127.0.0.1:1")
        plain = TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port)
        endpoint = wrapClientTLS(CertificateOptions(), plain)
        factory = chain.services[0].factory
        assert isinstance(factory, ProxyFactory)
        connector = EndpointConnector(endpoint, reactor, 5.0)
        factory.resources.upstreams.use(sole(connector, header=True))
        reply, own = await deferToThread(replies, address, b"DOWNLOAD a\nLIST\n")
        assert reply == b"OK 7\ncontentOK\na\nEND\n"
        assert [event.client for event in chain.finished] == [own[:2]] * 2
        assert chain.finished[-1].translation == chain.translation()
    finally:
        await port.stopListening()


@pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed")
@pytest_twisted.ensureDeferred
async def test_haproxy_accepts_the_header(chain: Chain, directory: Path) -> None:
    server = chain.serve()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    config = directory / "haproxy.cfg"
    config.write_text(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n"
        f"listen natproxy\n bind 127.0.0.1:{port} accept-proxy\n"
        f" server files {server.removeprefix('tcp:')} send-proxy-v2\n"
    )
    with subprocess.Popen(["haproxy", "-db", "-f", os.fspath(config)]) as process:
        try:
            await deferToThread(await_port, port)
            address = chain.proxy(f"tcp:127.0.0.1:{port}")
            reply, own = await deferToThread(replies, address, b"DOWNLOAD a\n")
            assert reply == b"OK 7\ncontent"
            assert [event.client for event in chain.finished] == [own[:2]]
        finally:
            process.kill()
