"""A server in a thread that plays a fixed dialogue, byte by byte, for tests of the wire."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Sequence

Scene = Sequence[tuple[bytes, bytes]]
"""The expected bytes and the replies on one connection, which is closed afterwards."""


class ScriptedServer:
    """Plays one scene for each connection, in order.

    :param linger: whether connections stay open until `close` or `close_current`.
    :ivar server_address: ``HOST:PORT``.
    :ivar received: all bytes that clients have sent.
    """

    def __init__(self, *scenes: Scene, linger: bool = False) -> None:
        self.received = b""
        self._scenes = scenes
        self._released = threading.Event()
        self._closing = False
        self._linger = linger
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.server_address = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close the last connection and wait for the thread."""
        self._closing = True
        self._released.set()
        if self._listener.fileno() < 0:
            return
        # There may be scenes for which no client has connected.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def close_current(self) -> None:
        """Close the current connection and play the next scene."""
        self._released.set()

    def _play(self) -> None:
        for scene in self._scenes:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(10)
                # Commands may arrive before the reply to an earlier one.
                pending = b""
                for expected, reply in scene:
                    while expected not in pending:
                        try:
                            data = connection.recv(65536)
                        except ConnectionResetError:
                            data = b""
                        if not data:
                            break
                        pending += data
                        self.received += data
                    pending = pending[pending.find(expected) + len(expected) :]
                    with contextlib.suppress(ConnectionError):
                        connection.sendall(reply)
                if self._linger:
                    self._released.wait(10)
                    if not self._closing:
                        self._released.clear()
