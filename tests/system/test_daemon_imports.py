"""A daemon without observers imports nothing that serves them."""

from __future__ import annotations

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.support.paths import ROOT

PROGRAM = """
import sys
import natproxy.daemon.fileserver, natproxy.daemon.proxy, natproxy.daemon.up
print(*sys.modules)
"""


class ImportTests(SynchronousTestCase):
    def test_what_only_observers_need_is_imported_later(self) -> None:
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
        )
        imported = set(run.stdout.split())
        self.assertIn("natproxy.daemon.proxy_observation", imported)
        needless = {"twisted.web.server", "sqlite3", "prometheus_client", "natproxy.records.filter"}
        self.assertEqual(needless & imported, set())
