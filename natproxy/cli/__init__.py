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


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out a command line and give its exit status."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # Whoever started us has closed it; nor may a socket take its place.
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    from natproxy.cli.options import parser_of

    parser = parser_of()
    if "_ARGCOMPLETE" in os.environ:
        from natproxy.cli.completion import complete

        complete(parser)
    options = parser.parse_args(arguments)
    from natproxy.cli.sessions import Sessions, carry_out, complain
    from natproxy.client.errors import ClientError, Interrupted, LocalError

    # File names are bytes: those that are not UTF-8 pass through. Those that are told to
    # people come out escaped, whatever the terminal can show.
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        with suppress(AttributeError):
            stream.reconfigure(errors=errors)  # type: ignore[union-attr]
    status = 0
    try:
        try:
            with Sessions() as sessions:
                status = carry_out(options, sessions)
        except ClientError as error:
            complain(str(error))
            status = error.exit_status
        except KeyboardInterrupt:
            complain("interrupted")
            status = Interrupted.exit_status
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough.
        _forget_output()
    except OSError as error:
        _forget_output()
        named = isinstance(error.filename, (str, bytes))
        path = os.fsencode(error.filename) if named else b"standard output"
        complain(str(LocalError(path, error)))
        status = LocalError.exit_status
    return status


def _forget_output() -> None:
    """Let what cannot be written go, or it would be tried once more at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
