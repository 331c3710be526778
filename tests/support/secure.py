"""Servers with TLS for tests: in threads by ``ssl``, and in this reactor by the endpoints."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred

from natproxy.daemon.listening import ListeningEndpoint
from tests.support.answering_server import AnsweringServer
from tests.support.certificates import Files
from tests.support.loopback import HOST, all_ended


def server_context(files: Files, client_ca: str | None = None) -> ssl.SSLContext:
    """Return the context of a server.

    :param client_ca: requires a certificate of each client.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class SecureServer(AnsweringServer):
    """An `AnsweringServer` with TLS.

    :ivar versions: of TLS, one for each handshake that has succeeded.
    :ivar resumed: whether each of them has resumed a session.
    """

    def __init__(self, reply: Callable[[bytes], bytes], context: ssl.SSLContext) -> None:
        self._context = context
        self.versions: list[str | None] = []
        self.resumed: list[bool | None] = []
        super().__init__(reply)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                secured = self._context.wrap_socket(connection, server_side=True)
            except OSError:
                return
        # The socket that was accepted is closed by now.
        self._accepted.append(secured)
        self.versions.append(secured.version())
        self.resumed.append(secured.session_reused)
        super()._serve(secured)


@asynccontextmanager
async def listening_tls(
    factory: Any, files: Files, *options: str, prefix: str = ""
) -> AsyncIterator[tuple[int, ListeningEndpoint]]:
    """Listen with a factory and TLS; return the port and the endpoint.

    :param options: of the endpoint.
    """
    description = [f"{prefix}ssl:0:interface={HOST}", f"privateKey={files.key}"]
    endpoint = ListeningEndpoint(
        reactor, ":".join([*description, f"certKey={files.cert}", *options])
    )
    port: Any = await endpoint.listen(factory)
    try:
        yield port.getHost().port, endpoint
    finally:
        await maybeDeferred(port.stopListening)
        await all_ended(factory)
