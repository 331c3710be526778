"""The arguments of a command of version 2: an encoded file name, then ``key=value`` words.

``PACK`` has several names, and nothing else.
"""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from natproxy.protocol.errors import BAD_REQUEST, Refusal
from natproxy.protocol.text import WireError, printable
from natproxy.protocol.verbs import AUTH, MAX_LINE, VERBS, Command, Naming, checked_line

MAX_SIZE = 2**63 - 1
"""The largest size or offset on the wire, in bytes: that of ``off_t``."""

ROOT = b"."
"""The name of the served directory itself, where a verb needs a name."""

MAX_NAMES = 512
"""Names in one ``PACK``."""

_UNENCODED = bytes(byte for byte in range(0x21, 0x7F) if byte != 0x25)
_ENCODED_BYTES = tuple(
    bytes((byte,)) if byte in _UNENCODED else b"%%%02X" % byte for byte in range(256)
)
_ENCODED = re.compile(rb"[!-$&-~]*(?:%[0-9A-Fa-f]{2}[!-$&-~]*)*")
# Words that mean themselves, between single spaces.
_PLAIN_WORDS = re.compile(rb"[!-$&-~]+(?: [!-$&-~]+)*")
_NUMBER = re.compile(rb"[0-9]{1,19}")
# Loaded at import: after a daemon has changed its user, it may not be able to read the module.
_ESCAPES = codecs.lookup("unicode_escape")
_TOKEN = re.compile(rb"[!-~]{1,128}")


def encode_name(name: bytes) -> bytes:
    """Return a file name as one word of printable ASCII; other bytes and ``%`` become ``%XX``."""
    # Most names are the same when they are encoded: in a fifth of the time.
    if not name.translate(None, _UNENCODED):
        return name
    # `re.sub` takes ten times as long for a long name of other bytes.
    return b"".join(map(_ENCODED_BYTES.__getitem__, name))


# A command's name is decoded for its reply, the table and the log. At most 1 MiB is cached.
@lru_cache(maxsize=32)
def decode_name(word: bytes) -> bytes:
    """Return the file name that a word encodes.

    :raises WireError: if the word is not percent-encoded.
    """
    return _decoded(word)


def _decoded(word: bytes) -> bytes:
    if not (word and _ENCODED.fullmatch(word)):
        raise WireError(f"malformed name '{printable(word, 80)}'")
    if b"%" not in word:
        return word
    # A line can hold 5,400 escapes. A codec decodes them 50 times as fast as `re.sub`.
    escaped = word.replace(b"\\", b"\\\\").replace(b"%", b"\\x")
    return _ESCAPES.decode(escaped)[0].encode("latin-1")


class Arguments(NamedTuple):
    """The arguments of a command of version 2, or their defaults.

    :ivar name: of the file or directory; empty for the served directory itself.
    :ivar offset: position of the first requested byte.
    :ivar length: maximal number of bytes; ``None`` for all bytes up to the end.
    :ivar if_match: the ``etag`` that the file must have.
    :ivar depth: levels of directories to list, 1 or more, or ``math.inf``.
    :ivar after: the listing begins after this name; empty for its beginning.
    :ivar limit: maximal number of entries on a page; ``None`` for the server's own limit.
    :ivar alg: the algorithm of the digest.
    :ivar names: of the files, for a verb that has several.
    """

    name: bytes = b""
    offset: int = 0
    length: int | None = None
    if_match: str | None = None
    depth: float = 1
    after: bytes = b""
    limit: int | None = None
    alg: str = "sha256"
    names: tuple[bytes, ...] = ()


def _number(value: bytes) -> int:
    if not _NUMBER.fullmatch(value) or int(value) > MAX_SIZE:
        raise WireError("not a number")
    return int(value)


def _positive(value: bytes) -> int:
    number = _number(value)
    if not number:
        raise WireError("zero")
    return number


def _depth(value: bytes) -> float:
    return math.inf if value == b"inf" else _positive(value)


def _token(value: bytes) -> str:
    if not _TOKEN.fullmatch(value):
        raise WireError("not a token")
    return value.decode("ascii")


_READERS: dict[bytes, Callable[[bytes], Any]] = {
    b"offset": _number,
    b"length": _number,
    b"if-match": _token,
    b"depth": _depth,
    b"after": decode_name,
    b"limit": _positive,
    b"alg": _token,
}


def parse_arguments(command: Command) -> Arguments:
    """Return the arguments of a command whose verb is a known one of version 2.

    :raises Refusal: with code 400 and a message that names the unknown or malformed argument.
    """
    verb = VERBS[command.verb]
    if verb.naming is Naming.SEVERAL:
        return Arguments(names=tuple(parse_names(command)))
    words = command.name.split()
    values: dict[str, Any] = {}
    if verb.needs_name and not words:
        raise Refusal(BAD_REQUEST, "missing file name")
    if verb.needs_name or (verb.naming is Naming.OPTIONAL and words and b"=" not in words[0]):
        word = words.pop(0)
        try:
            name = decode_name(word)
        except WireError as error:
            raise Refusal(BAD_REQUEST, _ascii(str(error))) from error
        values["name"] = b"" if name == ROOT else name
    for word in words:
        key, equals, value = word.partition(b"=")
        field = key.decode("ascii", "replace").replace("-", "_")
        if not equals or key not in verb.keys or field in values:
            raise Refusal(BAD_REQUEST, _ascii(f"unknown argument '{printable(word, 80)}'"))
        try:
            values[field] = _READERS[key](value)
        except WireError as error:
            raise Refusal(
                BAD_REQUEST, _ascii(f"malformed argument '{printable(word, 80)}'")
            ) from error
    return Arguments(**values)


