"""Bodies that are continued on another upstream connection, over real sockets."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.internet import reactor

from natproxy.nat import NATTable, Outcome, Removed
from natproxy.proxy.factory import ProxyFactory
from natproxy.relay import Method, Relays
from tests.support.loopback import (
    PlayedServer,
    client_of,
    eventually,
    listening,
    proxy_to,
)

CONTENT = random.Random(14).randbytes(3 << 20)
PROMISE = b"OK %d offset=%d size=%d mtime=1.0 etag=tag\n"


def header(offset: int = 0) -> bytes:
    """Return the header of the reply that sends the content from an offset on."""
    return PROMISE % (len(CONTENT) - offset, offset, len(CONTENT))


def removals(table: NATTable) -> list[Removed]:
    """Return the list to which each removal is appended."""
    removed: list[Removed] = []
    table.subscribe(removed.append, (Removed,))
    return removed


def proxy_that_resumes(port: int, method: Method) -> ProxyFactory:
    return proxy_to(port, relays=Relays(reactor, method), resume_for=30.0)


@pytest.mark.parametrize("method", [Method.AUTO, Method.COPY], ids=str)
@pytest.mark.parametrize("cut", ["finish_sending", "kill"])
@pytest_twisted.ensureDeferred
async def test_body_continues_after_each_death(method: Method, cut: str) -> None:
    server = PlayedServer()
    async with listening(server) as upstream:
        proxy = proxy_that_resumes(upstream, method)
        removed = removals(proxy.table)
        async with listening(proxy) as port, client_of(port) as client:
            client.send(b"GET a\n")
            expected = len(header()) + len(CONTENT)
            offset = 0
            for size in (5, 1, 100_000, 700_000, 1_500_000):
                peer = await server.asked()
                asked = bytes(peer.received).split()
                if removed:
                    assert asked[:2] == [b"GET", b"a"]
                    options = dict(word.split(b"=") for word in asked[2:])
                    assert options[b"if-match"] == b"tag"
                    # After a reset, bytes may be lost that have been sent.
                    assert int(options.get(b"offset", 0)) <= offset
                    offset = int(options.get(b"offset", 0))
                    assert int(options[b"length"]) == len(CONTENT) - offset
                begun = client.count
                peer.send(header(offset) + CONTENT[offset : offset + size])
                offset += size
                if cut == "kill":
                    await client.until(lambda begun=begun: client.count > begun, "bytes")
                getattr(peer, cut)()
            peer = await server.asked()
            asked = bytes(peer.received).split()
            offset = int(dict(word.split(b"=") for word in asked[2:]).get(b"offset", 0))
            peer.send(header(offset) + CONTENT[offset:])
            received = await client.takes(expected)
            assert received == header() + CONTENT
            await eventually(lambda: len(proxy.table) == 0, "an empty table")
    assert [event.outcome is Outcome.RETRIED for event in removed] == [True] * 5 + [False]
    assert [event.outcome for event in removed][-1] is Outcome.COMPLETED
    assert sum(event.sent for event in removed) == expected
    assert {event.earlier.command for event in removed[1:]} == {removed[0].serial}
    assert [event.earlier.attempts for event in removed[1:]] == [1, 2, 3, 4, 5]


def other_tag(offset: int) -> bytes:
    return header(offset).replace(b"tag", b"new")


@pytest.mark.parametrize(
    "reply",
    [
        lambda offset: b"ERR 412 changed etag=new\n",
        lambda offset: b"ERR 404 file not found\n",
        lambda offset: b"ERR 416 range size=3\n",
        other_tag,
        lambda offset: header(offset + 1) + b"x",
        lambda offset: b"OK nonsense\n",
        lambda offset: b"OK 5\nabcde",
    ],
    ids=["412", "404", "416", "etag", "offset", "malformed", "bare"],
)
@pytest_twisted.ensureDeferred
async def test_client_is_cut_off_if_the_file_has_changed(reply: Callable[[int], bytes]) -> None:
    server = PlayedServer()
    async with listening(server) as upstream:
        proxy = proxy_that_resumes(upstream, Method.AUTO)
        removed = removals(proxy.table)
        async with listening(proxy) as port, client_of(port) as client:
            client.send(b"GET a\n")
            peer = await server.asked()
            peer.send(header() + CONTENT[:200_000])
            peer.finish_sending()
            peer = await server.asked()
            peer.send(reply(200_000))
            await client.end()
            assert bytes(client.received) == (header() + CONTENT[:200_000])[: client.count]
    assert [event.outcome is Outcome.RETRIED for event in removed] == [True, False]
    assert removed[1].outcome in (Outcome.UPSTREAM_GONE, Outcome.ERROR)
