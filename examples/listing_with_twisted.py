"""List a directory and everything below it on a Twisted reactor.

Usage: python examples/listing_with_twisted.py HOST:PORT [DIRECTORY]
"""

from __future__ import annotations

import sys

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import react

from natproxy.client import ClientError
from natproxy.client.twisted import connect


async def show(reactor: IReactorTime, server: str, directory: str = "") -> None:
    """Print size and name of each entry, page by page; exit with a message if that fails."""
    try:
        async with await connect(reactor, server) as session:
            async for entry in session.walk(directory):
                print(f"{entry.metadata.size:>12}  {entry.name.decode(errors='replace')}")
    except ClientError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_status)


def main(reactor: IReactorTime, *arguments: str) -> Deferred[None]:
    """Return a Deferred that fires at the end of the listing."""
    return Deferred.fromCoroutine(show(reactor, *arguments))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    react(main, sys.argv[1:])
