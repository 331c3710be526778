"""The path of one command through the code: how many calls and modules it takes.

A reader who follows a command from its line to the removal of its entry has to follow these.
The numbers do not depend on the machine. A change that raises one of them is allowed, with a
reason; one that lowers it lowers the bound.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import FrameType

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from natproxy.address import Address
from natproxy.client import Session
from natproxy.nat import NATTable
from tests.support.command_trace import PACKAGE, CommandTrace
from tests.support.loopback import (
    HOST,
    PlayedServer,
    client_of,
    file_server,
    listening,
    proxy_to,
)

REPLIES = {
    b"LIST": b"OK\nhello.txt\nEND\n",
    b"GET a": b"OK 3 offset=0 size=3 etag=e mtime=1.0\nabc",
}

CALLS = 42
"""Calls of Python functions from ``lineReceived`` to the removal, without a subscriber.

Two of them count the command at its upstream: with several, that decides which one is chosen.
Four note the state of the command, which can have several attempts."""

MODULES = 16
"""Modules of these functions. One is the transport, which replaces Twisted's; two are an upstream
and the group of upstreams, and one has what the commands share."""

LOGGED_CALLS = 49
"""Calls with the log as a subscriber."""

FILES = 37
"""Modules of the client and of both daemons that execute one ``GET`` of 3 bytes.

One has the attempt to connect, so that the module of the upstream connection stays short."""


@pytest.mark.parametrize("command", REPLIES, ids=bytes.decode)
@pytest.mark.parametrize("logged", [False, True], ids=["unlogged", "logged"])
@pytest_twisted.ensureDeferred
async def test_command(command: bytes, logged: bool) -> None:
    server = PlayedServer()
    async with listening(server) as upstream:
        proxy = proxy_to(upstream)
        if not logged:
            proxy.stop_logging()
        async with listening(proxy) as port, client_of(port) as client:
            trace = CommandTrace(NATTable.remove)
            # The second command of a connection: the first one also counts the client.
            for profile in (None, trace):
                sys.setprofile(profile)
                try:
                    client.send(command + b"\n")
                    peer = await server.asked()
                    peer.send(REPLIES[command])
                    assert await client.takes(len(REPLIES[command])) == REPLIES[command]
                finally:
                    sys.setprofile(None)
    path = "\n".join(f"{module}: {name}" for module, name in trace.calls)
    assert trace.calls[-1][0] == "nat/table.py" or logged
    assert len(trace.calls) <= (LOGGED_CALLS if logged else CALLS), path
    assert logged or len(trace.modules) <= MODULES, path


@pytest_twisted.ensureDeferred
async def test_modules_that_execute_one_get(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    found: set[str] = set()
    tracing = threading.Event()

    def trace(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and tracing.is_set():
            name = frame.f_code.co_filename
            if name.startswith(PACKAGE):
                found.add(name.removeprefix(PACKAGE))

    def get(port: int) -> bytes:
        with Session(Address(HOST, port)) as session:
            # Not counted: connecting, and finding out the version of the protocol.
            session.read("a")
            sys.setprofile(trace)
            tracing.set()
            try:
                return bytes(session.read("a"))
            finally:
                tracing.clear()
                sys.setprofile(None)

    async with (
        listening(file_server(tmp_path)) as upstream,
        listening(proxy_to(upstream)) as port,
    ):
        sys.setprofile(trace)
        try:
            assert await deferToThread(get, port) == b"abc"
        finally:
            sys.setprofile(None)
    assert len(found) <= FILES, "\n".join(sorted(found))
