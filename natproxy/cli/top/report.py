"""``natproxy top`` where there is no terminal: one state."""

from __future__ import annotations

import sys
import time

from natproxy.cli.top.sampling import INTERVAL
from natproxy.cli.top.state import Top
from natproxy.cli.top.view import RESERVED, lines
from natproxy.client.errors import ClientError

COLUMNS = 120
ROWS = 20


def write_once(top: Top) -> None:
    """Write the state between two samples.

    :raises ClientError: if there is none.
    """
    top.update()
    time.sleep(INTERVAL)
    top.update()
    if top.sample is None or not top.sample.seconds:
        raise ClientError(top.message or "the daemon was restarted")
    for line in lines(top, COLUMNS, ROWS + RESERVED)[:-2]:
        if line.text:
            sys.stdout.write(line.text.rstrip() + "\n")
