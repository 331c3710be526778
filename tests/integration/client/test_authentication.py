"""The client's token against real daemons: on which connections it is sent, and how often."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from natproxy.address import Address
from natproxy.client import Session, Unauthorized, UsageError
from natproxy.client import authentication as authentication_module
from natproxy.client.errors import ClientError, ConnectionBroken
from natproxy.client.requests import Get, Stat
from natproxy.client.twisted import Session as DeferredSession
from natproxy.server.events import Finished
from natproxy.server.factory import CommandFactory
from natproxy.tokens.entries import Tokens, new_token
from tests.support.answering_server import AnsweringServer, Version2
from tests.support.blocking_sessions import FILES
from tests.support.counting_server import CountingServer
from tests.support.loopback import HOST, file_server, listening, proxy_to
from tests.support.scripted_server import ScriptedServer
from tests.support.version1 import Proxy as Version1Proxy
from tests.support.version1 import Server as Version1Server

ALICE, ALICES = new_token("alice")
OTHER, _ = new_token("other")

T = TypeVar("T")


class Daemons:
    """A proxy in front of a file server, each with its own tokens; the identities of commands."""

    def __init__(self, proxy: CommandFactory, server: CommandFactory, port: int) -> None:
        self.proxy = proxy
        self.server = server
        self.port = port
        self.identities: list[str | None] = []
        self.at_server: list[str | None] = []
        proxy.table.subscribe(self._ended)  # type: ignore[attr-defined]
        server.subscribe(self._finished)

    def _ended(self, event: Any) -> None:
        if type(event).__name__ in ("Removed", "Failed") and event.command.verb != b"FEAT":
            self.identities.append(event.identity)

    def _finished(self, event: Finished) -> None:
        if event.command.verb != b"FEAT":
            self.at_server.append(event.identity)

    async def blocking(
        self, act: Callable[[Session], T], token: str | None = ALICE, **options: Any
    ) -> T:
        """Run a function with a blocking session, in a thread."""

        def run() -> T:
            with Session(Address(HOST, self.port), 10, token=token, **options) as session:
                return act(session)

        result: T = await deferToThread(run)
        return result


@asynccontextmanager
async def daemons(tmp_path: Path, proxy: bool = True, server: bool = False) -> AsyncIterator[Any]:
    """Run both; the parameters are which of them has tokens."""
    (tmp_path / "a").write_bytes(b"abc")
    files = file_server(tmp_path)
    if server:
        files.accept_tokens(Tokens([ALICES]), False)
    async with listening(files) as upstream:
        front = proxy_to(upstream)
        if proxy:
            front.accept_tokens(Tokens([ALICES]), False)
        async with listening(front) as port:
            yield Daemons(front, files, port)


@pytest_twisted.ensureDeferred
async def test_token_is_the_identity_of_every_command(tmp_path: Path) -> None:
    async with daemons(tmp_path) as running:
        assert await running.blocking(lambda session: session.read("a")) == b"abc"
        assert await running.blocking(
            lambda session: [result for _, result in session.pipeline([Stat("a"), Get("a")] * 4)]
        )
        assert set(running.identities) == {"alice"}
        # Hop by hop: the file server receives no token, and has no identity.
        assert set(running.at_server) == {None}


@pytest_twisted.ensureDeferred
async def test_every_connection_of_a_pool_sends_it(tmp_path: Path) -> None:
    async with daemons(tmp_path) as running:

        def nested(session: Session) -> None:
            with session.get("a") as (first, _), session.get("a") as (second, _):
                assert (first.read(), second.read()) == (b"abc", b"abc")

        await running.blocking(nested)
        assert running.identities == ["alice", "alice"]
        assert running.proxy.authenticator.results[_accepted()] == 2


@pytest_twisted.ensureDeferred
async def test_deferred_session_sends_it(tmp_path: Path) -> None:
    async with daemons(tmp_path) as running:
        address = Address(HOST, running.port)
        session = DeferredSession(
            TCP4ClientEndpoint(reactor, *address), reactor, 10, server=address, token=ALICE
        )
        await session.connect()
        # The first two at once: each has a connection of its own.
        both = [session.read("a"), session.stat("a")]
        assert await both[0] == b"abc"
        await both[1]
        await session.read("a")
        await session.close()
        assert running.identities == ["alice"] * 3


@pytest.mark.parametrize("api", ["blocking", "deferred"])
@pytest_twisted.ensureDeferred
async def test_token_that_is_not_accepted_is_one_clear_error(tmp_path: Path, api: str) -> None:
    async with daemons(tmp_path) as running:

        async def act() -> None:
            if api == "blocking":
                await running.blocking(lambda session: session.read("a"), OTHER)
                return
            address = Address(HOST, running.port)
            endpoint = TCP4ClientEndpoint(reactor, *address)
            async with DeferredSession(
                endpoint, reactor, 10, server=address, token=OTHER
            ) as session:
                await session.read("a")

        with pytest.raises(Unauthorized) as caught:
            await act()
        assert str(caught.value) == f"{HOST}:{running.port}: the token is not accepted"
        assert caught.value.exit_status == 12
        # The command was not sent, or its result not used: nobody is served as nobody.
        assert OTHER not in repr(caught.value) + str(caught.value.__cause__)


@pytest.mark.parametrize(("proxy", "server"), [(False, True), (False, False), (True, True)])
@pytest_twisted.ensureDeferred
async def test_only_the_first_daemon_matters(tmp_path: Path, proxy: bool, server: bool) -> None:
    async with daemons(tmp_path, proxy, server) as running:
        assert await running.blocking(lambda session: session.read("a")) == b"abc"
        assert set(running.identities) == {"alice" if proxy else None}
        assert set(running.at_server) == {None}


@pytest.mark.parametrize("api", ["blocking", "deferred"])
@pytest_twisted.ensureDeferred
async def test_version_1_in_front_of_a_daemon_with_tokens_means_no_identity(
    tmp_path: Path, api: str
) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    files = file_server(tmp_path)
    files.accept_tokens(Tokens([ALICES]), False)
    identities: list[str | None] = []
    files.subscribe(lambda event: identities.append(event.identity))
    async with listening(files) as upstream:
        with Version1Proxy(upstream) as front:
            address = Address(HOST, front.port)

            def act() -> list[bytes]:
                with Session(address, 10, token=ALICE) as session:
                    return list(session.list())

            # It relays FEAT, and any other line, over a connection for each.
            if api == "blocking":
                assert await deferToThread(act) == [b"a"]
            else:
                endpoint = TCP4ClientEndpoint(reactor, *address)
                async with DeferredSession(
                    endpoint, reactor, 10, server=address, token=ALICE
                ) as session:
                    assert await session.list() == [b"a"]
    assert set(identities) == {None}


@pytest_twisted.ensureDeferred
async def test_proxy_with_tokens_in_front_of_version_1(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    with Version1Server(str(tmp_path)) as old:
        front = proxy_to(old.port)
        front.accept_tokens(Tokens([ALICES]), False)
        async with listening(front) as port:

            def act() -> list[bytes]:
                with Session(Address(HOST, port), 10, token=ALICE) as session:
                    return list(session.list())

            # FEAT fails there: nothing says that there is AUTH.
            assert await deferToThread(act) == [b"a"]
            assert front.authenticator.results[_accepted()] == 0


def _accepted() -> Any:
    from natproxy.server.authentication import Result

    return Result.ACCEPTED


class Authenticating:
    """Replies as a server of version 2.1 with ``AUTH``; counts the tokens it receives."""

    def __init__(self, announced: bool = True, refusal: bytes = b"") -> None:
        self._version2 = Version2(dict(FILES))
        self._announced = announced
        self._refusal = refusal

    def __call__(self, line: bytes) -> bytes:
        if line.startswith(b"AUTH "):
            return self._refusal or b"OK identity=alice\n"
        reply = self._version2(line)
        return (
            reply.replace(b"END\n", b"AUTH\nEND\n")
            if line == b"FEAT" and self._announced
            else reply
        )


class RoundTripTests(SynchronousTestCase):
    def session(self, reply: Any, **options: Any) -> Session:
        self.server = CountingServer(reply)
        self.addCleanup(self.server.close)
        session = Session(self.server.address, 10, token=ALICE, **options)
        self.addCleanup(session.close)
        return session

    def lines(self) -> list[bytes]:
        return [b"AUTH" if line.startswith(b"AUTH ") else line for line in self.server.lines]

    def test_without_tls_feat_comes_first_and_the_token_with_the_command(self) -> None:
        session = self.session(Authenticating())
        session.stat("a")
        # The connect, FEAT, and everything else.
        self.assertEqual(self.server.round_trips, 3, self.server.lines)
        session.stat("a")
        self.assertEqual(self.server.round_trips, 4)
        self.assertEqual(self.lines(), [b"FEAT", b"AUTH", b"FEAT", b"STAT a", b"STAT a"])

    def test_with_verified_tls_the_token_takes_no_round_trip(self) -> None:
        session = self.session(Authenticating())
        # TLS is not needed to count: only what it allows.
        assert session._authentication is not None
        session._authentication.verified = True
        session.stat("a")
        self.assertEqual(self.server.round_trips, 2, self.server.lines)
        self.assertEqual(self.lines(), [b"AUTH", b"FEAT", b"STAT a"])

    def test_server_without_auth_is_asked_once(self) -> None:
        session = self.session(Authenticating(announced=False))
        for _ in range(2):
            with session.get("a"), session.get("a"):
                pass
        self.assertEqual(self.lines().count(b"AUTH"), 0)
        self.assertEqual(self.lines().count(b"FEAT"), 2)

    def test_feat_that_is_not_understood_means_no_token(self) -> None:
        server = ScriptedServer([(b"FEAT\n", b"what?\n")], [(b"LIST\n", b"OK\na.txt\nEND\n")])
        self.addCleanup(server.close)
        with Session(Address(HOST, server.port), 10, token=ALICE) as session:
            self.assertEqual(list(session.list()), [b"a.txt"])
        self.assertEqual(server.received, b"FEAT\nLIST\n")

    def test_unknown_command_means_no_identity(self) -> None:
        for refusal in (b"ERR unknown command\n", b"what?\n", b"OK\n", b"ERR 400 bad\n"):
            session = self.session(Authenticating(refusal=refusal))
            assert session._authentication is not None
            session._authentication.verified = True
            with session.get("a"), session.get("a"):
                pass
            self.assertEqual(self.lines().count(b"AUTH"), 1, refusal)

    def test_temporary_error_is_one_for_the_retry_policy(self) -> None:
        for refusal in (
            b"ERR 503 too many clients\n",
            b"ERR 429 slowly\n",
            b"ERR proxy error: x\n",
        ):
            session = self.session(Authenticating(refusal=refusal))
            with self.assertRaises(ConnectionBroken) as caught:
                session.stat("a")
            self.assertTrue(caught.exception.passing)
            for results in (session.pipeline([Stat("a")] * 3), session.ls()):
                with self.assertRaises(ConnectionBroken):
                    list(results)

    def test_refused_token_fails_every_command_and_serves_none(self) -> None:
        session = self.session(Authenticating(refusal=b"ERR 401 the token is not accepted\n"))
        acts: tuple[Callable[[], object], ...] = (
            lambda: session.stat("a"),
            lambda: list(session.pipeline([Get("a")] * 3)),
            lambda: list(session.list()),
            lambda: session.pack(["a"]),
            lambda: session.hash("a"),
        )
        for act in acts:
            with self.assertRaises(Unauthorized):
                act()

    def test_token_is_not_sent_to_another_host_without_verified_tls(self) -> None:
        self.patch(authentication_module, "is_loopback", lambda host: False)
        session = self.session(Authenticating())
        for _ in range(2):
            with self.assertRaises(UsageError) as caught:
                session.stat("a")
            self.assertIn("the token is not sent to 127.0.0.1:", str(caught.exception))
        self.server.close()
        self.assertEqual(self.server.lines, [])

    def test_unless_the_user_allows_it(self) -> None:
        self.patch(authentication_module, "is_loopback", lambda host: False)
        session = self.session(Authenticating())
        session.close()
        token = authentication_module.Token(ALICE, plain=True)
        with Session(self.server.address, 10, token=token) as allowed:
            allowed.stat("a")
        self.assertIn(b"AUTH", self.lines())

    def test_reconnect_sends_it_again(self) -> None:
        replies = Authenticating()
        closing = {b"STAT close"}

        def reply(line: bytes) -> bytes:
            if line in closing:
                closing.discard(line)
                return b""
            return replies(line)

        server = AnsweringServer(reply)
        self.addCleanup(server.close)
        with Session(Address(HOST, server.port), 10, token=ALICE) as session:
            session.stat("a")
            with self.assertRaises(ClientError):
                session.stat("close")
        self.assertEqual(sum(line.startswith(b"AUTH ") for line in server.lines), 2)


class TokenTests(SynchronousTestCase):
    def test_it_is_in_no_representation(self) -> None:
        token = authentication_module.Token(ALICE)
        exchange = authentication_module.AuthExchange(token)
        with Session(Address(HOST, 1), token=token) as session:
            for value in (token, exchange, [token], session, session._authentication):
                self.assertNotIn(ALICE, repr(value) + str(value))

    def test_malformed_token_is_refused_without_showing_it(self) -> None:
        for text in ("", "s3cret x", "s3cret\n", "s3cret\u00fc"):
            with self.assertRaises(UsageError) as caught:
                authentication_module.Token(text)
            self.assertNotIn("s3cret", str(caught.exception))
