"""Upstreams that close or reset their connection after each byte of a reply, over real sockets."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import pytest_twisted
from twisted.internet.error import ConnectionDone, ConnectionLost

from natproxy.nat import Outcome, Removed
from natproxy.protocol import EMPTY_RESPONSE, PROXY_ERROR
from tests.support.loopback import Peer, PlayedServer, client_of, eventually, listening, proxy_to

BODY = b"hello"
HEADER = b"OK 5\n"
REPLY = HEADER + BODY
REFUSED = PROXY_ERROR.encode() + b"the server closed the connection inside its reply"


def close(peer: Peer) -> None:
    peer.transport.loseConnection()


ENDS = {"close": close, "half-close": Peer.finish_sending, "reset": Peer.kill}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest_twisted.ensureDeferred
async def test_each_byte(end: Callable[[Peer], None]) -> None:
    server = PlayedServer()
    outcomes: list[Outcome] = []
    async with listening(server) as upstream:
        proxy = proxy_to(upstream)
        proxy.table.subscribe(lambda event: outcomes.append(event.outcome), (Removed,))
        async with listening(proxy) as port:
            before = descriptors()
            for size in range(len(REPLY) + 1):
                async with client_of(port) as client:
                    client.send(b"DOWNLOAD a\n")
                    peer = await server.asked()
                    # At once: a reset discards what the transport holds.
                    peer.transport.getHandle().send(REPLY[:size])
                    end(peer)
                    if size < len(HEADER):
                        message = REFUSED if size else EMPTY_RESPONSE.encode()
                        expected = b"ERR " + message + b"\n"
                        assert await client.takes(len(expected)) == expected
                    elif size < len(REPLY):
                        # After a header only an abort shows that the body is incomplete.
                        assert await client.end() is ConnectionLost
                    else:
                        assert await client.takes(len(REPLY)) == REPLY
                    if not len(HEADER) <= size < len(REPLY):
                        client.send(b"LIST\n")
                        (await server.asked()).send(b"OK\nEND\n")
                        assert await client.takes(7) == b"OK\nEND\n"
                        client.finish_sending()
                        assert await client.end() is ConnectionDone
                assert len(proxy.table) == 0
            await eventually(lambda: descriptors() <= before, "all descriptors are closed")
    assert outcomes.count(Outcome.UPSTREAM_GONE) == len(REPLY)
    assert outcomes.count(Outcome.COMPLETED) == len(HEADER) + 2
