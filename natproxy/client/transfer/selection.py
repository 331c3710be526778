"""Which entries of a directory are mirrored: patterns to include and to exclude, in order."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

from natproxy.client.transfer.pattern import Pattern

MOST_CACHED = 4096
"""Directories whose outcome is remembered."""


class Equality(enum.Enum):
    """When a local file counts as unchanged."""

    SIZE_AND_TIME = enum.auto()
    """It has the size and the modification time that the server lists."""
    SIZE_ONLY = enum.auto()
    """It has the size that the server lists."""
    CHECKSUM = enum.auto()
    """It has the size and the SHA-256 digest: both sides read the whole file."""


class Rule(NamedTuple):
    """A pattern, and whether what matches it is included or excluded."""

    include: bool
    pattern: Pattern


class _Outcome(enum.Enum):
    """The result of the rules for a directory, which holds for what no rule matches in it."""

    INCLUDED = enum.auto()
    EXCLUDED = enum.auto()
    """Nothing in it is included, whatever matches."""
    DEFAULT = enum.auto()
    """No rule has matched so far."""


class Selection:
    """Selects entries of a directory, as ``rsync`` does.

    The first rule that matches an entry decides. An excluded directory is excluded with all that
    is in it. What no rule matches is included, unless the last rule includes: as in ``rclone``,
    nothing else is included then, besides what is in an included directory. (In ``rsync``, such a
    rule has no effect.)

    Threads may share a selection.

    :param rules: in order; without any, all entries are included.
    """

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)
        self._default = not (self._rules and self._rules[-1].include)
        self._directories: dict[bytes, _Outcome] = {}

    def __bool__(self) -> bool:
        """Return whether there are rules: without any, there is nothing to check."""
        return bool(self._rules)

    def includes(self, path: bytes, directory: bool) -> bool:
        """Return whether an entry is included, considering the directories above it.

        A file may be included although its directory is not: the directory is then created for
        the file.

        :param path: below the directory whose entries are selected.
        :param directory: whether the entry is a directory.
        """
        if not self._rules:
            return True
        outcome = self._of_directory(path) if directory else self._below_directories(path)
        return self._default if outcome is _Outcome.DEFAULT else outcome is _Outcome.INCLUDED

    def enters(self, path: bytes) -> bool:
        """Return whether something in a directory may be included."""
        return not self._rules or self._of_directory(path) is not _Outcome.EXCLUDED

    def _below_directories(self, path: bytes) -> _Outcome:
        above = path[: max(0, path.rfind(b"/"))]
        return self._outcome(path, False, self._of_directory(above))

    def _of_directory(self, path: bytes) -> _Outcome:
        if not path:
            return _Outcome.DEFAULT
        known = self._directories.get(path)
        if known is not None:
            return known
        outcome = _Outcome.DEFAULT
        end = 0
        # From the top, since no recursion is deep enough for every path that a server may list.
        while end < len(path) and outcome is not _Outcome.EXCLUDED:
            end = path.find(b"/", end + 1)
            if end < 0:
                end = len(path)
            above = path[:end]
            known = self._directories.get(above)
            outcome = known or self._outcome(above, True, outcome)
            if known is None:
                if len(self._directories) >= MOST_CACHED:
                    self._directories.clear()
                self._directories[above] = outcome
        return outcome

    def _outcome(self, path: bytes, directory: bool, above: _Outcome) -> _Outcome:
        if above is _Outcome.EXCLUDED:
            return above
        for include, pattern in self._rules:
            if pattern.matches(path, directory):
                return _Outcome.INCLUDED if include else _Outcome.EXCLUDED
        return above
