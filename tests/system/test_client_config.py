"""What the client's settings cost at the start of a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_without_a_file_no_parser_is_imported(tmp_path: Path) -> None:
    program = (
        "import sys; before = set(sys.modules)\n"
        "from natproxy.client.config import load_client_config\n"
        "load_client_config(); print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stdout.split())
    assert "natproxy.client.config" in imported
    assert not imported & {"tomllib", "tomli", "dataclasses", "inspect", "difflib", "json"}
