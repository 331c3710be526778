"""``natproxy``, the command that people type.

`natproxy.cli.options` reads the command line; the other modules carry it out, and are
imported when they are needed. They stand on `natproxy.client`; only ``up``, which runs
the daemons, imports Twisted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line and give its exit status."""
    from natproxy.cli.options import parser_of

    parser = parser_of()
    if "_ARGCOMPLETE" in os.environ:
        from natproxy.cli.completion import complete

        complete(parser)
    options = parser.parse_args(arguments)
    from natproxy.cli.sessions import Sessions, carry_out
    from natproxy.client.errors import ClientError

    # File names are bytes: those that are not UTF-8 pass through.
    for stream in (sys.stdin, sys.stdout):
        with suppress(AttributeError):
            stream.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    try:
        with Sessions() as sessions:
            status = carry_out(options, sessions)
        sys.stdout.flush()
    except ClientError as error:
        sys.stderr.write(f"natproxy: {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        sys.stderr.write("natproxy: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has had enough; nor can it be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status
