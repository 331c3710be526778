"""The client's side of the proxy."""

from __future__ import annotations

from twisted.logger import Logger

from natproxy.nat import Outcome
from natproxy.protocol import PROXY_ERROR, Command
from natproxy.proxy.upstream import Resources, UpstreamFactory
from natproxy.server.connection import CommandReceiver
from natproxy.server.rotation import COMMAND_UNITS


class ProxyProtocol(CommandReceiver):
    """A client's connection: each command gets an upstream connection of its own.

    :param resources: of the proxy.
    """

    log = Logger()
    # A command with an upstream connection costs about three times as much as one without.
    command_units = 3 * COMMAND_UNITS
    refusal_prefix = PROXY_ERROR

    def __init__(self, resources: Resources) -> None:
        super().__init__()
        self._resources = resources
        # That of the current command; of the last one, if there is no current command.
        self._upstream: UpstreamFactory | None = None

    def command_received(self, command: Command) -> None:
        """Open an upstream connection for the command."""
        self._upstream = UpstreamFactory(self, self._resources, command)
        self._upstream.connect()

    def cancel_command(self, outcome: Outcome) -> None:
        """Remove the client's entries from the table, or cancel the attempt to connect."""
        assert self._upstream is not None
        if self._upstream.connected:
            self._resources.table.cancel_client(self.outbound, outcome)
        else:
            self._upstream.cancel(outcome)

    def reply_broken_off(self, outcome: Outcome) -> None:
        """Abort the connection: a part of the reply has been sent, and the rest is missing.

        The entry has been removed.
        """
        self.command = None
        self.abort(outcome)
