"""The members of records as texts for people."""

from __future__ import annotations

import unicodedata

from natproxy.address import Address
from natproxy.cli.display.text import amount, elapsed, part_of
from natproxy.protocol import WireError, decode_name, printable
from natproxy.records.record import Record

NONE = "-"
"""In a column of a record that lacks the member."""


def name_text(record: Record, limit: int = 1024) -> str:
    """Return the decoded and printable name of a record's file; empty if there is none.

    Of a command that names several files, it is the first name and the number of the others.

    :param limit: maximal length of a name, in characters.
    """
    word = (record.name or "").encode("utf-8", "surrogatepass")
    try:
        name = printable(decode_name(word), limit)
    except WireError:
        # An empty or malformed word is shown as it is.
        name = printable(word, limit)
    if record.files is None:
        return name
    return f"{name} and {others_text(record.files)}"


def others_text(files: int) -> str:
    """Return how many files a command names besides the first one: ``511 others``."""
    return f"{files - 1} {'other' if files == 2 else 'others'}"


def command_text(record: Record) -> str:
    """Return verb and name of a command."""
    verb = shown(record.verb)
    name = name_text(record)
    return f"{verb} {name}" if name else verb


def address_text(host: str | None, port: int | None) -> str:
    """Return ``HOST:PORT``, or what there is of it."""
    if host is None:
        return NONE
    host = shown(host)
    return host if port is None else str(Address(host, port))


def number_text(record: Record, several: bool) -> str:
    """Return the number of a translation as ``natproxy kill`` takes it: ``3``, or ``1:3``.

    :param several: whether there are several workers, each with numbers of its own.
    """
    number = shown(record.serial)
    return f"{record.worker}:{number}" if several or record.worker else number


def client_text(record: Record) -> str:
    """Return the address of the client, and its identity if it has one."""
    text = address_text(record.client, record.client_port)
    return text if record.identity is None else f"{text} ({shown(record.identity)})"


def bytes_text(record: Record) -> str:
    """Return how many bytes were passed on, of how many if that is known and more."""
    if record.bytes is None:
        return NONE
    if record.promised is not None and record.promised > record.bytes:
        return part_of(record.bytes, record.promised)
    return amount(record.bytes)


def promised_text(record: Record) -> str:
    """Return the size of the body that was promised."""
    return NONE if record.promised is None else amount(record.promised)


def duration_text(record: Record) -> str:
    """Return the duration of a record's command."""
    return NONE if record.duration is None else precise(record.duration)


def precise(seconds: float) -> str:
    """Return a duration; below a second in milliseconds: ``3ms``."""
    return f"{seconds * 1000:.0f}ms" if 0 <= seconds < 0.0995 else elapsed(max(0.0, seconds))


def seconds_of(time: str) -> str:
    """Return a local time without the fraction of its second: ``2026-11-26 14:03:07 +01:00``."""
    return time if len(time) < 26 else f"{time[:19]} {time[-6:]}"


def shown(value: object) -> str:
    """Return a value of any member as printable text."""
    if value is None:
        return NONE
    return printable(str(value).encode("utf-8", "surrogatepass"))


def width(text: str) -> int:
    """Return the columns of a terminal that a printable text takes."""
    if text.isascii():
        return len(text)
    return sum(map(_width, text))


def fitted(text: str, columns: int, right: bool = False) -> str:
    """Return a text with exactly this many columns, cut or padded.

    :param right: whether it is aligned to the right.
    """
    taken = width(text)
    if taken > columns:
        text, taken = _cut(text, columns)
    pad = " " * (columns - taken)
    return pad + text if right else text + pad


def _cut(text: str, columns: int) -> tuple[str, int]:
    """Return the beginning of a text and a dot for each column that is left, three at most."""
    dots = min(3, columns)
    taken = 0
    kept = []
    for character in text:
        if taken + _width(character) > columns - dots:
            break
        taken += _width(character)
        kept.append(character)
    return "".join(kept) + "." * dots, taken + dots


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
