"""A local tree and a server in memory, for tests of comparisons and deletions."""

from __future__ import annotations

from typing import Any

from natproxy.client.transfer.mirror import MirrorRules, compare
from natproxy.client.transfer.plan import MirrorPlan
from natproxy.client.transfer.tree import LocalTree
from natproxy.protocol import printable
from tests.support.served_files import ServedFilesCase


class MirrorCase(ServedFilesCase):
    def tree(self, root: bytes | None = None) -> LocalTree:
        """Open a local tree, the test's directory by default; it is closed when the test ends."""
        tree = LocalTree(self.directory if root is None else root)
        self.addCleanup(tree.close)
        return tree

    def compare(self, name: bytes = b"", **options: Any) -> MirrorPlan:
        return compare(self.session, name, self.tree(), MirrorRules(**options))

    def extra(self, plan: MirrorPlan) -> list[bytes]:
        return [each.path for each in plan.extra]

    def paths(self, plan: MirrorPlan) -> list[bytes]:
        return [each.path for each in plan.requests]

    def obstacles(self, plan: MirrorPlan) -> list[str]:
        """Return the errors of the obstacles, without the path of the test's directory."""
        top = printable(self.directory) + "/"
        return [str(each.error).replace(top, "") for each in plan.obstacles]
