"""Download files with the blocking API: verified, resumed after an interruption.

Usage: python examples/download.py HOST:PORT DIRECTORY NAME...
"""

from __future__ import annotations

import sys

from natproxy.client import ClientError, Event, Phase, connect


def show(event: Event) -> None:
    """Print the end of each download."""
    if event.phase is Phase.COMPLETE:
        print(f"{event.name.decode(errors='replace')}: {event.done} bytes")


def main(server: str, directory: str, *names: str) -> int:
    """Download; return the exit status of the first failure, 0 without one."""
    status = 0
    with connect(server) as session:
        for name in names:
            try:
                session.download(name, directory, verify=True, progress=show)
            except ClientError as error:
                print(error, file=sys.stderr)
                status = status or error.exit_status
    return status


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
