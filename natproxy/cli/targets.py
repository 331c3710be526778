"""The names on a server that the words of a command line, and the lines of a list, stand for."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import NamedTuple

from natproxy.cli.context import Sessions, retrier_of
from natproxy.cli.encoding import local_path
from natproxy.client.blocking.session import Session
from natproxy.client.errors import LocalError, UsageError
from natproxy.pattern import has_wildcard
from natproxy.protocol import Metadata


class Targets(NamedTuple):
    """What the paths of a command stand for.

    :ivar session: with the server.
    :ivar names: on the server.
    :ivar metadata: of those that patterns have matched, as the server listed them.
    """

    session: Session
    names: list[bytes]
    metadata: Mapping[bytes, Metadata]


def targets_of(arguments: Namespace, sessions: Sessions, directories: bool = False) -> Targets:
    """Return what the paths and the list of a command stand for.

    Names with wildcards that do not exist as such are patterns. The lines of ``--input-file`` are
    names only.

    :param arguments: with ``paths`` and the options of retries; ``input_file`` and ``null`` if
        the command has them.
    :param directories: whether patterns match directories as well as files.
    :raises UsageError: if there are neither paths nor a list.
    """
    listed = _listed(arguments, sessions)
    session, names = sessions.targets(arguments, [*arguments.paths, *listed])
    count = len(arguments.paths)
    if not any(map(has_wildcard, names[:count])):
        return Targets(session, names, {})
    # Most command lines have no patterns.
    from natproxy.cli.search import Search

    retry = retrier_of(arguments, session, sessions.complain)
    search = Search(session, retry, sessions.complain)
    expanded = search.expand(names[:count], directories)
    return Targets(session, expanded + names[count:], search.metadata)


def _listed(arguments: Namespace, sessions: Sessions) -> list[str]:
    path = getattr(arguments, "input_file", None)
    if path is not None:
        return read_lines(path, sessions, arguments.null)
    if not arguments.paths:
        raise UsageError("a path is needed, or --input-file with a list of paths")
    if getattr(arguments, "null", False):
        raise UsageError("--null describes --input-file: both are needed")
    return []


def read_lines(path: str, sessions: Sessions, null: bool = False) -> list[str]:
    """Return the lines of a local file, as text that was decoded by the locale.

    Empty lines, and lines that begin with ``#`` or ``;``, are ignored.

    :param path: of the file; ``-`` for standard input.
    :param null: whether a NUL ends each line, instead of a line feed; then no line is a comment.
    :raises UsageError: if standard input is that of the prompt.
    :raises LocalError: if the file cannot be read.
    """
    if path == "-" and sessions.at_prompt:
        raise UsageError("standard input has the commands of the prompt: a file is needed")
    local = local_path(os.path.expanduser(path) if sessions.at_prompt else path)
    try:
        if path == "-":
            data = sys.stdin.buffer.read()
        else:
            with open(local, "rb") as file:
                data = file.read()
    except OSError as error:
        raise LocalError(b"standard input" if path == "-" else local, error) from error
    lines = data.split(b"\0" if null else b"\n")
    if not null:
        lines = [line.removesuffix(b"\r") for line in lines if not line.startswith((b"#", b";"))]
    encoding = sys.getfilesystemencoding()
    return [line.decode(encoding, "surrogateescape") for line in lines if line]
