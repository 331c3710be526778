"""The identity of a connection's client: of its token, or of its certificate."""

from __future__ import annotations

from functools import cached_property

from natproxy.access import Caller, Verdict
from natproxy.protocol import Command
from natproxy.server.authentication import Attempts
from natproxy.server.certificate import identity_of
from natproxy.server.teardown import ClosingReceiver


class IdentifiedReceiver(ClosingReceiver):
    """A connection whose client may have an identity.

    :ivar identity: the client's authenticated name; ``None`` if it has none.
    :ivar attempts: its ``AUTH`` commands; ``None`` before the first one.
    """

    identity: str | None = None
    attempts: Attempts | None = None
    # Of the certificate.
    _certified: str | None = None

    @cached_property
    def caller(self) -> Caller:
        """Who sends the commands of this connection, for gates."""
        return Caller.at(self.client_address, self.identity)

    @property
    def may_authenticate(self) -> bool:
        """Whether the client may send ``AUTH``, so that ``FEAT`` announces it."""
        return self.factory.authenticator.offered(self)

    def identify(self, name: str | None) -> None:
        """Set the client's identity, for its next command.

        :param name: of a token; ``None`` for the identity of the certificate, if it has one.
        """
        self.identity = self._certified if name is None else name
        self.__dict__.pop("caller", None)

    def find_certificate(self) -> None:
        """Set the identity of the client's certificate, if it has shown one."""
        self._certified = identity_of(self.transport)
        if self._certified is not None:
            self.identify(None)

    # Called by the authenticator, its deadlines, and the factory.

    def reply(self, line: bytes) -> None:
        """Write a whole reply to the current command, and continue with the next one."""
        self.outbound.write(line)
        self.reply_finished()

    def authentication_refused(self) -> None:
        """Reply to ``AUTH`` with an error: the delay is over."""
        self.factory.authenticator.refuse(self)

    def tokens_changed(self) -> None:
        """Take the client's identity away if its token is no longer accepted."""
        self.factory.authenticator.revoke(self)

    # Called by the subclass.

    def refuse_command(self, command: Command, verdict: Verdict) -> None:
        """Reply to a command that may not begin with the error of a verdict, and publish it."""
        line = command.error_line(verdict.text, verdict.code)
        self.outbound.write(line)
        self.publish_refusal(command, verdict, len(line))
        self.reply_finished()

    # Implemented by the subclass.

    def publish_refusal(self, command: Command, verdict: Verdict, sent: int) -> None:
        """Publish that a command has ended before it has begun.

        :param sent: bytes of the error that the client received.
        """
        raise NotImplementedError

    def reply_finished(self) -> None:
        """Continue after the reply to the current command has been written."""
        raise NotImplementedError

    def reply_error(self, message: str, code: int | None = None) -> None:
        """Reply to the current command with an error, and continue with the next one."""
        raise NotImplementedError

    def drain(self) -> None:
        """Finish the current command, begin no other, and close."""
        raise NotImplementedError
