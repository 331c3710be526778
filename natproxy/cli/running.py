"""``natproxy up``: both daemons, in the foreground."""

from __future__ import annotations

import os
import sys
from argparse import Namespace


def up(options: Namespace, _: object) -> int:
    """Run them until they are told to stop."""
    from natproxy.up import run

    try:
        sys.stdout.fileno()
    except OSError:
        # It was closed. The daemons run without their greeting.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return run(options.files, options.listen or [], options.fileserver_listen)
