"""Patterns of paths on a server, by which entries and files are selected.

Their parts are those of `natproxy.pattern`.
"""

from __future__ import annotations

import math
import re

from natproxy.client.errors import UsageError
from natproxy.pattern import (
    MAX_PATTERN,
    STARS,
    PatternError,
    expression_of,
    has_wildcard,
    tokens_of,
)
from natproxy.protocol import printable


class Pattern:
    """A pattern that selects paths.

    A leading slash anchors it at the root; otherwise it may begin at any name of the path. It has
    to match up to the end of the path. With a trailing slash, it matches directories only, and
    with ``/***`` at the end, a directory and everything in it.

    :param text: 1 to `MAX_PATTERN` bytes.
    :raises UsageError: if it is malformed.
    """

    def __init__(self, text: bytes) -> None:
        if not text.strip(b"/"):
            raise _malformed(text, "it has no name in it")
        if len(text) > MAX_PATTERN:
            raise _malformed(text, f"longer than {MAX_PATTERN} bytes")
        body = text[:-1] if text.endswith(b"/") else text
        self._directories_only = body != text
        self._with_slash = text.endswith(b"***")
        anchored = body.startswith(b"/")
        # Text that begins with any bytes may begin with the slash before the first name.
        self._from_slash = body.startswith(STARS)
        self._of_name = b"/" not in body and STARS not in body
        prefix = b"" if anchored or self._from_slash or self._of_name else b"(?:.*?/)??"
        try:
            expression = expression_of(tokens_of(body[anchored:]), prefix)
        except PatternError as error:
            raise _malformed(text, str(error)) from error
        self._match = re.compile(expression, re.DOTALL).fullmatch

    def matches(self, path: bytes, directory: bool) -> bool:
        """Return whether a path matches.

        :param path: below the root, without a slash at either end.
        :param directory: whether it is the path of a directory.
        """
        if self._of_name:
            path = path[path.rfind(b"/") + 1 :]
        elif self._from_slash:
            path = b"/" + path
        if directory:
            if self._with_slash:
                path += b"/"
        elif self._directories_only:
            return False
        return self._match(path) is not None


class Glob:
    """A pattern of names on a server, as shells expand it.

    Unlike a `Pattern`, it has to match the whole path; ``**`` between slashes stands for any number
    of directories, also for none; and a name that begins with a dot is matched only by a
    pattern that begins with one.

    :param text: a path with wildcards; slashes at its ends are ignored.
    :raises UsageError: if it is malformed.
    :ivar directory: to list: the names before the first one with a wildcard; may be empty.
    :ivar depth: levels of directories to list; ``math.inf`` for all of them.
    """

    def __init__(self, text: bytes) -> None:
        names = [each for each in text.split(b"/") if each]
        literal = next(index for index, each in enumerate(names) if has_wildcard(each))
        self.directory = b"/".join(names[:literal])
        wild = names[literal:]
        self.depth = math.inf if STARS in wild else len(wild)
        # `None` stands for any number of directories.
        self._steps = [None if each == STARS else _Name(each) for each in wild]

    def matches(self, path: bytes) -> bool:
        """Return whether a path matches.

        :param path: below `directory`.
        """
        # Numbers of the steps that may match the next name.
        states = self._after({0})
        for name in path.split(b"/"):
            following = set()
            for state in states:
                if state == len(self._steps):
                    continue
                step = self._steps[state]
                if step is None:
                    if not name.startswith(b"."):
                        following.add(state)
                elif step.matches(name):
                    following.add(state + 1)
            states = self._after(following)
        return len(self._steps) in states

    def _after(self, states: set[int]) -> set[int]:
        """Return the states, and those behind each step that matches no name as well."""
        reached = set(states)
        for state in states:
            while state < len(self._steps) and self._steps[state] is None:
                state += 1
                reached.add(state)
        return reached


class _Name:
    """A pattern of one name."""

    def __init__(self, text: bytes) -> None:
        self._hidden = text.startswith((b".", b"\\."))
        self._pattern = Pattern(text)

    def matches(self, name: bytes) -> bool:
        """Return whether a name matches."""
        if name.startswith(b".") and not self._hidden:
            return False
        return self._pattern.matches(name, directory=False)


def _malformed(text: bytes, reason: str) -> UsageError:
    return UsageError(f"the pattern '{printable(text)}' cannot be used: {reason}")
