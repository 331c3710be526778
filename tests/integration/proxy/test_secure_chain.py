"""TLS both ways between client, proxy and file server, with the daemons in this reactor."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
from twisted.internet.protocol import Factory
from twisted.internet.threads import blockingCallFromThread, deferToThread

from natproxy.address import Address
from natproxy.client import (
    ConnectionBroken,
    ServerError,
    Session,
    TLSError,
    TLSOptions,
    Unsupported,
    UsageError,
)
from natproxy.client.twisted import Session as DeferredSession
from natproxy.client.twisted import connect
from natproxy.daemon.certificates import upstream_tls
from natproxy.daemon.listening import ClosingProtocol
from natproxy.daemon.parts import prepare_certificates
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.proxy.endpoint import EndpointConnector
from natproxy.proxy.factory import ProxyFactory
from natproxy.server.certificate import identity_of
from natproxy.settings import SettingError
from tests.support import version1
from tests.support.answering_server import Version2
from tests.support.certificates import Authority, Files
from tests.support.loopback import HOST, PATIENCE, eventually, file_server, listening, proxy_to
from tests.support.proxies import sole
from tests.support.secure import SecureServer, listening_tls, server_context

T = TypeVar("T")

CONTENT = os.urandom(3 << 20)


class Places:
    """Certificates and served files of one test."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.other = Authority(directory, "other")
        self.server = self.authority.issue("localhost", HOST)
        self.ann = self.authority.issue("ann@example.org")
        self.eve = self.other.issue("eve@example.org")
        self.files = directory / "files"
        (self.files / "sub").mkdir(parents=True)
        (self.files / "large").write_bytes(CONTENT)
        for number in range(40):
            (self.files / "sub" / f"{number:02}").write_bytes(b"%d" % number * number)

    @property
    def client_ca(self) -> str:
        return f"clientCA={self.authority.ca}"

    def trusting(self, pair: Files | None = None) -> TLSOptions:
        options = TLSOptions(self.authority.ca)
        return options if pair is None else options._replace(cert=pair.cert, key=pair.key)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path)


def secure_proxy(port: int, *options: str, host: str = "localhost", **settings: Any) -> Any:
    """Return the factory of a proxy that connects to a port by TLS."""
    endpoint = upstream_tls(reactor, ":".join([f"tls:{host}:{port}", *options]))
    return ProxyFactory(reactor, EndpointConnector(endpoint, reactor, 5.0), **settings)


@asynccontextmanager
async def chain(places: Places) -> AsyncIterator[int]:
    """Run client → TLS → proxy → mutual TLS → file server; return the proxy's port."""
    server = file_server(places.files)
    async with listening_tls(server, places.server, places.client_ca) as (behind, _):
        cert, key = places.ann
        proxy = secure_proxy(
            behind,
            f"trustRoots={places.authority.ca}",
            f"certificate={cert}",
            f"privateKey={key}",
        )
        async with listening_tls(proxy, places.server) as (port, _):
            yield port


async def in_thread(port: int, tls: TLSOptions, work: Callable[[Session], T]) -> T:
    """Return the result of a function that uses a session, in a thread."""

    def run() -> T:
        with Session(Address("localhost", port), PATIENCE, tls=tls) as session:
            return work(session)

    return await deferToThread(run)


@pytest_twisted.ensureDeferred
async def test_everything_over_tls(places: Places, tmp_path: Path) -> None:
    names = [f"sub/{number:02}" for number in range(40)]

    def work(session: Session) -> None:
        assert session.version == 2
        assert session.read("large") == CONTENT
        assert len(list(session.walk())) == 42
        packed = [record.data for record in session.pack(names)]
        assert packed == [(places.files / name).read_bytes() for name in names]
        session.download("large", tmp_path / "copy", segments=3, verify=True)
        assert (tmp_path / "copy").read_bytes() == CONTENT

    async with chain(places) as port:
        await in_thread(port, places.trusting(), work)


@pytest_twisted.ensureDeferred
async def test_sync_over_tls(places: Places, tmp_path: Path) -> None:
    from natproxy.cli import main

    target = tmp_path / "mirror"
    async with chain(places) as port:
        for _ in range(2):
            arguments = ["sync", "-q", f"natproxys://localhost:{port}/", str(target)]
            status = await deferToThread(main, [*arguments, "--ca", places.authority.ca])
            assert status == 0
    assert (target / "large").read_bytes() == CONTENT
    assert len(list((target / "sub").iterdir())) == 40


@pytest_twisted.ensureDeferred
async def test_session_on_a_reactor(places: Places, tmp_path: Path) -> None:
    async with chain(places) as port:
        url = f"natproxys://localhost:{port}"
        async with await connect(reactor, url, PATIENCE, tls=places.trusting()) as session:
            assert await session.read("large") == CONTENT
            assert len(await session.pack(["sub/01", "sub/02"])) == 2
            path = await session.download("large", str(tmp_path / "copy"))
            assert Path(os.fsdecode(path)).read_bytes() == CONTENT
        async with await connect(
            reactor, f"natproxys://{HOST}:{port}", PATIENCE, tls=places.trusting()
        ) as session:
            assert await session.version() == 2


