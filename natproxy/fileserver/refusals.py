"""Why commands are refused: wrong arguments, missing files, errors of the storage."""

from __future__ import annotations

from twisted.logger import Logger

from natproxy.protocol import (
    FILE_NOT_FOUND,
    Arguments,
    Command,
    Range,
    Refusal,
    errors,
    parse_arguments,
    printable,
    range_of,
)
from natproxy.server.threads import Overloaded, WorkRefused
from natproxy.storage import NotFound, OpenFile

_log = Logger()


def parse_digest(command: Command) -> Arguments:
    """Return the arguments of a ``HASH``.

    :raises Refusal: if they are wrong, or name an algorithm that is not supported.
    """
    arguments = parse_arguments(command)
    if arguments.alg != "sha256":
        raise Refusal(errors.BAD_REQUEST, f"unsupported alg '{arguments.alg}': only sha256")
    return arguments


def range_of_file(file: OpenFile, arguments: Arguments) -> Range:
    """Return the range of a file that a command names; close the file if there is none.

    :raises Refusal: if there is none.
    """
    try:
        return range_of(file.metadata, arguments)
    except Exception:
        file.close()
        raise


def refusal_of(name: bytes, error: Exception) -> Refusal:
    """Return the refusal that reports an error to the client; log one that is not the client's.

    :param name: of the file.
    """
    if isinstance(error, NotFound):
        return Refusal(errors.NOT_FOUND, FILE_NOT_FOUND)
    if isinstance(error, WorkRefused):
        overloaded = isinstance(error, Overloaded)
        code = errors.TOO_MANY_REQUESTS if overloaded else errors.UNAVAILABLE
        return Refusal(code, str(error))
    _log.error("cannot open {name}: {reason}", name=shown(name), reason=error)
    return Refusal(errors.UNAVAILABLE, "the server cannot open files at present")


def shown(name: bytes) -> str:
    """Return the name of a file for the log."""
    return printable(name) or "the served directory"
