"""The names on a server that match the patterns of a command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain

from natproxy.cli.listing import CountedEntries, entries_of, names_of
from natproxy.client.blocking.session import Session
from natproxy.client.errors import NotFound, TooManyEntries, UsageError
from natproxy.client.listing import require_inside
from natproxy.client.retry import Retrier
from natproxy.client.transfer.pattern import Glob
from natproxy.pattern import has_wildcard
from natproxy.protocol import DIRECTORY, FILE, UNREAD, Entry, Metadata, printable

MOST_MATCHES = 1_000_000
"""Names that one pattern may match: they are held in memory."""


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


def _directories_above(name: bytes) -> Iterator[bytes]:
    while b"/" in name:
        name = name[: name.rfind(b"/")]
        yield name