async def read_once(port: int, tls: TLSOptions) -> bytes:
    url = f"natproxys://localhost:{port}"
    async with await connect(reactor, url, PATIENCE, tls=tls) as session:
        return await session.read("large")


@pytest_twisted.ensureDeferred
async def test_session_on_a_reactor_is_refused_in_one_line(places: Places) -> None:
    server = file_server(places.files)
    elsewhere = places.authority.issue("elsewhere.example")
    async with (
        listening_tls(server, places.server, places.client_ca) as (port, _),
        listening_tls(file_server(places.files), elsewhere) as (misnamed, _),
        listening(file_server(places.files)) as plain,
    ):
        for where, tls, reason in (
            (port, TLSOptions(places.other.ca), "not signed by a trusted authority"),
            (port, places.trusting(), "it requires a client certificate"),
            (port, places.trusting(places.eve), "does not trust the authority of the client"),
            (misnamed, places.trusting(), "its certificate is not for the name localhost"),
            (plain, places.trusting(), "it does not speak TLS"),
        ):
            with pytest.raises(TLSError, match=reason) as caught:
                await read_once(where, tls)
            assert str(caught.value).startswith(f"cannot connect to localhost:{where}: ")
        with pytest.raises(ServerError, match="this port needs TLS"):
            async with await connect(reactor, f"localhost:{misnamed}", PATIENCE) as session:
                await session.list()


@pytest_twisted.ensureDeferred
async def test_session_on_a_reactor_needs_an_address_and_right_files(places: Places) -> None:
    with pytest.raises(UsageError, match="tls needs server= as an Address"):
        DeferredSession(object(), reactor, tls=TLSOptions())
    with pytest.raises(UsageError, match=r"nowhere\.pem: No such file or directory"):
        await connect(reactor, "h", tls=TLSOptions("nowhere.pem"))


class Closing(Factory):
    """Accepts connections and aborts them."""

    noisy = False
    protocol = ClosingProtocol
    connections: tuple[()] = ()


@pytest_twisted.ensureDeferred
async def test_upstream_that_cannot_be_verified(places: Places) -> None:
    server = file_server(places.files)
    elsewhere = places.authority.issue("elsewhere.example")
    ca = f"trustRoots={places.authority.ca}"
    async with (
        listening_tls(server, places.server, places.client_ca) as (mutual, _),
        listening_tls(file_server(places.files), elsewhere) as (misnamed, _),
        listening(file_server(places.files)) as plain,
        listening(Closing()) as closing,
    ):
        for behind, options, reason in (
            (closing, (ca,), "it closed the connection in the handshake"),
            (mutual, (f"trustRoots={places.other.ca}",), "not signed by a trusted authority"),
            (mutual, (ca,), "it requires a client certificate"),
            (
                mutual,
                (ca, f"certificate={places.eve.cert}", f"privateKey={places.eve.key}"),
                "it does not trust the authority of the client certificate",
            ),
            (misnamed, (ca,), "its certificate is not for the name localhost"),
            (plain, (ca,), "it does not speak TLS"),
        ):
            async with listening(secure_proxy(behind, *options)) as port:

                def read(port: int = port) -> str:
                    with Session(Address(HOST, port), PATIENCE) as session:
                        try:
                            session.read("large")
                        except (ServerError, ConnectionBroken) as error:
                            return str(error)
                    return ""

                text = await deferToThread(read)
                start = "proxy error: there is no TLS with the server: "
                assert text.startswith(start), text
                assert reason in text
                assert text.splitlines() == [text]
        async with listening(secure_proxy(misnamed, ca, "hostname=elsewhere.example")) as port:

            def read_all() -> bytes:
                with Session(Address(HOST, port), PATIENCE) as session:
                    return session.read("large")

            assert await deferToThread(read_all) == CONTENT


@pytest_twisted.ensureDeferred
async def test_peers_of_version_1_behind_tls(places: Places) -> None:
    with (
        version1.Server(os.fspath(places.files)) as server,
        version1.Proxy(server.port) as between,
    ):
        for behind in (server.port, between.port):
            async with listening_tls(proxy_to(behind), places.server) as (port, _):

                def work(session: Session) -> None:
                    assert session.version == 1
                    with session.get_v1("large") as reply:
                        assert reply.read() == CONTENT
                    assert b"large" in list(session.list())

                await in_thread(port, places.trusting(), work)


