"""Files of tokens: read, written again, and changed."""

from __future__ import annotations

import os
from functools import cache
from tempfile import TemporaryDirectory

from fuzz.oracles import is_safe
from natproxy.client.authentication import Token
from natproxy.client.errors import UsageError
from natproxy.tokens.entries import (
    MOST_TOKENS,
    TokenEntry,
    TokenFileError,
    format_entry,
    load_tokens,
    parse_entry,
    parse_tokens,
)
from natproxy.tokens.file import NoSuchToken, TokenExists, add_token, remove_token

NEW = TokenEntry("fuzz", b"salt-salt", bytes(32), 1_795_665_600)

WORDS = ("sha256 ", "created=", "expires=", "2026-11-26", "T10:00:00Z", "5f" * 16, "9b" * 32)


def check(data: bytes) -> None:
    """Check a file; its first line is a token of a client as well."""
    path = os.path.join(directory().name, "tokens")
    with open(path, "wb", opener=private) as file:
        file.write(data)
    check_token(data.partition(b"\n")[0])
    try:
        tokens = load_tokens(path)
    except TokenFileError as error:
        assert is_safe(str(error))
        return
    assert len(tokens) <= MOST_TOKENS
    lines = [format_entry(entry) for entry in tokens.entries]
    assert all(
        parse_entry(line) == entry for line, entry in zip(lines, tokens.entries, strict=True)
    )
    assert parse_tokens("\n".join(lines)).entries == tokens.entries
    assert tokens.find(b"x") is None
    check_changes(path, tokens.entries)


def private(path: str, flags: int) -> int:
    """Open a file that others cannot write."""
    return os.open(path, flags, 0o600)


@cache
def directory() -> TemporaryDirectory[str]:
    """Return the directory of the file, in memory if there is such a place."""
    return TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)


def check_changes(path: str, entries: tuple[TokenEntry, ...]) -> None:
    """Check that an added token is there, and that the others remain when it is removed."""
    try:
        add_token(path, NEW)
    except TokenExists:
        assert any(entry.name == NEW.name for entry in entries)
        return
    except TokenFileError:
        assert len(entries) == MOST_TOKENS
        return
    assert load_tokens(path).entries == (*entries, NEW)
    assert remove_token(path, NEW.name) == 1
    assert load_tokens(path).entries == entries
    try:
        remove_token(path, NEW.name)
    except NoSuchToken:
        return
    raise AssertionError("a token was removed twice")


def check_token(line: bytes) -> None:
    """Check that no message shows a token of a client."""
    text = line.decode("utf-8", "surrogateescape")
    try:
        token = Token(text)
    except UsageError as error:
        shown = str(error)
    else:
        shown = repr(token)
    # A short text may be in any message.
    assert len(text) < 40 or text not in shown
