"""Downloads of one file from a server in memory."""

from __future__ import annotations

from typing import Any

from natproxy.client import ConnectionBroken
from natproxy.client.retry import RETRY_FOR, RetryPolicy
from natproxy.client.transfer.download import Download
from natproxy.client.transfer.request import DownloadOptions, DownloadRequest, DownloadResult
from tests.support.served_files import Fault, ServedFilesCase

NEW = bytes(range(256)) * 40
OLD = NEW[::-1]
ONCE = DownloadOptions(retry_policy=RetryPolicy())


def at_most(retries: int) -> RetryPolicy:
    """Return a policy that allows so many consecutive retries."""
    return RetryPolicy(RETRY_FOR, retries)


class DownloadCase(ServedFilesCase):
    """The server has a file ``d/a``, which is downloaded to ``a`` in an empty directory."""

    def setUp(self) -> None:
        super().setUp()
        self.server.put(b"d/a", NEW)

    def download(
        self, options: DownloadOptions | None = None, name: bytes = b"d/a", **fields: Any
    ) -> DownloadResult:
        """Download a file.

        :param fields: of the `DownloadRequest`.
        """
        request = DownloadRequest(name, self.path(b"a"), **fields)
        return Download(self.session, request, options, self.note).run()

    def interrupted(self, after: int, options: DownloadOptions = ONCE) -> None:
        """Start a download that fails after so many bytes."""
        self.server.fail(b"GET", Fault(cut=after))
        self.assertRaises(ConnectionBroken, self.download, options)
        self.events.clear()
        self.server.commands.clear()
        self.server.sent = 0

    def assert_whole(self, content: bytes = NEW) -> None:
        """Check that the directory has the complete file and nothing else."""
        self.assertEqual((self.files(), self.read(b"a")), ([b"a"], content))