def parse_names(command: Command) -> list[bytes]:
    """Return the names of a command whose verb has several, in order.

    :raises Refusal: with code 400 if a name is malformed, if there is none, or if there are more
        than `MAX_NAMES`.
    """
    words = command.name.split()
    if not words:
        raise Refusal(BAD_REQUEST, "missing file name")
    if len(words) > MAX_NAMES:
        raise Refusal(BAD_REQUEST, f"{len(words)} file names: at most {MAX_NAMES} are allowed")
    if _PLAIN_WORDS.fullmatch(command.name) and ROOT not in words:
        return words
    try:
        return [b"" if word == ROOT else _decoded(word) for word in words]
    except WireError as error:
        raise Refusal(BAD_REQUEST, _ascii(str(error))) from error


def name_of(command: Command) -> bytes:
    """Return the file name in a command with any verb, for tables and logs; the first of several.

    :return: empty if there is none; the encoded word if it is malformed; `REDACTED` in place
        of a secret.
    """
    command = command.shown
    verb = VERBS.get(command.verb)
    if verb is None or verb.version == 1 or verb.naming is Naming.NONE:
        return command.name
    word = (command.name.split(None, 1) or (b"",))[0]
    if verb.naming is Naming.OPTIONAL and b"=" in word:
        return b""
    try:
        return decode_name(word)
    except WireError:
        return word


def _decoded_or_as_it_is(word: bytes) -> bytes:
    try:
        return _decoded(word)
    except WireError:
        return word


def names_of(command: Command) -> list[bytes]:
    """Return all file names in a command with any verb, each as `name_of` returns it.

    :return: the list is empty if there is none.
    """
    verb = VERBS.get(command.verb)
    if verb is None or verb.naming is not Naming.SEVERAL:
        name = name_of(command)
        return [name] if name else []
    if _PLAIN_WORDS.fullmatch(command.name):
        return command.name.split()
    return [_decoded_or_as_it_is(word) for word in command.name.split()]


def format_request(word: bytes, arguments: Arguments = Arguments()) -> bytes:  # noqa: B008  # immutable
    """Return the line of a command of version 2, line feed included.

    :param word: one of `VERBS`; arguments that its row has no key for are left out.
    :raises WireError: if the line is too long, or an argument has no valid form.
    """
    verb = VERBS[word]
    if verb.naming is Naming.SEVERAL:
        return _several_names(word, arguments.names)
    words = [word]
    if verb.naming is not Naming.NONE and (arguments.name or verb.needs_name):
        name = encode_name(arguments.name) or ROOT
        # An optional name that contains "=" would be parsed as an argument.
        words.append(name.replace(b"=", b"%3D") if verb.naming is Naming.OPTIONAL else name)
    for key in verb.keys:
        field = key.decode("ascii").replace("-", "_")
        value = getattr(arguments, field)
        if value != Arguments._field_defaults[field]:
            word = _written(value)
            try:
                _READERS[key](word)
            except WireError as error:
                raise WireError(
                    f"{key.decode()}: {printable(word, 80)} is not a valid argument"
                ) from error
            words.append(key + b"=" + word)
    return checked_line(b" ".join(words), max(arguments.name, arguments.after, key=len))


def _several_names(word: bytes, names: tuple[bytes, ...]) -> bytes:
    if not 0 < len(names) <= MAX_NAMES:
        raise WireError(f"{word.decode()} takes 1 to {MAX_NAMES} file names, not {len(names)}")
    line = b" ".join((word, *(encode_name(name) or ROOT for name in names)))
    if len(names) > 1 and len(line) > MAX_LINE:
        raise WireError(f"{len(names)} file names are too long for one line of {MAX_LINE} bytes")
    return checked_line(line, names[0])


def abilities(auth: bool = False) -> bytes:
    """Return the lines of a ``FEAT`` reply's body, generated from `VERBS`, without ``END``.

    :param auth: whether the connection may use ``AUTH``.
    """
    rows = [b"NATPROXY 2"]
    for verb in VERBS.values():
        if verb.version == 2 and verb.word != b"FEAT" and (auth or verb.word != AUTH):
            rows.append(b" ".join((verb.word, *verb.keys)))
    return b"".join(row + b"\n" for row in rows)


def _written(value: object) -> bytes:
    if isinstance(value, bytes):
        return encode_name(value)
    return str(value).encode("utf-8", "surrogateescape")


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode("ascii")