@pytest_twisted.ensureDeferred
async def test_peer_of_version_2_0_with_tls(places: Places) -> None:
    whole = Version2({b"a": b"the a"})

    def reply(line: bytes) -> bytes:
        lines = whole(line).splitlines(keepends=True)
        if line == b"FEAT":
            lines = [each for each in lines if b"PACK" not in each]
        return b"".join(lines)

    server = SecureServer(reply, server_context(places.server, places.authority.ca))
    try:
        cert, key = places.ann
        proxy = secure_proxy(
            server.port,
            f"trustRoots={places.authority.ca}",
            f"certificate={cert}",
            f"privateKey={key}",
        )
        async with listening_tls(proxy, places.server) as (port, _):

            def work(session: Session) -> bytes:
                assert not session.offers(b"PACK")
                with pytest.raises(Unsupported):
                    session.pack(["a"])
                return session.read("a")

            assert await in_thread(port, places.trusting(), work) == b"the a"
        # The proxy resumes the session of its first connection.
        assert server.resumed[0] is False
        assert server.resumed[-1] is True
    finally:
        await deferToThread(server.close)


@pytest_twisted.ensureDeferred
async def test_identity_of_a_client(places: Places) -> None:
    server = file_server(places.files)
    seen: list[str | None] = []

    async def ended() -> None:
        await eventually(lambda: not server.connections, "the end of the connection")

    async with listening_tls(server, places.server, places.client_ca) as (port, _):

        def work(session: Session) -> None:
            for _ in range(2):
                # The second connection resumes the session of the first one.
                session.read("sub/01")
                (connection,) = server.connections
                seen.append(identity_of(connection.transport))  # type: ignore[attr-defined]
                session.close()
                # The next connection is counted once this one has ended.
                blockingCallFromThread(reactor, lambda: ensureDeferred(ended()))

        await in_thread(port, places.trusting(places.ann), work)
    assert seen == ["ann@example.org"] * 2


@pytest_twisted.ensureDeferred
async def test_certificates_are_read_again_and_connections_stay(places: Places) -> None:
    server = file_server(places.files)
    async with listening_tls(server, places.server) as (port, endpoint):

        def prepare() -> Any:
            return prepare_certificates([endpoint], lambda: 0.0, ProxyConfig())

        def reload() -> None:
            prepare()()

        def work(session: Session) -> None:
            assert session.read("sub/01") == b"1"
            # An error changes nothing.
            os.rename(places.server.cert, f"{places.server.cert}~")
            with pytest.raises(SettingError, match="No such file or directory"):
                prepare()
            session.close()
            assert session.read("sub/01") == b"1"
            # The name is another one: new connections fail, and this one goes on.
            fresh = places.authority.issue("elsewhere.example")
            for old, new in zip(places.server, fresh, strict=True):
                os.replace(new, old)
            reload()
            assert session.read("sub/01") == b"1"
            session.close()
            with pytest.raises(TLSError, match="not for the name localhost"):
                session.read("sub/01")

        await in_thread(port, places.trusting(), work)


@pytest.mark.parametrize("drip", [False, True])
@pytest_twisted.ensureDeferred
async def test_slow_handshake_times_out(places: Places, drip: bool) -> None:
    server = file_server(places.files)
    server.first_commands.seconds = 0.3
    async with listening_tls(server, places.server) as (port, _):
        with socket.create_connection((HOST, port), PATIENCE) as client:
            client.sendall(b"\x16\x03\x01\x02\x00\x01")
            await eventually(lambda: server.connections, "the connection")

            def connected() -> bool:
                if drip and server.connections:
                    client.send(b"\0")
                return bool(server.connections)

            await eventually(lambda: not connected(), "the end of the connection")


@pytest_twisted.ensureDeferred
async def test_header_that_the_proxy_sends_is_before_tls(places: Places) -> None:
    server = file_server(places.files)
    async with listening_tls(server, places.server, prefix="haproxy:") as (behind, _):
        proxy = secure_proxy(behind, f"trustRoots={places.authority.ca}")
        upstreams = proxy.resources.upstreams
        (upstream,) = upstreams
        upstreams.use(sole(upstream.connector, header=True))
        clients: list[Address] = []
        server.subscribe(lambda finished: clients.append(finished.client))
        async with listening_tls(proxy, places.server) as (port, _):

            def work(session: Session) -> Any:
                assert session.read("large") == CONTENT
                with session.connection() as connection:
                    assert connection._socket is not None
                    return connection._socket.getsockname()[:2]

            address = await in_thread(port, places.trusting(), work)
    assert set(clients) == {Address(*address)}


@pytest_twisted.ensureDeferred
async def test_header_of_a_load_balancer_is_before_tls(places: Places) -> None:
    server = file_server(places.files)
    context = places.trusting()
    async with listening_tls(server, places.server, prefix="haproxy:") as (port, _):

        def read() -> tuple[bytes, list[Address]]:
            from natproxy.client.blocking.secure import client_context

            with socket.create_connection((HOST, port), PATIENCE) as plain:
                plain.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 9443\r\n")
                with client_context(context).wrap_socket(plain, server_hostname=HOST) as client:
                    client.sendall(b"DOWNLOAD sub/01\n")
                    received = client.recv(100)
                    while not received.endswith(b"\n1"):
                        received += client.recv(100)
                    addresses = [one.client_address for one in server.connections]  # type: ignore[attr-defined]
                    return received, addresses

        assert await deferToThread(read) == (b"OK 1\n1", [Address("192.0.2.7", 4711)])
