"""The replies of a file server to one command each, which tests play byte by byte."""

from __future__ import annotations

from natproxy.metadata import FILE, Metadata
from natproxy.protocol import (
    VERBS,
    Framing,
    Refusal,
    format_range,
    parse_arguments,
    parse_command,
)
from natproxy.protocol.metadata import range_of

CONTENT = bytes(range(65, 91))

REPLIES = {
    b"LIST": b"OK\na\nb\nEND\n",
    b"DOWNLOAD a": b"OK %d\n" % len(CONTENT) + CONTENT,
    b"STAT a": b"OK type=file size=26 mtime=1.0 etag=tag\n",
    b"LS": b"OK 11\nsome lines\n",
    b"PACK a": b"OK 9\nrecord..\n",
    b"HASH a": b"OK sha256=abc size=26 etag=tag\n",
    b"FEAT": b"OK\nNATPROXY 2\nGET offset length if-match\nEND\n",
    b"GET b": b"ERR 404 file not found\n",
}
"""Whole replies, but for ``GET a``."""


def reply_to(line: bytes, content: bytes = CONTENT, etag: str = "tag") -> bytes:
    """Return the whole reply to a command."""
    if line in REPLIES:
        return REPLIES[line]
    command = parse_command(line)
    assert command is not None
    assert command.verb == b"GET", line
    arguments = parse_arguments(command)
    try:
        part = range_of(Metadata(FILE, len(content), 10**9, etag), arguments)
    except Refusal as refusal:
        return f"ERR {refusal.code} {refusal.message}\n".encode("ascii")
    return format_range(part) + content[part.offset : part.offset + part.length]


def passed_on(line: bytes) -> bytes:
    """Return the whole reply as a proxy passes it on."""
    reply = reply_to(line)
    return reply if line != b"FEAT" else reply.replace(b"END", b"VIA natproxy/2.1\nEND")


def header_of(line: bytes, reply: bytes) -> int:
    """Return the bytes of a reply before which nothing of it is passed on."""
    if VERBS[line.split()[0]].framing is Framing.LISTING and line == b"FEAT":
        return len(reply)
    return reply.index(b"\n") + 1
