"""The client's side of the proxy."""

from __future__ import annotations

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger

from natproxy.access import Verdict
from natproxy.address import Address
from natproxy.nat import Outcome
from natproxy.protocol import PROXY_ERROR, VIA, Command
from natproxy.proxy.exchange import Exchange
from natproxy.proxy.loop import LoopGuard
from natproxy.proxy.resources import Resources
from natproxy.server.connection import CommandReceiver
from natproxy.server.rotation import COMMAND_UNITS
from natproxy.server.state import State


class ProxyProtocol(CommandReceiver):
    """A client's connection: each command gets an upstream connection of its own.

    :param resources: of the proxy.
    :param loops: finds out whether the upstream leads back to the proxy.
    """

    log = Logger()
    # A command with an upstream connection costs about three times as much as one without.
    command_units = 3 * COMMAND_UNITS
    refusal_prefix = PROXY_ERROR

    def __init__(self, resources: Resources, loops: LoopGuard) -> None:
        super().__init__()
        self._resources = resources
        self._loops = loops
        # That of the current command, if there is one.
        self._exchange: Exchange | None = None

    @property
    def local_address(self) -> IAddress:
        """The proxy's address to which the client has connected; behind a PROXY header, its own."""
        address: IAddress = self.transport.getHost()
        return address

    def _own_address(self) -> Address:
        return self.factory.address_of(self.local_address)

    def connectionMade(self) -> None:
        """Wait for commands. A connection may be one that this proxy has made."""
        super().connectionMade()
        self._loops.client_connected()

    def command_received(self, command: Command) -> None:
        """Open an upstream connection for the command, unless that leads back to the proxy."""
        loops = self._loops
        if (loops.closed or command.verb == VIA) and loops.refuses(command):
            self.refuse_command(command, loops.refusal())
            return
        if self._resources.table.is_upstream_connection(self.client_address, self._own_address):
            self.refuse_command(command, loops.refuse_own_connection())
            return
        checks = self._resources.upstreams.checks
        if checks.connected and checks.is_own(self.client_address):
            self.refuse_command(command, loops.refuse_own_connection())
            return
        self._exchange = Exchange(self, self._resources, command)
        self._exchange.proceed()

    def cancel_command(self, outcome: Outcome) -> None:
        """Remove the client's entries from the table, or cancel the attempt to connect."""
        assert self._exchange is not None
        self._exchange.cancel(outcome)

    def publish_refusal(self, command: Command, verdict: Verdict, sent: int) -> None:
        """Publish that a command has ended without an upstream connection."""
        self._resources.table.fail(
            self.client_address,
            command,
            self.started_at,
            verdict.outcome,
            sent,
            verdict.reason,
            self.identity,
        )

    def reply_finished(self) -> None:
        """Begin the next command. The last one is not kept: its line can be 16 KiB long."""
        self._exchange = None
        super().reply_finished()

    def reply_broken_off(self, outcome: Outcome) -> None:
        """Abort the connection, unless that is done: the rest of the reply is missing.

        The entry has been removed.
        """
        self.end_command()
        if self.state is not State.CLOSED:
            self.abort(outcome)
