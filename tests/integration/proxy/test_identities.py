"""Identities of certificates and of tokens, over TLS, at the first daemon and nowhere behind it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from natproxy.access.rules import AccessRule, Rules
from natproxy.address import Address
from natproxy.client import Session, TLSOptions
from natproxy.client.twisted import connect
from natproxy.fs import NatproxyFileSystem
from natproxy.nat import Removed
from natproxy.server import expiry
from natproxy.server.authentication import Result
from natproxy.server.events import Finished
from natproxy.tokens.entries import Tokens, new_token
from tests.support.certificates import Authority
from tests.support.loopback import (
    HOST,
    PATIENCE,
    client_of,
    eventually,
    file_server,
    listening,
    proxy_to,
)
from tests.support.secure import listening_tls

ALICE, ALICES = new_token("alice")


@pytest_twisted.ensureDeferred
async def test_identities_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    ann = authority.issue("ann@example.org")
    pair = authority.issue("localhost", HOST)
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "a").write_bytes(b"abc")
    files = file_server(directory)
    behind: list[str | None] = []
    files.subscribe(lambda event: behind.append(event.identity))
    found: list[tuple[bytes, str | None]] = []
    async with listening(files) as upstream:
        proxy = proxy_to(upstream)
        proxy.table.subscribe(
            lambda event: found.append((event.command.verb, event.identity)), (Removed,)
        )
        proxy.accept_tokens(Tokens([ALICES]), False)
        async with listening_tls(proxy, pair, f"clientCA={authority.ca}") as (port, _):
            options = TLSOptions(authority.ca, ann.cert, ann.key)

            def read(token: str | None) -> None:
                address = Address("localhost", port)
                with Session(address, PATIENCE, tls=options, token=token) as session:
                    assert session.read("a") == b"abc"

            await deferToThread(read, None)
            assert {identity for _, identity in found} == {"ann@example.org"}
            found.clear()
            await deferToThread(read, ALICE)
            # The token came at once: before FEAT.
            assert found[0] == (b"FEAT", "alice")
            assert {identity for _, identity in found} == {"alice"}
            found.clear()
            async with await connect(
                reactor, f"natproxys://localhost:{port}", PATIENCE, tls=options, token=ALICE
            ) as session:
                assert await session.read("a") == b"abc"
                assert {identity for _, identity in found} == {"alice"}
                proxy.accept_tokens(Tokens(), False)
                found.clear()
                assert await session.read("a") == b"abc"
                # Its token is revoked: the certificate remains.
                assert {identity for _, identity in found} == {"ann@example.org"}
    assert set(behind) == {None}
    assert proxy.authenticator.results[Result.ACCEPTED] == 2


@pytest.mark.parametrize("kind", ["proxy", "file server"])
@pytest_twisted.ensureDeferred
async def test_token_that_expires_on_an_open_connection(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "LOOK", 0.02)
    async with listening(file_server(tmp_path)) as upstream:
        factory = file_server(tmp_path) if kind == "file server" else proxy_to(upstream)
        factory.accept_tokens(Tokens([ALICES._replace(expires=int(time.time()) + 3600)]), False)
        factory.use_rules(Rules([AccessRule(True, identities=("alice",))], False))
        async with listening(factory) as port, client_of(port) as client:
            client.send(f"AUTH {ALICE}\nLIST\n".encode())
            reply = b"OK identity=alice\nOK\nEND\n"
            assert await client.takes(len(reply)) == reply
            authenticator: Any = factory.authenticator
            for part in (authenticator, authenticator._expiries):
                # The system's clock is set.
                part._wall_clock = lambda: time.time() + 3600
            (connection,) = factory.connections
            await eventually(lambda: connection.identity is None, "the end of the token")
            client.send(b"LIST\n")
            assert await client.takes(14) == b"ERR forbidden\n"


@pytest_twisted.ensureDeferred
async def test_file_system_with_a_token(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    files = file_server(tmp_path)
    files.accept_tokens(Tokens([ALICES]), False)
    identities: list[Any] = []

    def finished(event: Finished) -> None:
        if event.command.verb != b"FEAT":
            identities.append(event.identity)

    files.subscribe(finished)
    async with listening(files) as port:

        def read() -> None:
            system = NatproxyFileSystem(HOST, port, token=ALICE, skip_instance_cache=True)
            try:
                assert system.cat_file("/a") == b"abc"
                assert [entry["name"] for entry in system.ls("/")] == ["/a"]
            finally:
                system.close()

        await deferToThread(read)
    assert set(identities) == {"alice"}
