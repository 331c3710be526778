"""Rules of both daemons, with real sockets: one test for each kind of rule."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.interfaces import IAddress
from twisted.internet.threads import deferToThread

from natproxy.access.rules import AccessRule
from natproxy.daemon.fileserver import make_file_server
from natproxy.daemon.fileserver_config import FileServerConfig
from natproxy.daemon.parts import prepare_rules
from natproxy.daemon.proxy import make_proxy
from natproxy.daemon.proxy_config import ProxyConfig
from natproxy.daemon.service import DrainingService
from natproxy.nat import Failed
from natproxy.server.events import Finished
from tests.support.exchange import exchange_with
from tests.support.loopback import HOST, Peer, client_of

LOOPBACK = (f"tcp:0:interface={HOST}",)

Talk = Callable[[bytes], bytes]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    served = tmp_path / "served"
    (served / "secret").mkdir(parents=True)
    (served / "secret" / "key").write_text("hidden")
    (served / "public").write_text("shown")
    return served


def talk(port: int, sent: bytes, source: str = HOST) -> bytes:
    """Send bytes, half-close, and return everything that is received."""
    return exchange_with(HOST, port, sent, source)


class Chain:
    """A proxy and a file server in this reactor.

    :ivar proxy: the proxy; commands are sent to it.
    """

    def __init__(self, directory: Path, proxy: dict[str, Any], server: dict[str, Any]) -> None:
        self._settings = proxy
        common: dict[str, Any] = {"control": "none", "listen": LOOPBACK}
        self.server = make_file_server(
            reactor, FileServerConfig(files=str(directory), **{**common, **server})
        )
        self._common = common
        self.proxy: DrainingService

    async def start(self) -> None:
        self.server.startService()
        upstream = f"tcp:{HOST}:{port_of(self.server)}"
        config = ProxyConfig(
            upstream=upstream, journal="none", **{**self._common, **self._settings}
        )
        self.proxy = make_proxy(reactor, config)
        self.proxy.startService()

    async def talk(self, sent: bytes, source: str = HOST) -> bytes:
        reply: bytes = await deferToThread(talk, port_of(self.proxy), sent, source)
        return reply

    async def stop(self) -> None:
        await self.proxy.stopService()
        await self.server.stopService()


def port_of(service: DrainingService) -> int:
    address: IAddress = service.ports[0].getHost()
    port: int = address.port  # type: ignore[attr-defined]
    return port


@asynccontextmanager
async def chain(
    directory: Path, *rules: AccessRule, server: dict[str, Any] | None = None, **proxy: Any
) -> AsyncIterator[Chain]:
    """Run a proxy with rules in front of a file server."""
    running = Chain(directory, {"rules": rules, **proxy}, server or {})
    await running.start()
    try:
        yield running
    finally:
        await running.stop()


@pytest_twisted.ensureDeferred
async def test_denied_name_whatever_the_verb_and_the_spelling(directory: Path) -> None:
    async with chain(directory, AccessRule(False, names=("/secret",), note="private")) as running:
        denied = await running.talk(
            b"GET secret/key\nSTAT %73ecret\nHASH ./secret/key\nLS secret\nDOWNLOAD secret/key\n"
            b"DOWNLOAD secret//key\nPACK public %73ecret/key\nWHO public\n"
        )
        assert denied == (
            b"ERR 403 forbidden\n" * 4
            + b"ERR forbidden\n" * 2
            + b"ERR 403 forbidden name=secret/key\n"
            + b"ERR forbidden\n"
        )
        allowed = await running.talk(b"DOWNLOAD public\nFEAT\nPACK public\nLIST\n")
        assert allowed.startswith(b"OK 5\nshownOK\nNATPROXY 2\n")
        assert allowed.endswith(b" public\nshownOK\npublic\nEND\n")


@pytest_twisted.ensureDeferred
async def test_listing_is_not_filtered_and_named_by_its_directory(directory: Path) -> None:
    async with chain(directory, AccessRule(False, names=("secret",))) as running:
        listed = await running.talk(b"LS depth=inf\n")
        assert listed.endswith(b" secret/key\n")
        assert await running.talk(b"LS secret depth=inf\n") == b"ERR 403 forbidden\n"


@pytest_twisted.ensureDeferred
async def test_network_of_the_client(directory: Path) -> None:
    async with chain(directory, AccessRule(False, clients=("127.0.0.2",))) as running:
        assert await running.talk(b"DOWNLOAD public\n") == b"OK 5\nshown"
        denied = await running.talk(b"DOWNLOAD public\nSTAT public\n", "127.0.0.2")
        assert denied == b"ERR forbidden\nERR 403 forbidden\n"


@pytest_twisted.ensureDeferred
async def test_client_of_a_unix_socket(directory: Path, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with chain(
        directory, AccessRule(False, clients=("unix",)), listen=(*LOOPBACK, f"unix:{path}")
    ) as running:
        peer = Peer()
        await connectProtocol(UNIXClientEndpoint(reactor, path), peer)
        peer.send(b"STAT public\n")
        assert await peer.takes(17) == b"ERR 403 forbidden\n"
        peer.kill()
        await peer.end()
        assert (await running.talk(b"STAT public\n")).startswith(b"OK ")


@pytest_twisted.ensureDeferred
async def test_address_in_a_proxy_header_is_the_clients(directory: Path) -> None:
    async with chain(
        directory,
        AccessRule(False, clients=("192.0.2.0/24",)),
        listen=(f"haproxy:tcp:0:interface={HOST}",),
    ) as running:
        for client, reply in (("192.0.2.7", b"ERR forbidden\n"), ("192.0.3.7", b"OK 5\nshown")):
            header = f"PROXY TCP4 {client} 127.0.0.1 5 6\r\n".encode()
            assert await running.talk(header + b"DOWNLOAD public\n") == reply


@pytest_twisted.ensureDeferred
async def test_identity_of_the_client(directory: Path) -> None:
    async with (
        chain(directory, AccessRule(True, identities=("alice",)), rules_default="deny") as running,
        client_of(port_of(running.proxy)) as peer,
    ):
        peer.send(b"STAT public\n")
        assert await peer.takes(17) == b"ERR 403 forbidden\n"
        (connection,) = running.proxy.factory.connections
        connection.identify("alice")
        peer.send(b"DOWNLOAD public\n")
        assert await peer.takes(10) == b"OK 5\nshown"


@pytest_twisted.ensureDeferred
async def test_verb(directory: Path) -> None:
    async with chain(directory, AccessRule(False, verbs=("HASH", "LIST"))) as running:
        assert await running.talk(b"HASH public\nLIST\n") == b"ERR 403 forbidden\nERR forbidden\n"
        assert await running.talk(b"WHO\n") == b"ERR unknown command\n"


@pytest_twisted.ensureDeferred
async def test_first_rule_decides_and_the_default_is_stated(directory: Path) -> None:
    async with chain(
        directory,
        AccessRule(False, names=("secret",)),
        AccessRule(True, clients=("127.0.0.0/8",)),
        rules_default="deny",
    ) as running:
        assert await running.talk(b"STAT secret/key\n") == b"ERR 403 forbidden\n"
        assert await running.talk(b"DOWNLOAD public\n") == b"OK 5\nshown"


@pytest_twisted.ensureDeferred
async def test_denied_command_is_one_event_one_count_and_no_connection(
    directory: Path, tmp_path: Path
) -> None:
    rule = AccessRule(False, names=("secret",), note="private")
    async with chain(directory, rule, control=str(tmp_path / "control")) as running:
        factory = running.proxy.factory
        events: list[Any] = []
        factory.table.subscribe(events.append)  # type: ignore[attr-defined]
        entered = running.server.factory.admission.entered
        await running.talk(b"GET secret/key\n")
        (event,) = events
        assert isinstance(event, Failed)
        assert (event.outcome.value, event.reason, event.sent) == ("denied", "rule 1: private", 18)
        assert running.server.factory.admission.entered == entered
        assert factory.rules.denied == {"1": 1}
        status = json.loads(json.dumps(running.proxy.companion.status()))  # type: ignore[union-attr]
        assert status["counters"]["denied"] == {"1": 1, "unknown-verb": 0, "malformed-name": 0}


@pytest_twisted.ensureDeferred
async def test_rules_of_the_file_server(directory: Path) -> None:
    rules = (AccessRule(False, names=("secret",)),)
    async with chain(directory, server={"rules": rules}) as running:
        events: list[Finished] = []
        running.server.factory.subscribe(events.append)
        denied = await running.talk(b"GET secret/key\nDOWNLOAD secret/key\nPACK secret/key\n")
        assert denied == (b"ERR 403 forbidden\nERR forbidden\nERR 403 forbidden name=secret/key\n")
        assert [(each.outcome.value, each.reason) for each in events] == [("denied", "rule 1")] * 3


@pytest_twisted.ensureDeferred
async def test_rules_change_for_the_next_command(directory: Path) -> None:
    async with chain(directory) as running:
        assert not running.proxy.factory.gates
        async with client_of(port_of(running.proxy)) as peer:
            peer.send(b"DOWNLOAD public\n")
            assert await peer.takes(10) == b"OK 5\nshown"
            ruled = ProxyConfig(rules=(AccessRule(False, names=("public",)),))
            prepare_rules(running.proxy.factory, ruled)()
            peer.send(b"DOWNLOAD public\n")
            assert await peer.takes(14) == b"ERR forbidden\n"
            prepare_rules(running.proxy.factory, ProxyConfig())()
            peer.send(b"DOWNLOAD public\n")
            assert await peer.takes(10) == b"OK 5\nshown"
        assert not running.proxy.factory.gates


@pytest_twisted.ensureDeferred
async def test_header_from_elsewhere_than_a_trusted_proxy_is_refused(directory: Path) -> None:
    header = b"PROXY TCP4 192.0.2.1 127.0.0.1 5 6\r\n"
    async with chain(
        directory,
        listen=(f"haproxy:tcp:0:interface={HOST}",),
        trusted_proxies=("127.0.0.2", "127.0.0.3"),
    ) as running:
        for source in ("127.0.0.2", "127.0.0.3"):
            assert await running.talk(header + b"DOWNLOAD public\n", source) == b"OK 5\nshown"
        assert await running.talk(header + b"DOWNLOAD public\n") == b""
        assert running.proxy.factory.refused_headers == 1


@pytest_twisted.ensureDeferred
async def test_hidden_files_are_missing_for_every_verb(directory: Path) -> None:
    (directory / "link").symlink_to("secret/key")
    (directory / "linked").symlink_to("secret")
    async with chain(directory, server={"hide": ("secret",)}) as running:
        for name in (b"secret", b"secret/key", b"link", b"linked", b"linked/key"):
            sent = b"".join(
                verb + b" " + name + b"\n" for verb in (b"GET", b"STAT", b"HASH", b"LS")
            )
            missing = sent.replace(name, b"missing")
            assert await running.talk(sent) == await running.talk(missing)
            assert await running.talk(sent) == b"ERR 404 file not found\n" * 4
            assert await running.talk(b"DOWNLOAD " + name + b"\n") == b"ERR file not found\n"
            packed = await running.talk(b"PACK public " + name + b"\n")
            assert packed.endswith(b"shownerror=404 " + name + b"\n")
        assert await running.talk(b"LIST\n") == b"OK\npublic\nEND\n"
        listed = await running.talk(b"LS depth=inf\n")
        assert listed.count(b"\n") == 2
        assert listed.endswith(b" public\n")
