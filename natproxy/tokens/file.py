"""Changes of a file of tokens: atomic, one at a time, and with its comments kept."""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from natproxy.tokens.entries import (
    TokenEntry,
    format_entry,
    parse_entry,
    parse_tokens,
    read_token_file,
)

MODE = 0o600
"""Of a new file."""


class TokenExists(Exception):
    """There is a token with this name."""


class NoSuchToken(Exception):
    """There is no token with this name."""


def add_token(path: str, entry: TokenEntry) -> None:
    """Add a token to a file, which is created if it does not exist.

    :raises TokenExists: if there is one with its name.
    :raises TokenFileError: if the file cannot be used, or has too many tokens.
    :raises OSError: if it cannot be read or written.
    """
    with _locked(path):
        text = _text_of(path)
        if any(other.name == entry.name for other in parse_tokens(text).entries):
            raise TokenExists(entry.name)
        if text and not text.endswith("\n"):
            text += "\n"
        text += format_entry(entry) + "\n"
        # Also checks the number of tokens.
        parse_tokens(text)
        _replace(path, text)


def remove_token(path: str, name: str) -> int:
    """Remove the tokens with a name from a file; return how many there were.

    :raises NoSuchToken: if there is none.
    :raises TokenFileError: if the file cannot be used.
    :raises OSError: if it cannot be read or written.
    """
    with _locked(path):
        text = read_token_file(path)
        entries = parse_tokens(text).entries
        removed = sum(entry.name == name for entry in entries)
        if not removed:
            raise NoSuchToken(name)
        # `splitlines` would split at other characters as well, inside of comments.
        kept = [line for line in text.split("\n") if _name_of(line) != name]
        _replace(path, "\n".join(kept))
    return removed


def _name_of(line: str) -> str | None:
    entry = parse_entry(line)
    return None if entry is None else entry.name


def _text_of(path: str) -> str:
    try:
        return read_token_file(path)
    except FileNotFoundError:
        return ""


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Hold a lock of the file's directory: the file itself is replaced."""
    descriptor = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(path: str, text: str) -> None:
    """Replace a file, whose mode and owner are kept; a new one is for its owner alone."""
    new = f"{path}.{secrets.token_hex(6)}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            with suppress(FileNotFoundError):
                former = os.stat(path)
                if (former.st_uid, former.st_gid) != (os.geteuid(), os.getegid()):
                    # A daemon that runs as another user must still be able to read it.
                    os.fchown(descriptor, former.st_uid, former.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(former.st_mode))
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise
