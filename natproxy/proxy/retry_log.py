"""The lines in the log for a command that is tried again: one at first, and one at the end.

The attempts between are at the level ``debug``: when a server restarts, a thousand clients have a
few thousand of them. The journal has each one.
"""

from __future__ import annotations

from natproxy.proxy.failure import Kind, Loss
from natproxy.proxy.interfaces import Client
from natproxy.proxy.upstreams import Upstream


class RetryLog:
    """Logs how one command is interrupted, and how it continues or fails.

    :ivar interrupted: whether it has been logged that the command is interrupted, and not yet
        that it continues.
    """

    def __init__(self, client: Client) -> None:
        self.interrupted = False
        self._client = client

    def postponed(self, loss: Loss, upstream: Upstream) -> None:
        """Log that another attempt follows."""
        # A server without ``GET`` is no failure.
        first = not self.interrupted and loss.kind is not Kind.UNSUPPORTED
        log = self._client.log
        (log.warn if first else log.debug)(
            "the command of {client} is tried again: {name}: {reason}",
            client=self._client.client_address,
            name=upstream.name,
            reason=_reason_of(loss),
        )
        self.interrupted = self.interrupted or first

    def continued(self, upstream: Upstream) -> None:
        """Log that the command, which was interrupted before its header, has a reply."""
        if self.interrupted:
            self.interrupted = False
            self._client.log.info(
                "the command of {client} is executed by {name}",
                client=self._client.client_address,
                name=upstream.name,
            )

    def resumed(self, offset: int) -> None:
        """Log that the body continues.

        :param offset: position in the file.
        """
        self.interrupted = False
        self._client.log.info(
            "the reply to {client} continues at byte {offset} of the file",
            client=self._client.client_address,
            offset=offset,
        )

    def failed(self, loss: Loss, upstream: Upstream) -> None:
        """Log that the command ends with an error in place of its reply."""
        text = ""
        if self.interrupted:
            text = "the command of {client} has failed, and is not tried again: {reason}"
        elif loss.kind is Kind.UNREACHABLE:
            text = "cannot connect to the upstream for {client}: {reason}"
        elif loss.detail:
            text = "the upstream {name} was lost before its reply to {client}: {reason}"
        if text:
            self._client.log.error(
                text,
                client=self._client.client_address,
                name=upstream.name,
                reason=_reason_of(loss),
            )


def _reason_of(loss: Loss) -> str:
    reason = loss.reason or loss.message
    return f"{reason} ({loss.detail})" if loss.detail else reason
