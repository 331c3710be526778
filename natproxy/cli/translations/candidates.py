"""Candidates for completion: words of a filter, columns, names of daemons."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from natproxy.cli.translations.columns import names
from natproxy.cli.translations.sources import PROXY
from natproxy.client.control.daemon import Daemon
from natproxy.client.control.finding import Search
from natproxy.client.errors import ClientError
from natproxy.protocol import VERBS
from natproxy.records.filter.members import MEMBERS

KEYWORDS = ("and", "or", "not")


TIMEOUT = 1.0
"""Seconds to wait for a daemon: the user does."""

TIMES = ("now", "today", "yesterday")
"""Times that are words."""


def daemon_names() -> list[str]:
    """Return the names of the daemons that have a socket, whether or not they run."""
    return sorted({place.name for place in Search().sockets()})


def upstream_names(arguments: Namespace) -> list[str]:
    """Return the names of the upstreams of the proxy that options select; none if none replies."""
    try:
        path = Search().daemon(arguments.control, arguments.name, PROXY).path
        return [each.name for each in Daemon(path, TIMEOUT).upstreams().upstreams]
    except ClientError:
        return []


def columns(typed: str) -> list[str]:
    """Return the lists of columns that begin with what was typed."""
    before, comma, _ = typed.rpartition(",")
    listed = before.split(",")
    return [f"{before}{comma}{name}" for name in names() if name not in listed]


def filter_words(typed: str, words: Sequence[str]) -> list[str]:
    """Return the filters that begin with what was typed: the values of a member, or members.

    :param typed: the word of the command line, which may be a whole filter in quotes.
    :param words: those before it.
    """
    before, space, _ = typed.rpartition(" ")
    # Parentheses are written beside the words that they enclose.
    word = typed[len(before) + len(space) :]
    parentheses = word[: len(word) - len(word.lstrip("("))]
    last = (before.split() or list(words) or [""])[-1].lstrip("(").lower()
    found: Sequence[str]
    if last == "verb":
        found = sorted(verb.decode() for verb in VERBS)
    elif last in MEMBERS:
        found = MEMBERS[last].words
    elif last in ("", *KEYWORDS) or parentheses:
        found = ["not", *MEMBERS]
    else:
        found = [*KEYWORDS[:2], *MEMBERS]
    return [f"{before}{space}{parentheses}{each}" for each in found]
