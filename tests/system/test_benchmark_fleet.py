"""The benchmark of a fleet's journal runs; with ``NATPROXY_TEST_FLEET_ROWS``, at its full size.

``NATPROXY_TEST_FLEET_ROWS=100000000`` takes 100 proxies, 30 GB in the temporary directory and an
hour, and writes ``docs/reports/fleet-journal.md``: for `.ci/long`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT
from tests.support.postgres import needs_postgres, running_server

ROWS = os.environ.get("NATPROXY_TEST_FLEET_ROWS")
SMALL = (
    *("--rows", "3000", "--proxies", "3", "--days", "2"),
    *("--segment", "300", "--questions", "10"),
)
LIMIT = 6 * 3600 if ROWS else 120

pytestmark = needs_postgres


def test_report_is_written(tmp_path: Path) -> None:
    report = ROOT / "docs" / "reports" / "fleet-journal.md" if ROWS else tmp_path / "report.md"
    size = ("--rows", ROWS) if ROWS else SMALL
    with running_server() as server:
        subprocess.run(
            [
                *(sys.executable, "-m", "benchmarks.fleet_journal", "--to", server.new_database()),
                *(*size, "--output", str(report)),
            ],
            cwd=ROOT,
            check=True,
            timeout=LIMIT,
        )
    text = report.read_text()
    for row in ("found: address and port", "nobody: address and port", "the newest 100"):
        assert f"| {row} |" in text
