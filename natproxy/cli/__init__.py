"""The command line ``natproxy``.

Each command is a module of `natproxy.cli.commands`; `natproxy.cli.parsing` makes parsers of
them. Other modules are imported when a command runs. Commands use `natproxy.client`. Only those
that run daemons, or read the settings of daemons, import Twisted: ``up``, ``config``, ``doctor``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from natproxy.cli.interrupts import end_at_interrupt, interrupt_once

TYPE_CHECKING = False
if TYPE_CHECKING:
    from natproxy.cli.output import Output
    from natproxy.client.errors import ClientError


_TWISTED = ("twisted", "zope")
"""The packages that a client does not need."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status.

    :param arguments: without the program's name; by default, those of the process.
    """
    try:
        if arguments is None:
            interrupt_once()
        from natproxy.cli.output import open_missing_streams, standard_output

        with standard_output(open_missing_streams()) as output:
            status, error = _run(arguments)
            return _finish(status, error, output)
    except KeyboardInterrupt:
        return _interrupted()
    finally:
        if arguments is None:
            from natproxy.cli.output import release_standard_error

            end_at_interrupt()
            release_standard_error()


def _run(arguments: Sequence[str] | None) -> tuple[int, OSError | None]:
    """Run a command line; return its exit status, and the error of writing its output."""
    from natproxy.cli.commands import COMMANDS
    from natproxy.cli.parsing import program_parser

    parser = program_parser(COMMANDS)
    if "_ARGCOMPLETE" in os.environ:
        from natproxy.cli.completion import complete

        complete(parser)
    try:
        parsed = parser.parse_args(arguments)
    except SystemExit as exit_:
        # The parser has written help, or what is wrong with the command line.
        return int(exit_.code or 0), None
    from natproxy.cli.context import Sessions, complain, configure
    from natproxy.client.errors import ClientError

    # File names are bytes: those that the locale cannot decode become surrogates.
    with suppress(AttributeError):
        sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]
    try:
        if parsed.selected.connects:
            parsed = configure(parsed)
        with Sessions() as sessions:
            status: int = parsed.selected.run(parsed, sessions)
            return status, None
    except ClientError as error:
        complain(_explained(error, getattr(parsed, "server", "")))
        return error.exit_status, None
    except KeyboardInterrupt:
        return _interrupted(), None
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _TWISTED:
            raise
        complain(f"{parsed.selected.name} needs Twisted: pip install twisted")
        return 1, None
    except OSError as error:
        return 0, error


def _finish(status: int, error: OSError | None, output: Output | None) -> int:
    """Flush standard output; return the exit status."""
    failure = None if output is None else output.failure
    if error is None and failure is not None:
        if status:
            # The error has been reported.
            return status
        # The writer ignored the error, as argparse does.
        error = failure
    if error is None:
        try:
            sys.stdout.flush()
        except OSError as reason:
            error = failure = reason
        except KeyboardInterrupt:
            # If the command was interrupted before, that has been reported.
            return status if status == 130 else _interrupted()
    if error is None or isinstance(error, BrokenPipeError):
        # The reader of the pipe has closed it.
        return status
    from natproxy.cli.context import complain
    from natproxy.client.errors import LocalError

    if isinstance(error.filename, (str, bytes)):
        complain(str(LocalError(os.fsencode(error.filename), error)))
    elif output is None or failure is not None:
        complain(str(LocalError(b"standard output", error)))
    else:
        complain(error.strerror or str(error))
    return LocalError.exit_status


def _explained(error: ClientError, server: str) -> str:
    """Return an error's text, with a hint if the default server cannot be connected to.

    :param server: the address that the command has of its settings; may be empty.
    """
    from natproxy.client.config import DEFAULT_SERVER
    from natproxy.client.errors import CannotConnect

    # A path may be a URL, which names another server.
    if isinstance(error, CannotConnect) and error.server == server == DEFAULT_SERVER:
        return f"{error}; --server or $NATPROXY_SERVER sets the address of the proxy"
    return str(error)


def _interrupted() -> int:
    from natproxy.cli.context import complain
    from natproxy.client.errors import Interrupted

    complain("interrupted")
    return Interrupted.exit_status
