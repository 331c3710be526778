"""A file on a server in memory, and what fetches it."""

from __future__ import annotations

from typing import Any

from natproxy.client import ConnectionBroken
from natproxy.client.retry import RETRY_FOR, RetryPolicy
from natproxy.client.transfer.download import Download
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest, DownloadResult
from tests.support.served_files import Fault, FetchCase

NEW = bytes(range(256)) * 40
OLD = NEW[::-1]
ONCE = DownloadOptions(retry_policy=RetryPolicy())


def at_most(retries: int) -> RetryPolicy:
    """Return the patience for so many failures in a row."""
    return RetryPolicy(RETRY_FOR, retries)


class TransferCase(FetchCase):
    def setUp(self) -> None:
        super().setUp()
        self.server.put(b"d/a", NEW)

    def fetch(
        self, how: DownloadOptions | None = None, name: bytes = b"d/a", **options: Any
    ) -> DownloadResult:
        wanted = DownloadRequest(name, self.path(b"a"), **options)
        return Download(self.session, wanted, how, self.note).run()

    def interrupted(self, after: int, how: DownloadOptions = ONCE) -> None:
        """Have the first bytes fetched, and no more."""
        self.server.fail(b"GET", Fault(cut=after))
        self.assertRaises(ConnectionBroken, self.fetch, how)
        self.events.clear()
        self.server.commands.clear()
        self.server.sent = 0

    def assert_whole(self, content: bytes = NEW) -> None:
        self.assertEqual((self.files(), self.read(b"a")), ([b"a"], content))
