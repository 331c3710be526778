"""The attempt to connect to the upstream for one command."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import PROXY_ERROR, UNAVAILABLE, Command
from natproxy.proxy.failure import explain
from natproxy.proxy.interfaces import Client
from natproxy.proxy.resources import Resources
from natproxy.proxy.upstream import UpstreamProtocol
from natproxy.proxy.upstreams import Upstream


class UpstreamFactory(ClientFactory):
    """Opens the upstream connection of one command.

    :param client: its client's side.
    :ivar upstream: the upstream that was chosen for it, from `connect` on.
    :ivar connected: true once a connection has been made, or the command is cancelled: a further
        connection is reset.
    """

    noisy = False
    upstream: Upstream

    def __init__(self, client: Client, resources: Resources, command: Command) -> None:
        self.client = client
        self.resources = resources
        self.command = command
        self.connected = False
        self._timeout = 0.0
        self._cancel: Callable[[], object] | None = None

    def connect(self) -> None:
        """Begin to connect to the upstream that is chosen for the command, or wait for one."""
        upstreams = self.resources.upstreams
        upstream = upstreams.choose(self.command)
        if upstream is None:
            upstreams.wait(self)
            return
        self.upstream = upstream
        upstream.begin()
        connector = upstream.connector
        self._timeout = connector.timeout
        self._cancel = connector.connect(self)

    proceed = connect

    def refuse(self, reason: str) -> None:
        """Send the client the error 503: no upstream has a place for the command."""
        self.connected = True
        line = self.command.error_line(PROXY_ERROR + reason, UNAVAILABLE)
        self.client.outbound.write(line)
        self._publish_failure(Outcome.ERROR, len(line), reason)
        self.client.reply_finished()

    def cancel(self, outcome: Outcome) -> None:
        """Cancel the attempt to connect, and publish that the command has ended."""
        self.connected = True
        if self._cancel is None:
            self.resources.upstreams.cancel_wait(self)
        else:
            self._cancel()
            self.upstream.end()
        self._publish_failure(outcome, 0)

    def buildProtocol(  # type: ignore[override]  # as in `ProxyFactory`
        self, addr: IAddress | Address | None
    ) -> UpstreamProtocol:
        """Return the protocol of the upstream connection."""
        upstream = addr if isinstance(addr, Address) else self.resources.address_of(addr)
        return UpstreamProtocol(self, upstream)

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        """Send the client an error that describes the failure, and log the system's error."""
        # There is nothing to be cancelled from here on.
        self.connected = True
        outcome, code, text = explain(reason, self._timeout)
        self.upstream.failed(text)
        self.upstream.end()
        self.client.log.error(
            "cannot connect to the upstream for {client}: {reason} ({error})",
            client=self.client.client_address,
            reason=text,
            error=reason.getErrorMessage(),
        )
        line = self.command.error_line(PROXY_ERROR + text, code)
        self.client.outbound.write(line)
        self._publish_failure(outcome, len(line), text)
        self.client.reply_finished()

    def _publish_failure(self, outcome: Outcome, sent: int, reason: str | None = None) -> None:
        client, table = self.client, self.resources.table
        address, began = client.client_address, client.started_at
        table.fail(address, self.command, began, outcome, sent, reason, client.identity)
