"""Unit tests open no Internet sockets and start no processes."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

STARTS = frozenset({"subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.system"})
CONNECTS = frozenset({"socket.bind", "socket.connect"})


class Guard:
    """Audit hook that notes what a unit test may not do.

    It does not raise the error there: the code under test might catch it. An audit hook stays
    for the life of the process, so that there is one.
    """

    def __init__(self) -> None:
        self.found: list[str] | None = None

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.found is None:
            return
        if event in STARTS:
            self.found.append(f"{event}: {arguments[:1]}")
        elif event in CONNECTS:
            used, address = arguments
            if isinstance(used, socket.socket) and used.family != socket.AF_UNIX:
                self.found.append(f"{event}: {address}")


GUARD = Guard()
sys.addaudithook(GUARD)


@pytest.fixture(autouse=True)
def _no_sockets_and_no_processes() -> Iterator[None]:
    """Fail a test that binds or connects an Internet socket, or starts a process."""
    GUARD.found = found = []
    try:
        yield
    finally:
        GUARD.found = None
    assert not found
