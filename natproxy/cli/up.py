"""``natproxy up``: both daemons, in the foreground."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from contextlib import suppress


def up(options: Namespace, _: object) -> int:
    """Run them until they are told to stop."""
    from natproxy.daemon.up import run

    with suppress(OSError, ValueError):
        descriptor = sys.stdout.fileno()
        try:
            os.write(descriptor, b"")
        except OSError:
            # It was closed. The daemons run without their greeting.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return run(options.files, options.listen or [], options.fileserver_listen)
