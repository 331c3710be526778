"""The tokens that a daemon accepts, by name, and the file that has their digests.

A line of the file is one token: its name, the algorithm, a salt, the digest of the salt and the
token, and optionally ``created=TIME`` and ``expires=TIME``. Lines that begin with ``#``, and empty
lines, are ignored::

    alice sha256 5f0c… 9b1d… created=2026-11-26T10:00:00Z expires=2027-11-26T00:00:00Z

A token has 256 random bits, so that guessing it is hopeless however fast a guess can be checked. A
slow hash protects passwords, which people choose; here it would only let clients occupy the daemon.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import datetime, timezone
from typing import NamedTuple

from natproxy.kernel.small_file import WRITTEN_BY_ITS_OWNER, UnsuitableFile, read_small_file

MOST_TOKENS = 1000
"""Tokens of one file. Each is compared with every token that a client sends: 1,000 take 1 ms."""

LARGEST_FILE = 1 << 20
"""Bytes of a file."""

ALGORITHM = "sha256"

LATEST = 253_370_764_800
"""Seconds since the epoch of the year 9999. A time is before it, and not before 1970."""

PREFIX = "natproxy_"
"""The beginning of each token, by which searches for leaked secrets find it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_SALT = re.compile(r"(?:[0-9a-f]{2}){8,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class TokenFileError(ValueError):
    """A file of tokens that cannot be used; the text names the line, and has no secret."""


class TokenEntry(NamedTuple):
    """One token of a file.

    :ivar name: of the client, which is its identity.
    :ivar salt: bytes that are hashed before the token.
    :ivar digest: the SHA-256 of both.
    :ivar created: seconds since the epoch, or ``None``.
    :ivar expires: seconds since the epoch from which on it is not accepted; ``None`` for never.
    """

    name: str
    salt: bytes
    digest: bytes
    created: int | None = None
    expires: int | None = None

    def expired(self, now: float) -> bool:
        """Return whether the token is no longer accepted.

        :param now: seconds since the epoch.
        """
        return self.expires is not None and now >= self.expires


class Tokens:
    """Accepts tokens whose digests are known.

    :raises TokenFileError: if there are more than `MOST_TOKENS`.
    """

    def __init__(self, entries: Iterable[TokenEntry] = ()) -> None:
        self.entries = tuple(entries)
        if len(self.entries) > MOST_TOKENS:
            raise TokenFileError(f"more than {MOST_TOKENS} tokens")
        self._salted = [(hashlib.sha256(entry.salt), entry) for entry in self.entries]
        self._known = frozenset(self.entries)

    def __contains__(self, entry: TokenEntry) -> bool:
        return entry in self._known

    def __len__(self) -> int:
        return len(self.entries)

    def find(self, token: bytes) -> TokenEntry | None:
        """Return the entry of a token, expired or not; ``None`` if there is none.

        Each entry is compared, whether or not one before it is equal, and each comparison takes the
        same time: the time that this takes depends on the number of entries alone.
        """
        found = None
        for salted, entry in self._salted:
            hashed = salted.copy()
            hashed.update(token)
            if hmac.compare_digest(hashed.digest(), entry.digest):
                found = entry
        return found


def check_token_name(name: str) -> str:
    """Return a name of a token.

    :raises ValueError: if it is not 1 to 64 letters, digits, ``.``, ``_``, ``@``, ``+`` or ``-``,
        beginning with a letter or a digit.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            "a name is 1 to 64 letters, digits, '.', '_', '@', '+' or '-', beginning with a letter"
            " or a digit"
        )
    return name


def new_token(
    name: str, created: int | None = None, expires: int | None = None
) -> tuple[str, TokenEntry]:
    """Return a new random token, and its entry.

    :param created: seconds since the epoch.
    :param expires: likewise.
    :raises ValueError: if the name is malformed.
    """
    token = PREFIX + secrets.token_urlsafe(32)
    salt = secrets.token_bytes(16)
    digest = hashlib.sha256(salt + token.encode("ascii")).digest()
    return token, TokenEntry(check_token_name(name), salt, digest, created, expires)


def format_entry(entry: TokenEntry) -> str:
    """Return the line of an entry, without a line feed."""
    words = [entry.name, ALGORITHM, entry.salt.hex(), entry.digest.hex()]
    for key, seconds in (("created", entry.created), ("expires", entry.expires)):
        if seconds is not None:
            words.append(f"{key}={format_moment(seconds)}")
    return " ".join(words)


def parse_entry(line: str) -> TokenEntry | None:
    """Return the entry of a line; ``None`` if it is empty or a comment.

    :raises ValueError: if the line is malformed; the text is the reason.
    """
    words = line.split()
    if not words or words[0].startswith("#"):
        return None
    if len(words) < 4:
        raise ValueError("a name, an algorithm, a salt and a digest are needed")
    name, algorithm, salt, digest, *others = words
    check_token_name(name)
    if algorithm != ALGORITHM:
        raise ValueError(f"unknown algorithm: {ALGORITHM} is the only one")
    if not _SALT.fullmatch(salt):
        raise ValueError("the salt is not 16 to 128 hexadecimal digits")
    if not _DIGEST.fullmatch(digest):
        raise ValueError("the digest is not 64 hexadecimal digits")
    times: dict[str, int] = {}
    for word in others:
        key, equals, text = word.partition("=")
        if not equals or key not in ("created", "expires") or key in times:
            raise ValueError("after the digest, only created=TIME and expires=TIME may follow")
        times[key] = parse_moment(text)
    return TokenEntry(
        name,
        bytes.fromhex(salt),
        bytes.fromhex(digest),
        times.get("created"),
        times.get("expires"),
    )


def parse_tokens(text: str) -> Tokens:
    """Return the tokens of the text of a file.

    :raises TokenFileError: if a line is malformed, or if there are too many.
    """
    entries = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            entry = parse_entry(line)
        except ValueError as error:
            raise TokenFileError(f"line {number}: {error}") from None
        if entry is not None:
            entries.append(entry)
    return Tokens(entries)


def read_token_file(path: str) -> str:
    """Return the text of a file of tokens.

    The digests in it reveal no token, so that others may read it. Who can write it can add a
    token.

    :raises TokenFileError: if others than its owner can write it, or if it is no regular file, too
        large, or not ASCII.
    :raises OSError: if it cannot be read.
    """
    try:
        data = read_small_file(path, LARGEST_FILE, WRITTEN_BY_ITS_OWNER, regular=True)
    except UnsuitableFile as error:
        raise TokenFileError(str(error)) from None
    try:
        return data.decode("ascii")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TokenFileError(f"line {line}: a character that is not ASCII") from None


def load_tokens(path: str) -> Tokens:
    """Return the tokens of a file.

    :raises TokenFileError: as `read_token_file` and `parse_tokens` do.
    :raises OSError: if it cannot be read.
    """
    return parse_tokens(read_token_file(path))


def format_moment(seconds: int) -> str:
    """Return seconds since the epoch as UTC: ``2026-11-26T10:00:00Z``."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_moment(text: str) -> int:
    """Return the seconds since the epoch of a date, or of a date and a time with its zone.

    A date begins at midnight UTC; a time without a zone is UTC.

    :raises ValueError: if it is malformed, before 1970 or after 9998.
    """
    try:
        # `fromisoformat` of Python 3.10 does not accept the letter Z.
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        seconds = int(moment.timestamp())
        # What is written again must be a date in each zone.
        if not 0 <= seconds < LATEST:
            raise ValueError
    except (ValueError, OverflowError):
        raise ValueError("a time is written as 2027-11-26 or as 2027-11-26T10:00:00Z") from None
    return seconds
