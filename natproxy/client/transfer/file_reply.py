"""The bytes of a file, and the metadata that it has after the last of them, by one write."""

from __future__ import annotations

from contextlib import ExitStack

from natproxy.client.blocking.session import Session
from natproxy.client.context import Closing
from natproxy.client.errors import ClientError, Interrupted, NotFound, NotUnderstood
from natproxy.client.transfer.verification import changed_error
from natproxy.protocol import Metadata, printable


def require_same(name: bytes, before: Metadata, after: Metadata) -> None:
    """Check that a file did not change while its bytes were received.

    :raises Changed: if it did.
    :raises NotUnderstood: if the server reports two sizes for one version of it.
    """
    if before.etag != after.etag:
        raise changed_error(name)
    if before.size != after.size:
        raise NotUnderstood(f"{printable(name)}: the server reports two sizes of the same file")


class FileReply(Closing):
    """The reply to a ``GET``, whose body the caller reads, and to a ``STAT`` sent with it.

    The parameters are those of `Session.get`, and

    :param confirming: whether ``STAT`` is sent.
    :raises ClientError: as `Session.get` does.
    :ivar reply: to read the bytes from.
    :ivar metadata: of the file to which the bytes belong.
    """

    def __init__(
        self,
        session: Session,
        name: bytes,
        offset: int = 0,
        length: int | None = None,
        if_match: str | None = None,
        *,
        confirming: bool = True,
    ) -> None:
        self._name = name
        self._closing = ExitStack()
        self._after = None
        if confirming:
            together = session.get_and_stat(name, offset, length, if_match)
            self.reply, part, self._after = self._closing.enter_context(together)
        else:
            single = session.get(name, offset, length, if_match)
            self.reply, part = self._closing.enter_context(single)
        self.metadata = part.metadata

    def metadata_after(self) -> Metadata | None:
        """Return the metadata of the file after all bytes have been read from the reply.

        :return: ``None`` if they were not requested, or could not be received.
        :raises Changed: if the file does not exist any more.
        :raises Interrupted: if another thread interrupts the session.
        """
        if self._after is None:
            return None
        try:
            return self._after()
        except NotFound as error:
            raise changed_error(self._name) from error
        except Interrupted:
            raise
        except ClientError:
            # All bytes are here: the caller's own STAT is retried.
            return None

    def close(self) -> None:
        """Return the connection to the session; abort it if a reply has not been read."""
        self._closing.close()
