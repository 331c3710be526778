"""The names on a server that the words of a command line, and the lines of a list, stand for."""

from __future__ import annotations

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

from natproxy.cli.context import Sessions, retrier_of
from natproxy.cli.encoding import local_path
from natproxy.cli.listing import CountedEntries, entries_of, names_of
from natproxy.client.blocking.session import Session
from natproxy.client.errors import LocalError, NotFound, TooManyEntries, UsageError
from natproxy.client.listing import require_inside
from natproxy.client.retry import Retrier
from natproxy.client.transfer.pattern import Glob, has_wildcard
from natproxy.protocol import DIRECTORY, FILE, UNREAD, Entry, Metadata, printable

MOST_MATCHES = 1_000_000
"""Names that one pattern may match: they are held in memory."""


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


class Search:
    """Finds the names on a server that match patterns.

    :param complain: called with a line about each directory that cannot be searched.
    :ivar metadata: of the names that `expand` has found, as the server listed them.
    """

    def __init__(self, session: Session, retry: Retrier, complain: Callable[[str], object]) -> None:
        self.metadata: dict[bytes, Metadata] = {}
        self._session = session
        self._retry = retry
        self._complain = complain

    def expand(self, names: Sequence[bytes], directories: bool = False) -> list[bytes]:
        """Return names in which each pattern is replaced by the names that it matches.

        A file is not named twice because it matches a pattern.

        :param directories: whether patterns match directories as well as files.
        :raises NotFound: if a pattern matches nothing.
        :raises UsageError: if it matches directories only, and these are not wanted.
        :raises TooManyEntries: if it matches more than `MOST_MATCHES` names.
        """
        expanded: list[bytes] = []
        matches: set[bytes] = set()
        for name in names:
            glob = self.glob_of(name)
            if glob is not None:
                present = set(expanded)
                found = list(self._matches_of(name, glob, directories))
                matches.update(found)
                expanded += [each for each in found if each not in present]
            elif name not in matches:
                expanded.append(name)
        return expanded

    def glob_of(self, name: bytes) -> Glob | None:
        """Return the pattern that a name is; ``None`` if it is a name.

        A name that exists is a name, whatever its characters; so is one that is no proper
        pattern, as in a shell.
        """
        if not has_wildcard(name):
            return None
        try:
            glob = Glob(name)
        except UsageError:
            return None
        if self._version() < 2:
            return None if name in names_of(self._session, self._retry) else glob
        try:
            self._retry(partial(self._session.stat, name))
        except NotFound:
            return glob
        return None

    def entries(self, glob: Glob) -> Iterator[Entry]:
        """Yield the entries that match a pattern; none if its directory does not exist."""
        entries = CountedEntries(entries_of(self._session, self._retry, glob.directory, glob.depth))
        start = len(glob.directory) + 1 if glob.directory else 0
        try:
            for entry in entries:
                require_inside(entry.name, glob.directory)
                # The listing of a file consists of the file itself.
                if entry.name != glob.directory and glob.matches(entry.name[start:]):
                    yield entry
        except NotFound:
            return
        if glob.depth > 1:
            entries.complain(self._complain)

    def existing(self, pattern: bytes, glob: Glob) -> Iterator[Entry]:
        """Return the entries that match a pattern, if there are any.

        :param pattern: for the message.
        :raises NotFound: if nothing matches.
        """
        entries = self.entries(glob)
        first = next(entries, None)
        if first is None:
            raise NotFound(f"{printable(pattern)}: nothing matches")
        return chain([first], entries)

    def _version(self) -> int:
        return self._retry(lambda: self._session.version)

    def _matches_of(self, pattern: bytes, glob: Glob, directories: bool) -> Iterator[bytes]:
        """Yield the names that match, without those in a directory that matches as well."""
        number = others = 0
        above: set[bytes] = set()
        for name, metadata in self._names(glob):
            kind = FILE if metadata is None else metadata.type
            if kind == DIRECTORY and not directories:
                others += 1
            elif kind in (FILE, DIRECTORY, UNREAD):
                number += 1
                if number > MOST_MATCHES:
                    raise TooManyEntries(
                        f"{printable(pattern)}: more than {MOST_MATCHES} names match;"
                        " 'natproxy sync' downloads directories of any size"
                    )
                if above.isdisjoint(_directories_above(name) if above else ()):
                    if metadata is not None and kind != UNREAD:
                        self.metadata[name] = metadata
                    yield name
                if kind == DIRECTORY:
                    above.add(name)
        if number:
            return
        if others:
            raise UsageError(
                f"{printable(pattern)}: only directories match; 'natproxy get -r' downloads them"
            )
        raise NotFound(f"{printable(pattern)}: {'nothing' if directories else 'no file'} matches")

    def _names(self, glob: Glob) -> Iterator[tuple[bytes, Metadata | None]]:
        if self._version() < 2:
            for name in names_of(self._session, self._retry):
                if not glob.directory and glob.matches(name):
                    yield name, None
            return
        for entry in self.entries(glob):
            yield entry.name, entry.metadata


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


def _directories_above(name: bytes) -> Iterator[bytes]:
    while b"/" in name:
        name = name[: name.rfind(b"/")]
        yield name
