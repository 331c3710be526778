"""Conversion between names on the server, local paths and arguments.

A name on the server is UTF-8, whatever the locale; other bytes are possible. A local path is in
the locale's encoding. An argument is text that was decoded by the locale; bytes that the locale
cannot decode are surrogates.
"""

from __future__ import annotations

import codecs
import re
import sys

from natproxy.client.errors import UsageError
from natproxy.client.requests import name_text

_BYTE = re.compile("[\udc80-\udcff]")
"""A surrogate: a byte that could not be decoded."""


def remote_name(text: str) -> bytes:
    """Return the name on the server that an argument stands for.

    :raises UsageError: if it has a character without bytes.
    """
    return _encoded(text, "utf-8")


def local_path(text: str) -> bytes:
    """Return the local path that an argument stands for.

    :raises UsageError: if the locale has no bytes for one of its characters.
    """
    return _encoded(text, sys.getfilesystemencoding())


def argument_for(name: bytes, encoding: str | None = None) -> str | None:
    """Return the argument that stands for a name on the server: `remote_name` reversed.

    :param encoding: of the locale; by default, that of this process.
    :return: ``None`` if there is none, since the locale lacks characters of the name.
    """
    encoding = _name_of(encoding)
    if encoding in ("utf-8", "ascii"):
        # Any byte of UTF-8 either decodes to itself or is a surrogate.
        return name.decode(encoding, "surrogateescape")
    text = name_text(name)
    return text if can_encode(text, encoding) else None


def output_for(name: bytes, encoding: str | None = None) -> bytes:
    """Return the bytes to write for a name on the server, for programs.

    They are the argument that stands for the name, so that it can be passed to this program
    again, or the name with escapes if there is no such argument.

    :param encoding: of the locale; by default, that of this process.
    """
    encoding = _name_of(encoding)
    text = argument_for(name, encoding)
    if text is not None:
        return text.encode(encoding, "surrogateescape")
    escaped = _BYTE.sub(lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", name_text(name))
    return "".join(
        character
        if can_encode(character, encoding)
        else character.encode("ascii", "backslashreplace").decode("ascii")
        for character in escaped
    ).encode(encoding)


def can_encode(text: str, encoding: str | None = None) -> bool:
    """Return whether an encoding, that of the locale by default, has all of the characters.

    A few encodings decode the bytes of a character to another character: in EUC-JP the yen
    sign is the byte of the backslash. Such a character counts as missing.
    """
    encoding = encoding or sys.getfilesystemencoding()
    try:
        return text.encode(encoding).decode(encoding) == text
    except UnicodeError:
        return False


def is_utf_8() -> bool:
    """Return whether the locale's encoding is UTF-8."""
    return _name_of(None) == "utf-8"


def _encoded(text: str, encoding: str) -> bytes:
    try:
        return text.encode(encoding, "surrogateescape")
    except UnicodeEncodeError as error:
        character = text[error.start].encode("unicode_escape").decode("ascii")
        raise UsageError(f"the character '{character}' has no bytes in {encoding}") from error


def _name_of(encoding: str | None) -> str:
    return codecs.lookup(encoding or sys.getfilesystemencoding()).name
