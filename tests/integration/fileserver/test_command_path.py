"""The path of one command of the file server: how many calls of Python functions it takes.

As in ``tests/integration/proxy/test_command_path.py``: the numbers do not depend on the machine,
and a change that lowers one lowers the bound.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import pytest_twisted

from natproxy.nat import Subscribers
from natproxy.server.connection import CommandReceiver
from natproxy.server.events import Finished
from tests.support.command_trace import CommandTrace
from tests.support.loopback import client_of, file_server, listening

CALLS = {b"STAT a": 28, b"GET a": 40, b"DOWNLOAD a": 32}
"""Calls from ``lineReceived`` to the end of the reply, without a subscriber."""


@pytest.mark.parametrize("command", CALLS, ids=bytes.decode)
@pytest_twisted.ensureDeferred
async def test_command(command: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc\n")
    server = file_server(tmp_path)
    server.subscribers = Subscribers((Finished,))
    async with listening(server) as port, client_of(port) as client:
        trace = CommandTrace(CommandReceiver.reply_finished)
        # The second command of a connection: the first one also counts the client.
        for profile in (None, trace):
            sys.setprofile(profile)
            try:
                client.send(command + b"\n")
                await client.until(lambda: client.received.endswith(b"\n"), "a reply")
            finally:
                sys.setprofile(None)
            client.received.clear()
    path = "\n".join(f"{module}: {name}" for module, name in trace.calls)
    assert ("server/connection.py", "reply_finished") in trace.calls
    assert len(trace.calls) <= CALLS[command], path
