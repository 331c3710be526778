"""``natproxy up``: both daemons, in the foreground."""

from __future__ import annotations

from argparse import Namespace


def up(options: Namespace, _: object) -> int:
    """Run them until they are told to stop."""
    from natproxy.up import run

    return run(options.files, options.listen or [], options.fileserver_listen)
