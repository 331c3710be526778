"""Groups of small files that are committed in a thread."""

from __future__ import annotations

import os
import tempfile
import threading
from shutil import rmtree
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from natproxy.client.transfer import staging
from natproxy.client.transfer.committer import Committer
from natproxy.client.transfer.destination import Existing
from natproxy.client.transfer.group import Group, Published, SmallFile
from natproxy.client.transfer.request import DownloadRequest
from natproxy.client.transfer.staging import Staging
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import FILE, Metadata


class CommitterTests(SynchronousTestCase):
    def setUp(self) -> None:
        root = os.fsencode(tempfile.mkdtemp())
        self.addCleanup(rmtree, root)
        self.tree = LocalTree(root)
        self.addCleanup(self.tree.close)
        self.released = threading.Event()
        self.addCleanup(self.released.set)
        self.began = threading.Semaphore(0)
        self.sizes: list[int] = []
        commit = Staging.commit

        def held(stage: Staging, group: Group) -> list[Published]:
            self.sizes.append(group.count)
            self.began.release()
            self.released.wait()
            return commit(stage, group)

        for patch in (
            mock.patch.object(Staging, "commit", held),
            mock.patch.object(staging, "GROUP_FILES", 3),
            mock.patch.object(staging, "EARLY_FILES", 1),
        ):
            patch.start()
            self.addCleanup(patch.stop)
        self.committer = Committer(self.tree, Existing.UPDATE, durable=False)
        self.addCleanup(self.committer.close)

    def write(self, name: bytes) -> list[bytes]:
        """Write a file; return the names of those that have been published before it."""
        path = os.path.join(self.tree.root, name)
        request = DownloadRequest(name, path, None, self.tree, name)
        file = SmallFile(0, request, *os.path.split(name))
        self.committer.find(request, file.directory)
        published = self.committer.advance_to(file)
        self.committer.write(file, Metadata(FILE, len(name), 10**9, "e"), name)
        return [each.file.request.name for each in published]

    def test_group_is_committed_early_only_while_no_other_one_is(self) -> None:
        for name in (b"a/1", b"b/1", b"c/1", b"d/1"):
            self.assertEqual(self.write(name), [])
        self.began.acquire()
        self.assertEqual(self.sizes, [1])
        self.released.set()
        self.assertEqual(self.write(b"e/1"), [b"a/1"])
        rest = [each.file.request.name for each in self.committer.flush()]
        self.assertEqual(rest, [b"b/1", b"c/1", b"d/1", b"e/1"])
        self.assertEqual(self.sizes, [1, 3, 1])
