"""A log that is a stream of a process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_standard_output_under_its_name_is_not_renamed(tmp_path: Path) -> None:
    output = tmp_path / "output"
    program = (
        "from natproxy.daemon.logfile import RotatingFile as R\n"
        "print(R('/dev/stdout')._can_be_renamed(), R('/dev/fd/1')._can_be_renamed())"
    )
    with output.open("wb") as file:
        subprocess.run([sys.executable, "-c", program], stdout=file, check=True)
    assert output.read_text() == "False False\n"
